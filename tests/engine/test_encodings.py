"""Very long texts wait for room to be encoded, so that many callers at once do not make a server hold gigabytes."""

from __future__ import annotations

import threading
import time

import pytest

from chatenv_server.engine.encodings import MOST_AT_ONCE, VERY_LONG, in_turn


@pytest.mark.parametrize("characters", [VERY_LONG, MOST_AT_ONCE // 3, MOST_AT_ONCE, 3 * MOST_AT_ONCE])
def test_very_long_texts_are_encoded_as_far_as_there_is_room(characters: int) -> None:
    at_work, most, lock = 0, 0, threading.Lock()

    def work() -> int:
        nonlocal at_work, most
        with lock:
            at_work += 1
            most = max(most, at_work)
        time.sleep(0.02)
        with lock:
            at_work -= 1
        return characters

    results: list[int] = []
    threads = [threading.Thread(target=lambda: results.append(in_turn(characters, work))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [characters] * 8
    assert most <= max(1, MOST_AT_ONCE // characters)


def test_a_text_that_is_not_very_long_waits_for_none() -> None:
    done = threading.Event()

    def short() -> None:
        in_turn(VERY_LONG - 1, done.set)

    def long() -> bool:
        threading.Thread(target=short).start()
        return done.wait(10)

    assert in_turn(MOST_AT_ONCE, long)


def test_room_is_given_back_where_encoding_fails() -> None:
    def fail() -> None:
        raise ZeroDivisionError

    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            in_turn(MOST_AT_ONCE, fail)
