"""A SQLite file that fails: an error that says so, nothing half done, and recovery by the same store."""

from __future__ import annotations

import os
import resource
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

import pytest

from chatenv_client.errors import EpisodeDamagedError, StoreUnavailableError
from chatenv_server.stores import sqlite_transaction
from chatenv_server.stores.sqlite import SqliteStore
from chatenv_server.stores.store import Place, Standing, Totals
from tests.stores.model import append, begin, finish
from tests.stores.writer import acknowledged, start_writer


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "episodes.db"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(path, patience_s=0.3)
    yield store
    store.close()


def altered(path: Path, *statements: str) -> None:
    """Have another program change the file."""
    with closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def test_a_file_that_another_process_holds_locked_fails_in_bounded_time_and_recovers(
    store: SqliteStore, path: Path
) -> None:
    store.write([begin("a", b"0")])
    with closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN IMMEDIATE")
        started = time.monotonic()
        with pytest.raises(StoreUnavailableError, match="locked; another process"):
            store.write([append("a", 1, b"1")])
        with pytest.raises(StoreUnavailableError, match="locked"):
            store.check()
        assert time.monotonic() - started < 2
        assert store.standing("a") == Standing(Place("run", 1), 1.0)  # reads go on
    assert store.write([append("a", 1, b"1")]) == [True]


HOLDER = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1])
connection.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
time.sleep(0.1)
"""


def test_a_file_that_is_locked_for_a_moment_is_waited_for(store: SqliteStore, path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDER, path], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        assert store.write([begin("a")]) == [True]


def test_writes_that_wait_for_a_lock_are_committed_together(path: Path) -> None:
    store, statements = SqliteStore(path), list[str]()
    assert store._writing is not None
    store._writing.set_trace_callback(statements.append)
    with closing(sqlite3.connect(path)) as other, ThreadPoolExecutor(8) as threads:
        other.execute("BEGIN IMMEDIATE")
        written = threads.map(lambda n: store.write([begin(f"e{n}")]), range(8))
        time.sleep(0.2)
        other.rollback()
        assert list(written) == [[True]] * 8
    assert statements.count("COMMIT") == 1
    store.close()


def test_writes_that_wait_for_a_lock_in_vain_fail_together(store: SqliteStore, path: Path) -> None:
    with closing(sqlite3.connect(path)) as other, ThreadPoolExecutor(8) as threads:
        other.execute("BEGIN IMMEDIATE")
        started = time.monotonic()
        for outcome in [threads.submit(store.write, [begin(f"e{number}")]) for number in range(8)]:
            with pytest.raises(StoreUnavailableError, match="locked"):
                outcome.result()
        assert time.monotonic() - started < 4 * 0.3  # not one after another
    assert store.totals() == Totals(0, 0)


def test_a_full_disk_fails_the_write_and_leaves_all_as_it_was(store: SqliteStore, path: Path) -> None:
    store.write([begin("a", b"0", held=1)])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, before[1]))
    try:
        for _ in range(3):
            with pytest.raises(StoreUnavailableError, match="free some space"):
                store.write([begin("b", b"x" * 200_000), append("a", 1, b"x" * 200_000, held=9)])
            assert store.totals() == Totals(1, 1)
            assert store.standing("b") is None
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert store.write([append("a", 1, b"x" * 200_000, held=9), begin("b")]) == [True, True]
    assert store.totals() == Totals(2, 9)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_file_that_may_not_grow_fails_the_write(store: SqliteStore) -> None:
    store.write([begin("a", b"0")])
    assert store._writing is not None
    store._writing.execute("PRAGMA max_page_count=20")
    with pytest.raises(StoreUnavailableError, match=r"full; free some space"):
        store.write([append("a", 1, b"x" * 200_000)])
    assert store.write([append("a", 1, b"x" * 200_000)]) == [True]  # by a new connection, without that limit


READ_ONLY = """
import os, sys
from chatenv_client.errors import StoreUnavailableError
from chatenv_server.stores.sqlite import SqliteStore
os.setuid(65534)
try:
    SqliteStore(sys.argv[1])
except StoreUnavailableError as error:
    print(error)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
def test_a_file_that_is_read_only_is_refused_at_open(path: Path) -> None:
    SqliteStore(path).close()
    path.chmod(0o444)
    for folder in (path.parent, *path.parent.parents[:3]):
        folder.chmod(0o755)
    said = subprocess.run([sys.executable, "-c", READ_ONLY, path], capture_output=True, text=True, check=True).stdout
    assert "make the file and its folder writable" in said


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailableError, match=r"missing/e\.db fails: unable to open .* folder must exist"):
        SqliteStore(tmp_path / "missing" / "e.db")


def test_what_is_no_database_is_refused_and_left_alone(path: Path) -> None:
    path.write_bytes(b"a diary, " * 1000)
    with pytest.raises(StoreUnavailableError, match="not a database; this is another file"):
        SqliteStore(path)
    assert path.read_bytes() == b"a diary, " * 1000


def test_the_tables_of_another_program_are_refused(path: Path) -> None:
    altered(path, "CREATE TABLE diary (day TEXT)")
    with pytest.raises(StoreUnavailableError, match="another program's tables are in it; give another path"):
        SqliteStore(path)


def test_a_later_layout_is_refused(store: SqliteStore, path: Path) -> None:
    store.write([begin("a", b"0")])
    altered(path, "PRAGMA user_version=2")
    with pytest.raises(StoreUnavailableError, match="its layout 2 is of a later release; use that release"):
        SqliteStore(path)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entries SET entry = x'00' || entry WHERE number = 2",
        "UPDATE entries SET entry = substr(entry, 1, 2) WHERE number = 1",
        "UPDATE entries SET entry = 'text' WHERE number = 3",
        "UPDATE entries SET checksum = checksum + 1 WHERE number = 2",
        "DELETE FROM entries WHERE number = 1",
        "DELETE FROM entries WHERE number = 3",
        "UPDATE entries SET previous = 3 WHERE number = 3",
        "UPDATE entries SET previous = 1 WHERE number = 3",
        "UPDATE episodes SET version = 2 WHERE number = 1",
        "UPDATE episodes SET version = 4 WHERE number = 1",
        "UPDATE episodes SET last_entry = 2 WHERE number = 1",
        "UPDATE episodes SET run = 'other' WHERE number = 1",
    ],
)
def test_a_damaged_record_is_an_error_and_is_left_as_it_is(store: SqliteStore, path: Path, statement: str) -> None:
    store.write([begin("a", b"000", b"1111", b"22222"), begin("b", b"fine")])
    altered(path, statement)
    for _ in range(2):
        with pytest.raises(EpisodeDamagedError, match="record of episode a is damaged, and left as it is"):
            store.load("a")
    assert store.load("b") is not None
    assert store.totals().episodes == 2
    run = "other" if "run" in statement else "run"
    assert store.write([finish("a", run=run)]) == [True]  # it can be given up


def test_a_file_that_is_cut_off_is_refused_and_left_alone(store: SqliteStore, path: Path) -> None:
    store.write([begin(f"e{number}", os.urandom(50_000)) for number in range(20)])
    store.close()
    os.truncate(path, path.stat().st_size // 8192 * 4096)
    left = path.read_bytes()
    with pytest.raises(StoreUnavailableError, match="malformed; the file is damaged: restore it from a backup"):
        SqliteStore(path)
    assert path.read_bytes() == left


@pytest.mark.parametrize("rubbish", [b"\xff", b"\x00", b"\x0d"])
def test_pages_that_were_overwritten_damage_their_episodes_alone(
    store: SqliteStore, path: Path, rubbish: bytes
) -> None:
    entries = {f"e{number}": os.urandom(900) for number in range(400)}
    store.write([begin(episode_id, entry) for episode_id, entry in entries.items()])
    store.close()
    whole = path.read_bytes()
    start = whole.index(entries["e200"]) // 4096 * 4096
    path.write_bytes(whole[:start] + rubbish * 4096 + whole[start + 4096 :])
    again = SqliteStore(path)
    damaged = []
    for episode_id, entry in entries.items():
        with suppress(EpisodeDamagedError):
            journal = again.load(episode_id)
            assert journal is not None
            assert journal.entries == [entry]
            continue
        damaged.append(episode_id)
    assert "e200" in damaged
    assert len(damaged) < 6
    again.close()


def test_a_file_that_was_replaced_is_not_written_to(store: SqliteStore, path: Path) -> None:
    store.write([begin("a")])
    aside = path.rename(path.with_name("aside.db"))
    SqliteStore(path.with_name("other.db")).close()
    path.with_name("other.db").rename(path)
    with pytest.raises(StoreUnavailableError, match="its file was replaced"):
        store.write([append("a", 0, b"x")])
    with pytest.raises(StoreUnavailableError, match="its file was replaced"):
        store.check()
    path.unlink()
    with pytest.raises(StoreUnavailableError, match="No such file"):
        store.standing("a")
    aside.rename(path)
    assert store.write([append("a", 0, b"x")]) == [True]


@pytest.mark.parametrize("seconds", [0.05, 0.2, 0.5])
def test_the_kill_of_a_writing_process_loses_nothing_that_was_acknowledged(
    store: SqliteStore, path: Path, seconds: float
) -> None:
    writer = start_writer(f"sqlite://{path}")
    time.sleep(seconds)
    writer.send_signal(signal.SIGKILL)
    written = acknowledged(writer)
    journal = store.load("a")
    assert journal is not None
    assert written <= journal.place.version <= written + 1
    assert journal.entries == [b"%d" % version * 300 for version in range(journal.place.version)]
    assert store.totals() == Totals(1, journal.place.version)


def test_ends_beyond_the_latest_are_forgotten(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_transaction, "REMEMBERED_ENDS", 10)
    for number in range(30):
        store.write([begin(f"e{number}"), finish(f"e{number}")])
    assert [bool(store.standing(f"e{number}")) for number in range(30)] == [False] * 20 + [True] * 10


def test_what_ended_leaves_nothing_but_its_end_in_the_file(store: SqliteStore, path: Path) -> None:
    store.write([begin("a", b"0", b"1"), begin("b", b"0"), append("b", 1, b"1"), begin("b", b"0", run="r2")])
    store.write([append("a", 2, b"2"), finish("a"), finish("b", run="r2")])
    with closing(sqlite3.connect(path)) as connection:
        left = [connection.execute(f"SELECT count(*) FROM {t}").fetchone()[0] for t in ("episodes", "entries", "ended")]
    assert left == [0, 0, 2]


def test_a_store_that_was_closed_says_so(path: Path) -> None:
    store = SqliteStore(path)
    store.close()
    calls: list[Callable[[], object]] = [store.check, store.totals, lambda: store.write([begin("a")])]
    for call in calls:
        with pytest.raises(StoreUnavailableError, match="is closed"):
            call()
