"""The committed turns of one episode, twenty bytes each: a server holds many episodes."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import Final

from chatenv_client.models import Origin, StopReason, Turn

_COLUMNS: Final = 5
"""Length, step, first message, message count, kind."""
_TEMPLATE: Final = 0
"""The kind of a turn that the template wrote. Sampled ones have an odd kind: stop reason, and whether with logprobs."""
_STOP_REASONS: Final = tuple(StopReason)


class TurnTable:
    """An append-only table. Turns are contiguous, so where one starts follows from the lengths before it."""

    __slots__ = ("_model_versions", "_rewards", "_rows")

    def __init__(self) -> None:
        self._rows = array("i")
        self._rewards: dict[int, float] = {}
        self._model_versions: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._rows) // _COLUMNS

    def __iter__(self) -> Iterator[Turn]:
        start = 0
        for index in range(len(self)):
            turn = self._turn(index, start)
            yield turn
            start = turn.stop

    def _turn(self, index: int, start: int) -> Turn:
        length, step, first_message, message_count, kind = self._rows[index * _COLUMNS : (index + 1) * _COLUMNS]
        return Turn(
            Origin.TEMPLATE if kind == _TEMPLATE else Origin.SAMPLED,
            start,
            length,
            step,
            first_message,
            message_count,
            None if kind == _TEMPLATE else _STOP_REASONS[kind >> 2],
            self._model_versions.get(index, ""),
            self._rewards.get(index),
            bool(kind & 2),
        )

    def add_template(
        self, length: int, step: int, first_message: int, message_count: int, reward: float | None
    ) -> None:
        """Add what the template wrote."""
        if reward is not None:
            self._rewards[len(self)] = reward
        self._rows.extend((length, step, first_message, message_count, _TEMPLATE))

    def add_sampled(
        self,
        length: int,
        step: int,
        first_message: int,
        message_count: int,
        stop_reason: StopReason,
        *,
        has_logprobs: bool,
        model_version: str,
    ) -> None:
        """Add a sampled span."""
        if model_version:
            versions = self._model_versions
            # Most turns have the version of the turn before: one text for all of them.
            known = next(reversed(versions.values()), "")
            versions[len(self)] = known if known == model_version else model_version
        kind = 1 | has_logprobs << 1 | _STOP_REASONS.index(stop_reason) << 2
        self._rows.extend((length, step, first_message, message_count, kind))

    def reward_last(self, reward: float) -> None:
        """Book a reward on the last turn."""
        self._rewards[len(self) - 1] = reward

    def truncate(self, count: int) -> None:
        """Take back all but the first `count` turns."""
        for index in range(count, len(self)):
            self._rewards.pop(index, None)
            self._model_versions.pop(index, None)
        del self._rows[count * _COLUMNS :]
