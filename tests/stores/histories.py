"""What callers saw of episodes, and whether one order of their calls explains it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from chatenv_client import ChatAction
from chatenv_server import ChatEnvironment
from chatenv_server.engine import TokenEngine

HELLO = {"role": "user", "content": "Hello!"}


@dataclass(frozen=True)
class Seen:
    """A call that was answered."""

    run: str
    """Which opening of the episode's id it saw: named by its metadata."""
    position: int
    """The step count that it was answered with; 0: it is the opening."""
    fingerprint: str
    """Of the stream that it was answered with."""
    tokens: tuple[int, ...] | None
    """What it sampled; an empty tuple: it opened the run. None: it changed nothing."""
    called: float
    answered: float


def contradictions(engine: TokenEngine, seen: Iterable[Seen]) -> list[str]:
    """Why no order of the calls on one episode id explains what they saw; empty: one does."""
    runs: dict[str, list[Seen]] = {}
    for call in seen:
        runs.setdefault(call.run, []).append(call)
    found = [fault for calls in runs.values() for fault in _within(engine, calls)]
    return found + list(_between(list(runs.values())))


def _within(engine: TokenEngine, calls: Sequence[Seen]) -> Iterable[str]:
    """Calls of one run: each position was taken once, streams are what the steps make, time goes one way."""
    by_position: dict[int, set[tuple[int, ...]]] = {}
    for call in calls:
        if call.tokens is not None:
            by_position.setdefault(call.position, set()).add(call.tokens)
    for position, payloads in by_position.items():
        if len(payloads) > 1:
            yield f"run {calls[0].run}: step {position} was taken by {len(payloads)} different Steps"
    yield from _streams(engine, calls)
    for one in calls:
        for other in calls:
            if one.answered < other.called and one.position > other.position and not _is_repeated(other, calls):
                yield f"run {one.run}: step {other.position} was called after step {one.position} was answered"


def _is_repeated(call: Seen, calls: Sequence[Seen]) -> bool:
    """Whether it only repeats a Step that was called before."""
    return call.tokens is not None and any(
        other is not call and other.tokens == call.tokens and other.called < call.called for other in calls
    )


def _streams(engine: TokenEngine, calls: Sequence[Seen]) -> Iterable[str]:
    """As far as no step is unknown, each answer shows the stream that the steps before it make."""
    taken = {call.position: call.tokens for call in calls if call.tokens}
    environment = ChatEnvironment(engine)
    fingerprint = environment.reset(messages=[HELLO], clock=0.0).fingerprint()
    for position in range(max(call.position for call in calls) + 1):
        if position and position not in taken:
            return  # the caller of this step never heard of it
        if position:
            fingerprint = environment.step(ChatAction(tokens=taken[position])).fingerprint()
        for call in calls:
            if call.position == position and call.fingerprint != fingerprint:
                yield f"run {call.run}: an answer to step {position} shows another stream than the steps make"


def _between(runs: Sequence[Sequence[Seen]]) -> Iterable[str]:
    """Of two runs of one id, one is over before the other is seen."""
    for one in runs:
        for other in runs:
            # One was there before the other was asked for, and is seen again after the other was.
            is_before = min(call.answered for call in one) < min(call.called for call in other)
            if is_before and max(call.called for call in one) > min(call.answered for call in other):
                yield f"run {one[0].run} was seen again after run {other[0].run} had taken its place"
