"""What is recorded of each shape, within bounds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

from chatenv_server.bounded_cache import BoundedCache

RecordingT = TypeVar("RecordingT")

MOST_SHAPES: Final = 256
"""Shapes that are kept. Callers choose roles and keys, so there must be a bound."""
MOST_RECORDINGS: Final = 8
"""Renders of one shape that are recorded. A template that decides otherwise every time is left alone."""


@dataclass(slots=True)
class Known(Generic[RecordingT]):
    """What is known of one shape."""

    recordings: list[RecordingT] = field(default_factory=list)
    meetings: int = 0
    """How often it was met where no recording could be used."""

    def learn(self, record: Callable[[], RecordingT | None]) -> None:
        """Record, unless the shape is met for the first time, and most are never met again, or enough was tried."""
        self.meetings += 1
        if 1 < self.meetings <= MOST_RECORDINGS + 1:
            recording = record()
            if recording is not None:
                self.recordings.append(recording)


class Recordings(Generic[RecordingT]):
    """What is known, by shape. Safe for threads: at worst something is recorded twice."""

    def __init__(self) -> None:
        self._known: BoundedCache[Any, Known[RecordingT]] = BoundedCache(MOST_SHAPES)

    def of(self, shape: Any) -> Known[RecordingT]:
        """What is known of a shape; empty for a new one."""
        return self._known.get_or_put(shape, Known)

    def all(self) -> list[Known[RecordingT]]:
        """What is known of every shape that is kept."""
        return self._known.values()
