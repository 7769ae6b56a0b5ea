"""The SQLite file of a store: its tables, its connections, and what its failures mean.

Each entry names the one before it in its journal, and an episode names its last. So entries are written one after
another at the end of their table, whatever episodes they are of, and no index of them is kept.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from chatenv_client.errors import StoreUnavailableError

LAYOUT: Final = 1
"""Version of the tables, kept as `user_version`. A file of a later one is refused."""

_TABLES: Final = """
CREATE TABLE episodes (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    run TEXT NOT NULL,
    version INTEGER NOT NULL,
    last_entry INTEGER,
    step_count INTEGER NOT NULL,
    token_count INTEGER NOT NULL,
    held_tokens INTEGER NOT NULL,
    message_count INTEGER NOT NULL,
    created REAL NOT NULL,
    last_used REAL NOT NULL,
    terminated INTEGER NOT NULL,
    truncated INTEGER NOT NULL,
    metadata_json TEXT NOT NULL,
    failed INTEGER NOT NULL
);
CREATE INDEX episodes_by_use ON episodes (last_used, id);
CREATE TABLE entries (
    number INTEGER PRIMARY KEY,
    previous INTEGER,
    checksum INTEGER NOT NULL,
    entry BLOB NOT NULL
);
CREATE TABLE ended (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    run TEXT NOT NULL,
    version INTEGER NOT NULL,
    last_used REAL NOT NULL,
    how TEXT NOT NULL
);
CREATE TABLE answers (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    at REAL NOT NULL,
    answer BLOB NOT NULL
);
CREATE INDEX answers_by_age ON answers (at);
CREATE TABLE totals (episodes INTEGER NOT NULL, held_tokens INTEGER NOT NULL);
INSERT INTO totals VALUES (0, 0);
"""

_CHECKPOINT_PAGES: Final = 4096
"""Pages of 4 KiB in the log after which SQLite writes them back: each time costs a few fsyncs."""

_CACHE_KIB: Final = -8192
"""Of a connection; negative says that it isn't pages."""

_ADVICE: Final = {
    "locked": "another process holds it for too long; see what it is, and try again",
    "disk is full": "free some space, and try again",
    "readonly": "make the file and its folder writable for this user",
    "unable to open": "its folder must exist, and be writable for this user",
    "disk I/O error": "free some space or mend the disk (the system's log says which), and try again",
    "malformed": "the file is damaged: restore it from a backup, or move it away",
    "not a database": "this is another file, or it is damaged: restore it from a backup, or give another path",
    "was replaced": "put the old one back, or restart",
    "No such file": "put the old one back, or restart",
    "later release": "use that release",
    "another program": "give another path",
}
"""What to do about what SQLite says. The errors' codes are known to Python only from 3.11 on."""


@contextmanager
def told_as_unavailable(name: str) -> Iterator[None]:
    """Have SQLite's errors raised as StoreUnavailableError, with what to do."""
    try:
        yield
    except StoreUnavailableError:  # which is an OSError as well
        raise
    except (sqlite3.Error, OSError) as error:
        said = str(error)
        advice = next((advice for words, advice in _ADVICE.items() if words in said), "try again")
        raise StoreUnavailableError(f"the store {name} fails: {said}; {advice}") from error


def open_connection(path: Path, patience_s: float, synchronous: str) -> sqlite3.Connection:
    """Open the file, or make it. The connection is for one thread at a time, and waits for no lock."""
    connection = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
    try:
        until = time.monotonic() + patience_s
        patiently(connection, "PRAGMA journal_mode=WAL", until)
        if _layout(connection, until) == 0:
            patiently(connection, "BEGIN IMMEDIATE", until)
            _make_tables(connection, until)
        _check_layout(_layout(connection, until))
        connection.execute(f"PRAGMA synchronous={synchronous}")
        connection.execute(f"PRAGMA cache_size={_CACHE_KIB}")
        connection.execute(f"PRAGMA wal_autocheckpoint={_CHECKPOINT_PAGES}")
        connection.execute(f"PRAGMA journal_size_limit={4 * 4096 * _CHECKPOINT_PAGES}")
    except BaseException:
        connection.close()
        raise
    return connection


def _layout(connection: sqlite3.Connection, until: float) -> int:
    return int(patiently(connection, "PRAGMA user_version", until).fetchone()[0])


def _check_layout(layout: int) -> None:
    if layout != LAYOUT:
        raise sqlite3.DatabaseError(f"its layout {layout} is of a later release")


def _make_tables(connection: sqlite3.Connection, until: float) -> None:
    """Make the tables in the transaction that was begun, unless another process has made them."""
    if _layout(connection, until) == 0:
        if connection.execute("SELECT count(*) FROM sqlite_master").fetchone() != (0,):
            raise sqlite3.DatabaseError("another program's tables are in it")
        for statement in _TABLES.split(";\n"):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version={LAYOUT}")
    connection.execute("COMMIT")


def patiently(connection: sqlite3.Connection, statement: str, until: float) -> sqlite3.Cursor:
    """Execute, and again while the file is locked, until a moment of the monotonic clock.

    SQLite's own waiting sleeps for up to a tenth of a second between its tries, far longer than another process's
    transaction takes, and it doesn't wait at all to switch to the log.
    """
    pause = 0.0002
    while True:
        try:
            return connection.execute(statement)
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > until:
                raise
        time.sleep(pause)
        pause = min(pause * 1.5, 0.005)
