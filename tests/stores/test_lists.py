"""Lists of a store: their order, their pages, and pages while episodes are used; those that are idle."""

from __future__ import annotations

from itertools import count

import pytest

from chatenv_server.stores import paging
from chatenv_server.stores.store import Store, Touch
from tests.stores.model import begin, finish


def pages(store: Store, prefix: str, limit: int) -> list[list[str]]:
    """The ids of all pages."""
    found, after = [], ""
    for _ in count():
        page, after = store.listed(prefix, after, limit)
        assert len(page) <= limit
        found.append([one.episode_id for one in page])
        if not after:
            return found
    raise AssertionError


def test_a_list_is_by_last_use_newest_first(store: Store) -> None:
    store.write([begin("old", at=1.0), begin("new", at=3.0), begin("mid", at=2.0)])
    store.write([Touch("old", "run", 4.0)])
    assert pages(store, "", 10) == [["old", "new", "mid"]]


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 20, 21])
def test_pages_hold_every_episode_once_though_all_were_used_at_once(store: Store, limit: int) -> None:
    ids = [f"e{number:02}" for number in range(20)]
    store.write([begin(i, at=float(number // 10)) for number, i in enumerate(ids)])
    found = pages(store, "", limit)
    assert [i for page in found for i in page] == ids[::-1]
    assert all(len(page) == limit for page in found[:-1])
    assert found[-1]


def test_a_list_by_prefix_holds_those_alone(store: Store) -> None:
    store.write([begin(i) for i in ("a", "ab", "abc", "b", "ba", "A")])
    assert [pages(store, prefix, 2) for prefix in ("ab", "b", "c")] == [[["abc", "ab"]], [["ba", "b"]], [[]]]


def test_a_rare_prefix_is_found_in_bounded_pages(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paging, "MOST_LOOKED_AT", 10)
    store.write([begin(f"e{number}", at=float(number)) for number in range(35)])
    store.write([begin("rare", at=0.5)])
    found = pages(store, "rare", 3)
    assert found == [[], [], [], ["rare"]]


def test_an_episode_that_is_not_used_between_pages_is_shown_exactly_once(store: Store) -> None:
    ids = [f"e{number}" for number in range(9)]
    store.write([begin(i, at=float(number)) for number, i in enumerate(ids)])
    first, after = store.listed("", "", 3)
    store.write([Touch("e8", "run", 20.0), Touch("e4", "run", 21.0), finish("e6"), finish("e2"), begin("e9", at=30.0)])
    second, after = store.listed("", after, 3)
    third, after = store.listed("", after, 3)
    shown = [[one.episode_id for one in page] for page in (first, second, third)]
    assert shown == [["e8", "e7", "e6"], ["e5", "e3", "e1"], ["e0"]]
    assert not after


@pytest.mark.parametrize("after", ["x", " ", "0x1p+0", "1.0 a", "nan a", "inf a", "0x1p+99999 a", "\ud800 a"])
def test_a_place_that_no_call_gave_is_refused(store: Store, after: str) -> None:
    with pytest.raises(ValueError, match="place in a list"):
        store.listed("", after, 3)


def test_those_that_are_idle_come_longest_first(store: Store) -> None:
    store.write([begin(f"e{number}", run=f"r{number}", at=float(number)) for number in range(5)])
    store.write([Touch("e0", "r0", 9.0)])
    assert store.idle_since(3.0, 10) == [("e1", "r1"), ("e2", "r2")]
    assert store.idle_since(3.0, 1) == [("e1", "r1")]
    assert store.idle_since(10.0, 10)[-1] == ("e0", "r0")
    assert store.idle_since(1.0, 10) == []
