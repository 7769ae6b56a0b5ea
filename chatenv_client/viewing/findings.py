"""Whether an episode's tokens can be trusted: what is to be said of them at a glance, worst first."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Literal, NamedTuple

import numpy as np

from chatenv_client.models import FidelityKind, Origin, Segment, StopReason, Trajectory, Turn
from chatenv_client.tokens import BoolArray

Level = Literal["good", "note", "bad"]

_HARMFUL: Final = {
    FidelityKind.MESSAGE_DROPPED,
    FidelityKind.NONCANONICAL_STOP,
    FidelityKind.TEXT_AFTER_STOP,
    FidelityKind.TOOL_RESULT_UNMATCHED,
}
"""Reports after which the model was taught, or asked, what nobody meant."""


class Finding(NamedTuple):
    """One thing to know of an episode's tokens."""

    level: Level
    text: str
    kind: str = ""
    """Kind of the reports that it sums up; empty: of none."""
    turns: tuple[tuple[int, int], ...] = ()
    """(segment, turn) of each turn in which it arose; empty: it is of the whole."""


def level_of(kind: FidelityKind) -> Level:
    """How bad a kind of report is."""
    return "bad" if kind in _HARMFUL else "note"


def findings_of(trajectory: Trajectory) -> list[Finding]:
    """What is to be said of an episode's tokens, worst first."""
    found = [
        *_of_the_end(trajectory),
        *_of_reports(trajectory),
        *_of_sampled_tokens(trajectory),
        *_of_turns(trajectory),
    ]
    return sorted(found, key=lambda finding: ("bad", "note", "good").index(finding.level))


def _of_the_end(trajectory: Trajectory) -> Iterator[Finding]:
    if trajectory.failure is not None:
        yield Finding("bad", f"It failed ({trajectory.failure.kind}): it is no example, whatever its turns earned.")
    elif trajectory.reward is None:
        yield Finding("note", "Nobody has rewarded it: it is no example yet.")
    elif not math.isfinite(trajectory.reward):
        yield Finding("bad", "Its reward is no finite number.")
    if len(trajectory.segments) > 1:
        count = len(trajectory.segments)
        yield Finding("note", f"Its history changed: {count} segments, each exactly what the model saw.")


def _of_reports(trajectory: Trajectory) -> Iterator[Finding]:
    counts = Counter(report.kind for report in trajectory.fidelity)
    for kind, count in counts.items():
        yield Finding(level_of(kind), f"{count} × {kind.name}", kind.value)
    if not counts:
        yield Finding("good", "Every step was exact: no reports.")


def _of_sampled_tokens(trajectory: Trajectory) -> Iterator[Finding]:
    trained = sum(int(segment.loss_mask.sum()) for segment in trajectory.segments)
    if not trained:
        yield Finding("bad", "Nothing was sampled: there is nothing to train on.")
        return
    lacking = sum(int(_lacking(segment).sum()) for segment in trajectory.segments)
    if lacking == trained:
        yield Finding("note", "No logprobs were given.")
    elif lacking:
        said = f"{lacking:,} of {trained:,} sampled tokens have no logprob."
        yield Finding("bad", said, turns=_turns_of(trajectory, _lacking))
    odd = sum(int(_odd(segment).sum()) for segment in trajectory.segments)
    if odd:
        said = f"{odd:,} logprobs are no finite number, or above 0."
        yield Finding("bad", said, turns=_turns_of(trajectory, _odd))
    if not lacking and not odd:
        yield Finding("good", f"All {trained:,} sampled tokens have a logprob.")


def _lacking(segment: Segment) -> BoolArray:
    """(T,) which tokens should have a logprob."""
    return segment.loss_mask & ~segment.has_logprob


def _odd(segment: Segment) -> BoolArray:
    """(T,) which logprobs are none that a model gives."""
    given = segment.has_logprob & segment.loss_mask
    return given & (~np.isfinite(segment.logprobs) | (segment.logprobs > 0))


def _turns_of(trajectory: Trajectory, chosen: Callable[[Segment], BoolArray]) -> tuple[tuple[int, int], ...]:
    """The turns of the tokens that are chosen."""
    return tuple(
        (number, turn)
        for number, segment in enumerate(trajectory.segments)
        for turn in np.unique(segment.turn[chosen(segment)]).tolist()
    )


def _of_turns(trajectory: Trajectory) -> Iterator[Finding]:
    sampled = {
        (number, place): turn
        for number, segment in enumerate(trajectory.segments)
        for place, turn in enumerate(segment.turns)
        if turn.origin is Origin.SAMPLED
    }
    cut = tuple(place for place, turn in sampled.items() if turn.stop_reason is StopReason.LENGTH)
    if cut:
        yield Finding("note", f"{_told(cut)} cut off by the sampler's length limit.", turns=cut)
    aborted = tuple(place for place, turn in sampled.items() if turn.stop_reason is StopReason.ABORT)
    if aborted:
        yield Finding("note", f"{_told(aborted)} aborted.", turns=aborted)
    forced = {place: sum(turn.sampled_runs[::2]) for place, turn in sampled.items() if sum(turn.sampled_runs[::2])}
    if forced:
        said = f"{sum(forced.values()):,} tokens were forced on the model, and are masked out."
        yield Finding("note", said, turns=tuple(forced))
    versions = tokens_by_version(sampled.values())
    if len(versions) > 1:
        said = ", ".join(f"{version or 'no version'} ({count:,})" for version, count in versions.items())
        yield Finding("note", f"Sampled by {len(versions)} weight versions: {said}.")


def _told(turns: tuple[tuple[int, int], ...]) -> str:
    return "1 turn was" if len(turns) == 1 else f"{len(turns)} turns were"


def tokens_by_version(turns: Iterable[Turn]) -> dict[str, int]:
    """How many tokens each version of the weights sampled, in the order in which they came."""
    counts: dict[str, int] = {}
    for turn in turns:
        for version, length in turn.model_version_runs or ((turn.model_version, turn.length),):
            counts[version] = counts.get(version, 0) + length
    return counts
