"""The store that keeps nothing: what is live is what the process holds, and goes with it."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Final, NamedTuple

from chatenv_server.bounded_cache import BoundedCache
from chatenv_server.stores.store import (
    ANSWERS_KEPT_S,
    NOWHERE,
    Change,
    End,
    Finish,
    Journal,
    Listed,
    Standing,
    Totals,
)

REMEMBERED_ENDS: Final = 8192
"""Ended episodes whose end is remembered, so that NOT_FOUND tells closed and expired from unknown."""

MOST_ANSWER_BYTES: Final = 2**27
"""Of last answers, of all episodes together: beyond that, the oldest are forgotten sooner."""


class MemoryStore:
    """Remembers how episodes ended and what was told with that, and nothing else."""

    name = "memory"
    keeps = False

    def __init__(self) -> None:
        self._ends: BoundedCache[str, End] = BoundedCache(REMEMBERED_ENDS)
        self._answers = _Answers()

    def write(self, changes: Sequence[Change]) -> list[bool]:
        """Note the ends among the changes."""
        for change in changes:
            if isinstance(change, Finish):
                self._ends.put(change.episode_id, change.end)
                self._answers.keep(change.episode_id, change.answer)
        return [True] * len(changes)

    def standing(self, episode_id: str) -> Standing | None:
        """How an episode ended; None: it is live, unknown, or ended too long ago."""
        end = self._ends.get(episode_id)
        return None if end is None else Standing(NOWHERE, 0.0, end)

    def answer(self, episode_id: str) -> bytes:
        """As the protocol says."""
        return self._answers.of(episode_id)

    def load(self, episode_id: str) -> Journal | None:  # noqa: ARG002 - the protocol's signature
        """Nothing is kept."""
        return None

    def totals(self) -> Totals:
        """Nothing is kept."""
        return Totals(0, 0)

    def listed(self, prefix: str, after: str, limit: int) -> tuple[Sequence[Listed], str]:  # noqa: ARG002
        """Nothing is kept."""
        return (), ""

    def idle_since(self, moment: float, limit: int) -> Sequence[tuple[str, str]]:  # noqa: ARG002
        """Nothing is kept."""
        return ()

    def check(self) -> None:
        """It always answers."""

    def close(self) -> None:
        """There is nothing to give up."""


class _Answer(NamedTuple):
    until: float
    """By the monotonic clock."""
    text: bytes


class _Answers:
    """Last answers by episode, for a while and up to a size; the newest in any case. Safe for threads."""

    def __init__(self) -> None:
        self._answers: dict[str, _Answer] = {}
        """The oldest first."""
        self._size = 0
        self._lock = threading.Lock()

    def keep(self, episode_id: str, answer: bytes) -> None:
        """Keep an answer in the place of the one before of this episode; an empty one is none."""
        now = time.monotonic()
        with self._lock:
            self._forget(episode_id)
            if answer:
                self._answers[episode_id] = _Answer(now + ANSWERS_KEPT_S, answer)
                self._size += len(answer)
            while self._answers and (oldest := next(iter(self._answers))) != episode_id:
                if self._size <= MOST_ANSWER_BYTES and now < self._answers[oldest].until:
                    break
                self._forget(oldest)

    def of(self, episode_id: str) -> bytes:
        """The answer of an episode; empty: there is none any more."""
        kept = self._answers.get(episode_id)
        return b"" if kept is None or kept.until < time.monotonic() else kept.text

    def _forget(self, episode_id: str) -> None:
        if (kept := self._answers.pop(episode_id, None)) is not None:
            self._size -= len(kept.text)
