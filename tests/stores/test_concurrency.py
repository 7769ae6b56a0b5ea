"""Many threads, stores and processes on one backend: compare-and-set, and group commit."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from chatenv_client.errors import StoreUnavailableError
from chatenv_server.stores.group_commit import Apply, GroupCommit
from chatenv_server.stores.store import Change, Store, Totals
from tests.stores.conftest import OpenStore
from tests.stores.model import append, begin, finish

THREADS = 8


def at_once(work: Callable[[int], object]) -> list[object]:
    """What `work` gives in each of `THREADS` threads that start together."""
    barrier = threading.Barrier(THREADS)

    def started(number: int) -> object:
        barrier.wait()
        return work(number)

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(started, range(THREADS)))


def test_of_threads_that_append_at_one_place_one_wins(open_store: OpenStore) -> None:
    stores = [open_store(), open_store()]
    stores[0].write([begin("a")])
    for version in range(20):
        won = at_once(lambda n, v=version: stores[n % 2].write([append("a", v, b"%d" % n)]))  # type: ignore[misc]
        assert sorted(won) == [[False]] * (THREADS - 1) + [[True]]  # type: ignore[type-var]
        journal = stores[0].load("a")
        assert journal is not None
        assert journal.entries[version:] == [b"%d" % won.index([True])]


def test_what_threads_write_to_their_own_episodes_is_all_there(open_store: OpenStore) -> None:
    stores = [open_store(), open_store()]

    def play(number: int) -> None:
        mine, store = f"e{number}", stores[number % 2]
        assert store.write([begin(mine, held=1)]) == [True]
        for version in range(30):
            assert store.write([append(mine, version, b"%d" % version, held=version)]) == [True]
            assert store.standing(mine) is not None
        assert store.write([begin("x", run=mine), finish("x", run=mine)]) == [True, True]

    at_once(play)
    assert stores[0].totals() == Totals(THREADS, 29 * THREADS)
    for number in range(THREADS):
        journal = stores[1].load(f"e{number}")
        assert journal is not None
        assert journal.entries == [b"%d" % version for version in range(30)]


RACER = """
import sys
from chatenv_server.stores.opening import open_store
from tests.stores.model import append
store = open_store(sys.argv[1])
won = 0
for version in range(200):
    won += store.write([append("a", version, sys.argv[2].encode(), held=version)])[0]
print(won)
"""


def test_of_processes_that_append_at_one_place_one_wins(store: Store) -> None:
    store.write([begin("a")])
    racers = [
        subprocess.Popen([sys.executable, "-c", RACER, store.name, who], stdout=subprocess.PIPE, text=True)
        for who in ("x", "y")
    ]
    said = [int(racer.communicate()[0]) for racer in racers]
    journal = store.load("a")
    assert journal is not None
    assert said == [journal.entries.count(b"x"), journal.entries.count(b"y")]
    assert journal.place.version == sum(said) == 200
    assert store.totals() == Totals(1, 199)


class Counted:
    """Transactions that each take a while."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.groups: list[list[Change]] = []
        self.failure = failure

    @contextmanager
    def __call__(self) -> Iterator[Apply]:
        def apply(changes: Sequence[Change]) -> list[bool]:
            self.groups.append(list(changes))
            return [change.episode_id.startswith("yes") for change in changes]

        yield apply
        time.sleep(0.05)
        if self.failure:
            raise self.failure


def test_concurrent_writes_share_transactions_and_each_gets_its_own_answer() -> None:
    transactions = Counted()
    group = GroupCommit(transactions)

    def write(number: int) -> None:
        changes = [begin(f"{'yes' if (number + at) % 2 else 'no'}{number}") for at in range(number % 4)]
        assert group.write(changes) == [change.episode_id.startswith("yes") for change in changes]

    at_once(write)
    assert len(transactions.groups) < THREADS / 2
    assert sum(map(len, transactions.groups)) == sum(number % 4 for number in range(THREADS))


def test_a_transaction_that_fails_fails_all_that_share_it_and_the_next_one_works() -> None:
    transactions = Counted(StoreUnavailableError("the disk is full"))
    group = GroupCommit(transactions)

    def write(number: int) -> None:
        with pytest.raises(StoreUnavailableError, match="the disk is full"):
            group.write([begin(f"yes{number}")])

    at_once(write)
    transactions.failure = None
    assert group.write([begin("yes")]) == [True]


def test_a_mistake_in_a_transaction_leaves_nobody_waiting() -> None:
    transactions = Counted(KeyError("a mistake of ours"))
    group = GroupCommit(transactions)

    def write(number: int) -> type[Exception]:
        with pytest.raises((KeyError, StoreUnavailableError)) as caught:
            group.write([begin(f"yes{number}")])
        return caught.type

    assert StoreUnavailableError in at_once(write)


def test_a_group_takes_no_more_calls_when_it_is_large() -> None:
    transactions = Counted()
    group = GroupCommit(transactions)
    at_once(lambda n: group.write([begin(f"yes{n}")] * 600))
    assert {len(changes) for changes in transactions.groups} <= {600, 1200}
    assert sum(map(len, transactions.groups)) == 600 * THREADS
