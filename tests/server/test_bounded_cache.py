"""The one cache of the server."""

from __future__ import annotations

import threading

from hypothesis import given
from hypothesis import strategies as st

from chatenv_server.bounded_cache import BoundedCache


def test_the_least_recently_used_goes_first() -> None:
    cache: BoundedCache[str, int] = BoundedCache(2)
    cache.put("a", 1)
    cache.put("b", 2)
    assert cache.get("a") == 1
    cache.put("c", 3)
    assert [cache.get(key) for key in "abc"] == [1, None, 3]


def test_a_value_that_is_put_again_takes_the_place_of_the_old_one_and_counts_as_used() -> None:
    cache: BoundedCache[str, int] = BoundedCache(2)
    cache.put("a", 1)
    cache.put("b", 2)
    cache.put("a", 3)
    cache.put("c", 4)
    assert [cache.get(key) for key in "abc"] == [3, None, 4]


def test_a_value_is_made_where_none_is_kept_and_then_kept() -> None:
    cache: BoundedCache[str, list[int]] = BoundedCache(1)
    made = cache.get_or_put("a", list)
    assert cache.get_or_put("a", list) is made
    cache.put("b", [])
    assert cache.get_or_put("a", list) is not made


@given(st.integers(1, 3), st.lists(st.tuples(st.sampled_from("pg"), st.integers(0, 3)), min_size=5))
def test_it_keeps_what_was_used_last_and_no_more(size: int, uses: list[tuple[str, int]]) -> None:
    cache: BoundedCache[int, int] = BoundedCache(size)
    kept: list[int] = []  # the most recently used last
    for what, key in uses:
        if what == "p":
            cache.put(key, key)
        else:
            assert cache.get(key) == (key if key in kept else None)
        if what == "p" or key in kept:
            kept = [*(each for each in kept if each != key), key][-size:]
        assert len(cache) == len(kept)
    assert {key for key in range(4) if cache.get(key) is not None} == set(kept)


def test_threads_may_share_it() -> None:
    cache: BoundedCache[int, int] = BoundedCache(3)
    wrong: list[int] = []

    def work(offset: int) -> None:
        for step in range(5000):
            key = (step * 7 + offset) % 10
            cache.put(key, key)
            if cache.get(key) not in (key, None):
                wrong.append(key)

    threads = [threading.Thread(target=work, args=[offset]) for offset in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (wrong, len(cache)) == ([], 3)
