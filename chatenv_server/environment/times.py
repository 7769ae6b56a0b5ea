"""When the steps of one episode came, and when its task answered them: milliseconds since the reset.

The engine knows no clock. When a turn came is found when somebody asks for turns.
"""

from __future__ import annotations

import dataclasses
import time
from array import array
from collections.abc import Sequence
from typing import Final, NamedTuple

from chatenv_client.models import Origin, Segment, Turn

MOST_MS: Final = 2**31 - 1
"""What comes later than this, after some 24 days, came then."""
_NONE: Final = -1


class Moments(NamedTuple):
    """When one step came."""

    at_ms: int = 0
    answered_at_ms: int | None = None
    """When the messages were there that its task answered with; None: there are none."""


class Times:
    """When the steps of one episode came, the opening first: four bytes each, and four more where a task answers.

    Args:
        began_unix_ms: when the reset was, in milliseconds since 1970. 0: not known, and so is no time of a turn.
    """

    __slots__ = ("_answers", "_steps", "began_unix_ms", "last")

    def __init__(self, began_unix_ms: int) -> None:
        self.began_unix_ms = began_unix_ms
        self.last = 0
        """The latest moment; none comes before it, even where the machine's clock was put back."""
        self._steps = array("i")
        self._answers = array("i")
        """By step as far as one was answered."""

    def now(self) -> int:
        """Milliseconds since the reset."""
        passed = unix_ms() - self.began_unix_ms
        if passed > self.last:
            self.last = min(passed, MOST_MS)
        return self.last

    def book(self, moments: Moments) -> None:
        """Book when the next step came."""
        at_ms, answered_at_ms = moments
        self.last = at_ms
        if answered_at_ms is not None:
            self._answers.extend([_NONE] * (len(self._steps) - len(self._answers)))
            self._answers.append(answered_at_ms)
            self.last = answered_at_ms
        self._steps.append(at_ms)

    def of(self, step: int) -> Moments:
        """When a step came that was taken."""
        answered = self._answers[step] if step < len(self._answers) else _NONE
        return Moments(self._steps[step], None if answered == _NONE else answered)

    def on_turns(self, turns: Sequence[Turn]) -> tuple[Turn, ...]:
        """Turns with when they came."""
        if not self.began_unix_ms:
            return tuple(turns)
        return tuple(dataclasses.replace(turn, at_ms=self._came(turn)) for turn in turns)

    def _came(self, turn: Turn) -> int:
        at_ms, answered_at_ms = self.of(turn.step)
        return at_ms if answered_at_ms is None or turn.origin is Origin.SAMPLED else answered_at_ms

    def on_segments(self, segments: Sequence[Segment]) -> tuple[Segment, ...]:
        """Segments whose turns have when they came."""
        return tuple(dataclasses.replace(segment, turns=self.on_turns(segment.turns)) for segment in segments)


def unix_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000
