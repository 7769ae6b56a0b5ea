"""Whether an episode's tokens can be trusted: what is to be said of them at a glance, worst first."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import Final, Literal, NamedTuple

import numpy as np

from chatenv_client.models import FidelityKind, Origin, Segment, StopReason, Trajectory, Turn

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


def level_of(kind: FidelityKind) -> Level:
    """How bad a kind of report is."""
    return "bad" if kind in _HARMFUL else "note"


def findings_of(trajectory: Trajectory) -> list[Finding]:
    """What is to be said of an episode's tokens, worst first."""
    found = [
        *_of_the_end(trajectory),
        *_of_reports(trajectory),
        *_of_sampled_tokens(trajectory),
        *_of_turns([turn for segment in trajectory.segments for turn in segment.turns]),
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
    lacking = sum(int((segment.loss_mask & ~segment.has_logprob).sum()) for segment in trajectory.segments)
    if lacking == trained:
        yield Finding("note", "No logprobs were given.")
    elif lacking:
        yield Finding("bad", f"{lacking:,} of {trained:,} sampled tokens have no logprob.")
    odd = sum(_count_of_odd(segment) for segment in trajectory.segments)
    if odd:
        yield Finding("bad", f"{odd:,} logprobs are no finite number, or above 0.")
    if not lacking and not odd:
        yield Finding("good", f"All {trained:,} sampled tokens have a logprob.")


def _count_of_odd(segment: Segment) -> int:
    given = segment.logprobs[segment.has_logprob & segment.loss_mask]
    return int((~np.isfinite(given) | (given > 0)).sum())


def _of_turns(turns: list[Turn]) -> Iterator[Finding]:
    sampled = [turn for turn in turns if turn.origin is Origin.SAMPLED]
    cut = sum(turn.stop_reason is StopReason.LENGTH for turn in sampled)
    if cut:
        yield Finding("note", f"{_turns(cut)} cut off by the sampler's length limit.")
    aborted = sum(turn.stop_reason is StopReason.ABORT for turn in sampled)
    if aborted:
        yield Finding("note", f"{_turns(aborted)} aborted.")
    forced = sum(sum(turn.sampled_runs[::2]) for turn in sampled)
    if forced:
        yield Finding("note", f"{forced:,} tokens were forced on the model, and are masked out.")
    versions = tokens_by_version(sampled)
    if len(versions) > 1:
        said = ", ".join(f"{version or 'no version'} ({count:,})" for version, count in versions.items())
        yield Finding("note", f"Sampled by {len(versions)} weight versions: {said}.")


def _turns(count: int) -> str:
    return "1 turn was" if count == 1 else f"{count} turns were"


def tokens_by_version(turns: list[Turn]) -> dict[str, int]:
    """How many tokens each version of the weights sampled, in the order in which they came."""
    counts: dict[str, int] = {}
    for turn in turns:
        for version, length in turn.model_version_runs or ((turn.model_version, turn.length),):
            counts[version] = counts.get(version, 0) + length
    return counts
