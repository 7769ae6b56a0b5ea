"""Makes the changes of one transaction in a SQLite file, with few statements.

Where an episode stands is read once; changes are made on that, and what they come to is written once, at the end.
Nobody else writes meanwhile.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import Final

from chatenv_server.stores.checksum import checksum
from chatenv_server.stores.store import ANSWERS_KEPT_S, Append, Begin, Change, Finish, Summary, Touch

REMEMBERED_ENDS: Final = 8192
"""Ended episodes whose end is remembered: the latest; somewhat fewer where an id ends more than once."""

_READ: Final = """
SELECT episodes.id, number, run, version, last_entry, held_tokens, last_used
FROM json_each(?) AS asked CROSS JOIN episodes ON episodes.id = asked.value
"""

_ADD: Final = """
INSERT INTO episodes (
    id, run, version, last_entry, step_count, token_count, held_tokens, message_count, created, last_used,
    terminated, truncated, metadata_json, failed, number
) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""

_CHANGE: Final = """
UPDATE episodes SET
    version = ?, last_entry = ?, step_count = ?, token_count = ?, held_tokens = ?, message_count = ?, created = ?,
    last_used = ?, terminated = ?, truncated = ?, metadata_json = ?, failed = ?
WHERE number = ?
"""

_ADD_ENTRY: Final = "INSERT INTO entries (number, previous, checksum, entry) VALUES (?, ?, ?, ?)"

_TOUCH: Final = "UPDATE episodes SET last_used = ? WHERE number = ? AND last_used < ?"

_DROP_ENTRIES: Final = """
WITH RECURSIVE journal (number, previous, place) AS (
    SELECT number, previous, 1 FROM entries WHERE number = :last
    UNION ALL
    SELECT entries.number, entries.previous, place + 1
    FROM journal JOIN entries ON entries.number = journal.previous WHERE place < :version
)
DELETE FROM entries WHERE number IN (SELECT number FROM journal)
"""

_END: Final = """
REPLACE INTO ended (id, run, version, last_used, how)
SELECT id, run, version, last_used, ? FROM episodes WHERE number = ?
"""

_FORGET_ENDS: Final = "DELETE FROM ended WHERE number <= (SELECT max(number) FROM ended) - ?"

_KEEP_ANSWER: Final = "REPLACE INTO answers (id, at, answer) VALUES (?, ?, ?)"

_FORGET_ANSWERS: Final = "DELETE FROM answers WHERE at < ?"

_COUNT: Final = "UPDATE totals SET episodes = episodes + ?, held_tokens = held_tokens + ?"


class SqliteTransaction:
    """Changes within a transaction that was begun; `finish` writes what is left to write, and the caller commits."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._heads: dict[str, _Head] = {}
        self._entries: list[tuple[int, int | None, int, bytes]] = []
        self._unwritten: dict[str, _Head] = {}
        self._next_entry = self._after_all("SELECT max(number) FROM entries")
        self._next_episode = 0
        self._episodes_more = 0
        self._held_more = 0
        self._last_end = 0.0
        """Of the ends among the changes, in seconds since 1970; 0: there are none."""
        self._refused: set[str] = set()
        """Runs that an entry was refused of."""

    def make(self, changes: Sequence[Change]) -> list[bool]:
        """Make changes, once in a transaction; of each, whether it took place."""
        self._read({change.episode_id for change in changes})
        return [self._make(change) for change in changes]

    def finish(self) -> None:
        """Write what the changes come to."""
        self._flush()
        self._connection.execute(_COUNT, (self._episodes_more, self._held_more))
        if self._last_end:
            self._connection.execute(_FORGET_ENDS, (REMEMBERED_ENDS,))
            self._connection.execute(_FORGET_ANSWERS, (self._last_end - ANSWERS_KEPT_S,))

    def _make(self, change: Change) -> bool:
        head = self._heads.get(change.episode_id)
        if isinstance(change, Append):
            return self._append(head, change)
        if isinstance(change, Begin):
            return (head is None or change.replaces) and self._begin(head, change)
        if isinstance(change, Finish):
            return head is not None and head.is_meant_by(change) and self._end(head, change)
        if head is not None and head.run == change.run:
            self._touch(head, change)
        return True

    def _append(self, head: _Head | None, change: Append) -> bool:
        run = change.follows.run
        is_there = head is not None and (head.run, head.version) == change.follows
        if head is None or not is_there or (change.continues and run in self._refused):
            self._refused.add(run)
            return False
        self._add_entry(head, change.entry)
        self._sum_up(change.episode_id, head, change.summary)
        return True

    def _begin(self, old: _Head | None, change: Begin) -> bool:
        if old is not None:
            self._drop(old)
        self._connection.execute("DELETE FROM ended WHERE id = ?", (change.episode_id,))
        self._connection.execute("DELETE FROM answers WHERE id = ?", (change.episode_id,))
        head = _Head(self._new_number(), change.run, 0, None, 0, 0.0)
        head.written = False
        for entry in change.entries:
            self._add_entry(head, entry)
        self._sum_up(change.episode_id, head, change.summary)
        self._heads[change.episode_id] = head
        self._episodes_more += 1
        return True

    def _end(self, head: _Head, change: Finish) -> bool:
        self._flush()
        self._connection.execute(_END, (change.end.value, head.number))
        self._drop(head)
        del self._heads[change.episode_id]
        if change.answer:
            self._connection.execute(_KEEP_ANSWER, (change.episode_id, change.at, change.answer))
        self._last_end = max(self._last_end, change.at)
        return True

    def _touch(self, head: _Head, change: Touch) -> None:
        self._flush()
        self._connection.execute(_TOUCH, (change.last_used, head.number, change.last_used))
        head.last_used = max(head.last_used, change.last_used)

    def _add_entry(self, head: _Head, entry: bytes) -> None:
        self._entries.append((self._next_entry, head.last_entry, checksum(head.run, head.version, entry), entry))
        head.last_entry = self._next_entry
        head.version += 1
        self._next_entry += 1

    def _sum_up(self, episode_id: str, head: _Head, summary: Summary) -> None:
        self._held_more += summary.held_tokens - head.held_tokens
        head.held_tokens, head.last_used = summary.held_tokens, summary.last_used
        head.summary = summary
        self._unwritten[episode_id] = head

    def _drop(self, head: _Head) -> None:
        """Take a live episode's journal away."""
        self._flush()
        if head.version:
            self._connection.execute(_DROP_ENTRIES, {"last": head.last_entry, "version": head.version})
        self._connection.execute("DELETE FROM episodes WHERE number = ?", (head.number,))
        self._episodes_more -= 1
        self._held_more -= head.held_tokens

    def _read(self, episode_ids: set[str]) -> None:
        """Read where episodes stand, all in one statement."""
        for episode_id, *head in self._connection.execute(_READ, (json.dumps(list(episode_ids)),)):
            self._heads[episode_id] = _Head(*head)

    def _flush(self) -> None:
        """Write the entries and the heads that are not written yet."""
        if not self._unwritten:
            return
        new = [(i, h.run, *h.columns(), h.number) for i, h in self._unwritten.items() if not h.written]
        old = [(*h.columns(), h.number) for h in self._unwritten.values() if h.written]
        self._connection.executemany(_ADD_ENTRY, self._entries)
        self._connection.executemany(_ADD, new)
        self._connection.executemany(_CHANGE, old)
        for head in self._unwritten.values():
            head.written = True
        self._entries.clear()
        self._unwritten.clear()

    def _new_number(self) -> int:
        self._next_episode = self._next_episode or self._after_all("SELECT max(number) FROM episodes")
        self._next_episode += 1
        return self._next_episode - 1

    def _after_all(self, greatest: str) -> int:
        return int(self._connection.execute(greatest).fetchone()[0] or 0) + 1


class _Head:
    """A live episode without its entries."""

    __slots__ = ("held_tokens", "last_entry", "last_used", "number", "run", "summary", "version", "written")

    def __init__(
        self, number: int, run: str, version: int, last_entry: int | None, held_tokens: int, last_used: float
    ) -> None:
        self.number = number
        self.run = run
        self.version = version
        self.last_entry = last_entry
        self.held_tokens = held_tokens
        self.last_used = last_used
        self.summary = Summary()
        """What to write; of no meaning where nothing was changed."""
        self.written = True
        """Whether the file has a row of it."""

    def is_meant_by(self, change: Finish) -> bool:
        """Whether it is as the end of it says."""
        is_as_read = change.version in (None, self.version)
        return self.run == change.run and is_as_read and self.last_used <= change.unused_since

    def columns(self) -> tuple[object, ...]:
        """All that a change rewrites."""
        return self.version, self.last_entry, *self.summary
