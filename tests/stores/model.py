"""What a store must do, as plain dictionaries: the model that every store is compared with."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from chatenv_server.stores.store import (
    Append,
    Begin,
    Change,
    End,
    Finish,
    Journal,
    Listed,
    Place,
    Standing,
    Summary,
    Totals,
)


@dataclass
class Kept:
    """A live episode."""

    run: str
    entries: list[bytes]
    summary: Summary

    @property
    def place(self) -> Place:
        return Place(self.run, len(self.entries))

    def is_meant_by(self, change: Finish) -> bool:
        is_as_read = change.version in (None, len(self.entries))
        return self.run == change.run and is_as_read and self.summary.last_used <= change.unused_since


@dataclass
class ModelStore:
    """The protocol of a store, by one thread."""

    live: dict[str, Kept] = field(default_factory=dict)
    ended: dict[str, Standing] = field(default_factory=dict)
    answers: dict[str, bytes] = field(default_factory=dict)

    def write(self, changes: Sequence[Change]) -> list[bool]:
        done: list[bool] = []
        refused: set[str] = set()
        for change in changes:
            run = change.follows.run if isinstance(change, Append) else ""
            goes_with_another = isinstance(change, Append) and change.continues and run in refused
            done.append(not goes_with_another and self._make(change))
            if run and not done[-1]:
                refused.add(run)
        return done

    def _make(self, change: Change) -> bool:
        kept = self.live.get(change.episode_id)
        if isinstance(change, Begin):
            return (kept is None or change.replaces) and self._begin(change)
        if isinstance(change, Append):
            return kept is not None and kept.place == change.follows and self._append(kept, change)
        if isinstance(change, Finish):
            return kept is not None and kept.is_meant_by(change) and self._finish(kept, change)
        if kept is not None and kept.run == change.run:
            later = max(kept.summary.last_used, change.last_used)
            kept.summary = kept.summary._replace(last_used=later)
        return True

    def _begin(self, change: Begin) -> bool:
        self.live[change.episode_id] = Kept(change.run, list(change.entries), change.summary)
        self.ended.pop(change.episode_id, None)
        self.answers.pop(change.episode_id, None)
        return True

    def _append(self, kept: Kept, change: Append) -> bool:
        kept.entries.append(change.entry)
        kept.summary = change.summary
        return True

    def _finish(self, kept: Kept, change: Finish) -> bool:
        self.ended[change.episode_id] = Standing(kept.place, kept.summary.last_used, change.end)
        self.answers[change.episode_id] = change.answer
        del self.live[change.episode_id]
        return True

    def standing(self, episode_id: str) -> Standing | None:
        if kept := self.live.get(episode_id):
            return Standing(kept.place, kept.summary.last_used)
        return self.ended.get(episode_id)

    def load(self, episode_id: str) -> Journal | None:
        kept = self.live.get(episode_id)
        return Journal(kept.place, list(kept.entries), kept.summary) if kept else None

    def answer(self, episode_id: str) -> bytes:
        return self.answers.get(episode_id, b"")

    def totals(self) -> Totals:
        return Totals(len(self.live), sum(kept.summary.held_tokens for kept in self.live.values()))

    def listed(self, prefix: str) -> list[Listed]:
        """All of them, on one page."""
        found = [Listed(i, kept.summary) for i, kept in self.live.items() if i.startswith(prefix)]
        return sorted(found, key=lambda one: (one.summary.last_used, one.episode_id), reverse=True)

    def idle_since(self, moment: float) -> list[tuple[str, str]]:
        """All of them, the one that was idle for longest first."""
        idle = [(k.summary.last_used, i, k.run) for i, k in self.live.items() if k.summary.last_used < moment]
        return [(episode_id, run) for _, episode_id, run in sorted(idle)]


def begin(episode_id: str, *entries: bytes, run: str = "run", at: float = 1.0, held: int = 0) -> Begin:
    """A change that begins a journal."""
    return Begin(episode_id, run, entries, Summary(held_tokens=held, created=at, last_used=at))


def append(
    episode_id: str,
    version: int,
    entry: bytes,
    *,
    run: str = "run",
    at: float = 1.0,
    held: int = 0,
    continues: bool = False,
) -> Append:
    """A change that adds an entry."""
    summary = Summary(held_tokens=held, created=1.0, last_used=at)
    return Append(episode_id, Place(run, version), entry, summary, continues)


def finish(
    episode_id: str,
    *,
    run: str = "run",
    end: End = End.CLOSED,
    at: float | None = None,
    version: int | None = None,
    answer: bytes = b"",
) -> Finish:
    """A change that ends an episode, now if at no other moment."""
    return Finish(episode_id, run, end, time.time() if at is None else at, version=version, answer=answer)
