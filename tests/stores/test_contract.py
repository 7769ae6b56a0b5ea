"""The protocol of stores: what each method does, for each kind of store."""

from __future__ import annotations

import time

import pytest

from chatenv_server.stores import memory, redis, sqlite, sqlite_transaction
from chatenv_server.stores.store import Begin, Change, End, Journal, Place, Standing, Store, Summary, Totals, Touch
from tests.stores.conftest import OpenStore
from tests.stores.model import append, begin, finish

ALL_BYTES = bytes(range(256)) * 5

WHOLE = Summary(
    step_count=3,
    token_count=20_000,
    held_tokens=60_000,
    message_count=45,
    created=1_790_000_000.123456,
    last_used=1_790_000_100.654321,
    terminated=True,
    truncated=False,
    metadata_json='{"group": "ä\\u0000", "deep": [1, 2.5]}',
)


def test_what_was_written_comes_back_bit_for_bit(open_store: OpenStore) -> None:
    assert open_store().write([Begin("a", "r1", [ALL_BYTES, b"", b"x"], WHOLE)]) == [True]
    other = open_store()
    assert other.load("a") == Journal(Place("r1", 3), [ALL_BYTES, b"", b"x"], WHOLE)
    assert other.standing("a") == Standing(Place("r1", 3), WHOLE.last_used)
    assert other.totals() == Totals(1, 60_000)


def test_an_unknown_episode_is_none(store: Store) -> None:
    assert store.load("a") is None
    assert store.standing("a") is None
    assert store.write([append("a", 0, b"x"), finish("a"), Touch("a", "run", 5.0)]) == [False, False, True]
    assert store.standing("a") is None
    assert store.totals() == Totals(0, 0)


def test_an_append_follows_on_its_place_or_is_refused(store: Store) -> None:
    store.write([begin("a", b"0")])
    assert store.write([append("a", 0, b"no"), append("a", 2, b"no"), append("a", 1, b"1")]) == [False, False, True]
    assert store.write([append("a", 2, b"no", run="other")]) == [False]
    assert store.write([append("a", 1, b"no"), append("a", 2, b"2"), append("a", 3, b"3")]) == [False, True, True]
    journal = store.load("a")
    assert journal is not None
    assert journal.entries == [b"0", b"1", b"2", b"3"]


def test_a_refused_change_keeps_no_other_from_taking_place(store: Store) -> None:
    assert store.write([begin("a"), append("a", 7, b"no"), begin("b"), append("a", 0, b"yes")]) == [
        True,
        False,
        True,
        True,
    ]
    assert store.standing("a") == Standing(Place("run", 1), 1.0)


def test_what_follows_on_a_refused_entry_is_refused_with_it(store: Store) -> None:
    store.write([begin("e", b"0"), append("e", 1, b"another process's")])
    mine: list[Change] = [
        append("e", 1, b"mine"),
        append("e", 2, b"mine too", continues=True),
        append("e", 3, b"3", continues=True),
    ]
    assert store.write(mine) == [False] * 3
    anew: list[Change] = [begin("e", b"0", run="anew"), append("e", 1, b"1", run="anew", continues=True)]
    assert store.write([*mine, *anew]) == [False, False, False, True, True]
    assert (
        store.write([append("e", 2, b"2", run="anew"), append("e", 3, b"3", run="anew", continues=True)]) == [True] * 2
    )
    journal = store.load("e")
    assert journal is not None
    assert journal.entries == [b"0", b"1", b"2", b"3"]


def test_a_begin_gives_way_to_a_live_episode_only_if_it_should(store: Store) -> None:
    store.write([begin("a", b"old", held=10)])
    assert store.write([begin("a", b"new", run="r2", held=3)._replace(replaces=False)]) == [False]
    assert store.totals() == Totals(1, 10)
    assert store.write([begin("a", b"n", b"m", run="r2", held=3)]) == [True]
    assert store.totals() == Totals(1, 3)
    assert store.load("a") == Journal(Place("r2", 2), [b"n", b"m"], Summary(held_tokens=3, created=1, last_used=1))
    assert store.write([append("a", 1, b"no"), finish("a")]) == [False, False]  # of the old run


def test_an_id_that_ended_may_begin_anew(store: Store) -> None:
    store.write([begin("a", b"x"), finish("a")])
    assert store.write([begin("a", run="r2")._replace(replaces=False)]) == [True]
    assert store.standing("a") == Standing(Place("r2", 0), 1.0)
    assert store.load("a") == Journal(Place("r2", 0), [], Summary(created=1.0, last_used=1.0))


@pytest.mark.parametrize("end", End)
def test_an_end_is_remembered_and_its_journal_gone(store: Store, end: End) -> None:
    store.write([begin("a", b"x", b"y", held=5, at=3.0)])
    assert store.write([finish("a", end=end), finish("a"), append("a", 2, b"no")]) == [True, False, False]
    assert store.standing("a") == Standing(Place("run", 2), 3.0, end)
    assert store.load("a") is None
    assert store.totals() == Totals(0, 0)
    assert store.listed("", "", 10) == ([], "")
    assert store.idle_since(99.0, 10) == []
    assert store.write([Touch("a", "run", 50.0)]) == [True]
    assert store.standing("a") == Standing(Place("run", 2), 3.0, end)


def test_what_was_told_with_an_end_is_kept_until_the_id_begins_anew(open_store: OpenStore) -> None:
    store = open_store()
    store.write([begin("a", b"x"), begin("b", b"x")])
    assert store.answer("a") == b""
    assert store.write([finish("a", answer=ALL_BYTES), finish("a", answer=b"no"), finish("b")]) == [True, False, True]
    assert open_store().answer("a") == ALL_BYTES
    assert store.answer("b") == b""
    assert store.load("a") is None
    store.write([begin("a", b"x", run="anew")])
    assert store.answer("a") == b""
    store.write([finish("a", run="anew")])
    assert store.answer("a") == b""


def test_what_was_told_long_ago_is_forgotten(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (memory, redis, sqlite, sqlite_transaction):
        monkeypatch.setattr(module, "ANSWERS_KEPT_S", 1.0)
    store.write([begin("a", b"x"), finish("a", answer=b"told")])
    until = time.monotonic() + 20
    while store.answer("a"):
        assert time.monotonic() < until
        time.sleep(0.05)
    standing = store.standing("a")
    assert standing is not None
    assert standing.end is End.CLOSED


def test_an_end_of_what_was_read_is_refused_where_more_was_written_since(store: Store) -> None:
    store.write([begin("a", b"0"), append("a", 1, b"1")])
    assert store.write([finish("a", version=1, answer=b"old")]) == [False]
    assert store.write([append("a", 2, b"2"), finish("a", version=3, answer=b"new")]) == [True, True]
    assert store.answer("a") == b"new"


def test_a_touch_moves_the_last_use_forward_and_nothing_else(store: Store) -> None:
    store.write([Begin("a", "r1", [b"x"], WHOLE)])
    later, earlier = WHOLE.last_used + 5, WHOLE.last_used - 5
    assert store.write([Touch("a", "r1", later), Touch("a", "r1", earlier), Touch("a", "r2", later + 1)]) == [True] * 3
    assert store.standing("a") == Standing(Place("r1", 1), later)
    assert store.load("a") == Journal(Place("r1", 1), [b"x"], WHOLE._replace(last_used=later))


def test_many_changes_of_one_episode_may_come_in_one_write(store: Store) -> None:
    changes: list[Change] = [
        begin("a", b"0", held=1),
        append("a", 1, b"1", held=2),
        Touch("a", "run", 9.0),
        append("a", 2, b"2", held=4, at=5.0),
        finish("a"),
        begin("a", b"0", run="r2", held=8),
        append("a", 1, b"1", run="r2", held=16),
        begin("a", run="r3", held=32),
        append("a", 0, b"last", run="r3", held=64, at=7.0),
        Touch("a", "r3", 8.0),
    ]
    assert store.write(changes) == [True] * len(changes)
    last = Summary(held_tokens=64, created=1.0, last_used=8.0)
    assert store.load("a") == Journal(Place("r3", 1), [b"last"], last)
    assert store.totals() == Totals(1, 64)
    assert [one.episode_id for one in store.listed("", "", 9)[0]] == ["a"]


def test_a_write_of_nothing_and_a_check_do_nothing(store: Store) -> None:
    assert store.write([]) == []
    store.check()
    assert store.totals() == Totals(0, 0)


def test_ids_may_hold_any_characters(store: Store) -> None:
    ids = ["a:b", "}{x}", "%", "ä/☃ \U0001f600", "a" * 128, "_", "-.-"]
    store.write([begin(i, i.encode()) for i in ids])
    for i in ids:
        journal = store.load(i)
        assert journal is not None
        assert journal.entries == [i.encode()]
        assert [one.episode_id for one in store.listed(i, "", 9)[0]] == [i]


def test_a_long_journal_and_a_large_entry_come_back(store: Store) -> None:
    entries = [b"%d" % number for number in range(3000)] + [b"\x00\xff" * 1_000_000]
    store.write([begin("a", *entries[:-1])])
    assert store.write([append("a", 3000, entries[-1])]) == [True]
    journal = store.load("a")
    assert journal is not None
    assert journal.entries == entries
    assert store.write([finish("a")]) == [True]


def test_the_latest_ends_are_remembered(store: Store) -> None:
    ids = [f"e{number}" for number in range(3000)]
    store.write([change for i in ids for change in (begin(i), finish(i))])
    assert all(standing and standing.end for standing in map(store.standing, ids))
