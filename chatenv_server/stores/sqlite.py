"""Episodes in a SQLite file: they survive the process, and several processes of one machine share them."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import quote

from chatenv_client.errors import StoreUnavailableError
from chatenv_server.stores.checksum import checksum
from chatenv_server.stores.damage import damaged
from chatenv_server.stores.group_commit import Apply, GroupCommit
from chatenv_server.stores.paging import MOST_LOOKED_AT, Use, chosen, use_after
from chatenv_server.stores.sqlite_file import open_connection, patiently, told_as_unavailable
from chatenv_server.stores.sqlite_transaction import SqliteTransaction
from chatenv_server.stores.store import (
    ANSWERS_KEPT_S,
    Change,
    End,
    Journal,
    Listed,
    Place,
    Standing,
    Summary,
    Totals,
)

PATIENCE_S: Final = 5.0
"""Seconds that a call waits for a file that another process holds locked."""

_STANDING: Final = """
SELECT run, version, last_used, NULL FROM episodes WHERE id = :id
UNION ALL
SELECT run, version, last_used, how FROM ended WHERE id = :id
"""

_SUMMARY: Final = """
SELECT step_count, token_count, held_tokens, message_count, created, last_used, terminated, truncated, metadata_json,
    failed
FROM episodes WHERE id = ?
"""

_HEAD: Final = "SELECT run, version, last_entry FROM episodes WHERE id = ?"

_ENTRIES: Final = """
WITH RECURSIVE journal (number, previous, place) AS (
    SELECT number, previous, 1 FROM entries WHERE number = :last
    UNION ALL
    SELECT entries.number, entries.previous, place + 1
    FROM journal JOIN entries ON entries.number = journal.previous WHERE place < :version
)
SELECT checksum, entry FROM journal JOIN entries USING (number) ORDER BY place DESC
"""

_USES: Final = """
SELECT last_used, id FROM episodes WHERE (last_used, id) < (?, ?) ORDER BY last_used DESC, id DESC LIMIT ?
"""

_ANSWER: Final = "SELECT answer FROM answers WHERE id = ? AND at >= ?"

_IDLE: Final = "SELECT id, run FROM episodes WHERE last_used < ? ORDER BY last_used, id LIMIT ?"


class SqliteStore:
    """Journals in a SQLite file, in its WAL mode. Safe to use from many threads and processes of one machine.

    A network's file system is no place for the file. With `synchronous="NORMAL"` what was acknowledged survives the
    death of the process; with `FULL` the machine's as well, for an fsync each commit. The file keeps its size when
    episodes end, and is filled again. A store that was opened before a `fork()` must not be used after it: open one in
    the child.
    """

    keeps = True

    def __init__(
        self, path: str | Path, synchronous: Literal["NORMAL", "FULL"] = "NORMAL", *, patience_s: float = PATIENCE_S
    ) -> None:
        """Open the file, and make it where there is none.

        Raises:
            StoreUnavailableError: it can't be opened, or a later release's layout is in it.
        """
        self._path = Path(path).absolute()
        self.name = f"sqlite://{quote(str(self._path))}"
        self._synchronous = synchronous
        self._patience_s = patience_s
        self._group = GroupCommit(self._transaction)
        self._writing: sqlite3.Connection | None = None  # of the thread that leads the group
        self._reading: list[sqlite3.Connection] = []  # that no thread uses now
        self._file: os.stat_result | None = None
        self._closed = False
        self.check()
        self._file = self._path.stat()

    def write(self, changes: Sequence[Change]) -> list[bool]:
        """As the protocol says."""
        return self._group.write(changes)

    def standing(self, episode_id: str) -> Standing | None:
        """As the protocol says."""
        with self._reader() as connection:
            row = connection.execute(_STANDING, {"id": episode_id}).fetchone()
        if row is None:
            return None
        run, version, last_used, how = row
        return Standing(Place(run, version), last_used, End(how) if how else None)

    def load(self, episode_id: str) -> Journal | None:
        """As the protocol says."""
        with self._reader() as connection, _snapshot(connection):
            head = connection.execute(_HEAD, (episode_id,)).fetchone()
            if head is None:
                return None
            run, version, last = head
            summary = _summary(connection, episode_id)
            rows = _entries(connection, episode_id, version, last)
        for before, (kept, entry) in enumerate(rows):
            if not isinstance(entry, bytes) or checksum(run, before, entry) != kept:
                raise damaged(episode_id, f"entry {before + 1} of {version} is not as it was written")
        return Journal(Place(run, version), [entry for _, entry in rows], summary)

    def answer(self, episode_id: str) -> bytes:
        """As the protocol says."""
        with self._reader() as connection:
            row = connection.execute(_ANSWER, (episode_id, time.time() - ANSWERS_KEPT_S)).fetchone()
        return b"" if row is None else bytes(row[0])

    def totals(self) -> Totals:
        """As the protocol says."""
        with self._reader() as connection:
            return Totals(*connection.execute("SELECT episodes, held_tokens FROM totals").fetchone())

    def listed(self, prefix: str, after: str, limit: int) -> tuple[Sequence[Listed], str]:
        """As the protocol says."""
        looked_at = MOST_LOOKED_AT if prefix else min(limit, MOST_LOOKED_AT)
        start = use_after(after)
        with self._reader() as connection, _snapshot(connection):
            uses = connection.execute(_USES, (*start, looked_at + 1)).fetchall()
            page, following = chosen([Use(*use) for use in uses], prefix, limit)
            return [Listed(use.episode_id, _summary(connection, use.episode_id)) for use in page], following

    def idle_since(self, moment: float, limit: int) -> Sequence[tuple[str, str]]:
        """As the protocol says."""
        with self._reader() as connection:
            return connection.execute(_IDLE, (moment, limit)).fetchall()

    def check(self) -> None:
        """As the protocol says: writes the totals anew."""
        self.write(())

    def close(self) -> None:
        """Close the file; calls that are running still end well."""
        self._closed = True
        if self._writing is not None:
            self._writing.close()
            self._writing = None
        while (connection := self._idle_reader()) is not None:
            connection.close()

    @contextmanager
    def _transaction(self) -> Iterator[Apply]:
        with told_as_unavailable(self.name):
            self._check_usable()
            connection = self._writing or self._open()
            self._writing = None
            with _closed_on_failure(connection):
                patiently(connection, "BEGIN IMMEDIATE", time.monotonic() + self._patience_s)
                transaction = SqliteTransaction(connection)
                yield transaction.make
                transaction.finish()
                connection.execute("COMMIT")
            self._writing = connection
        if self._closed:
            self.close()

    @contextmanager
    def _reader(self) -> Iterator[sqlite3.Connection]:
        with told_as_unavailable(self.name):
            self._check_usable()
            connection = self._idle_reader() or self._open_reader()
            with _closed_on_failure(connection):
                yield connection
            self._reading.append(connection)
        if self._closed:
            self.close()

    def _idle_reader(self) -> sqlite3.Connection | None:
        try:
            return self._reading.pop()
        except IndexError:
            return None

    def _open_reader(self) -> sqlite3.Connection:
        connection = self._open()
        connection.execute(f"PRAGMA busy_timeout={int(1000 * self._patience_s)}")
        return connection

    def _open(self) -> sqlite3.Connection:
        return open_connection(self._path, self._patience_s, self._synchronous)

    def _check_usable(self) -> None:
        """See that it is open, and that the path names its file still: another one is lost on a restart."""
        if self._closed:
            raise StoreUnavailableError(f"the store {self.name} is closed")
        if self._file is not None and not os.path.samestat(self._file, self._path.stat()):
            raise OSError("its file was replaced")


def _entries(connection: sqlite3.Connection, episode_id: str, version: int, last: int | None) -> list[tuple[int, Any]]:
    try:
        rows: list[tuple[int, Any]] = connection.execute(_ENTRIES, {"last": last, "version": version}).fetchall()
    except sqlite3.DatabaseError as error:
        if "malformed" not in str(error):
            raise
        raise damaged(episode_id, str(error)) from error
    if len(rows) != version:
        raise damaged(episode_id, f"{version} entries were written, {len(rows)} are left")
    return rows


def _summary(connection: sqlite3.Connection, episode_id: str) -> Summary:
    summary = Summary(*connection.execute(_SUMMARY, (episode_id,)).fetchone())
    return summary._replace(
        terminated=bool(summary.terminated), truncated=bool(summary.truncated), failed=bool(summary.failed)
    )


@contextmanager
def _snapshot(connection: sqlite3.Connection) -> Iterator[None]:
    """Have statements see one state of the file."""
    connection.execute("BEGIN")
    yield
    connection.execute("COMMIT")


@contextmanager
def _closed_on_failure(connection: sqlite3.Connection) -> Iterator[None]:
    """Close it, which takes back what it didn't commit: it is not used again after a failure."""
    try:
        yield
    except BaseException:
        connection.close()
        raise
