"""What is told with the ends of episodes where nothing else is kept: for a while, and in bounded memory."""

from __future__ import annotations

import pytest

from chatenv_server.stores import memory
from chatenv_server.stores.memory import MemoryStore
from tests.stores.model import finish


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


def test_what_was_told_with_an_end_is_told_again_until_the_id_ends_otherwise(store: MemoryStore) -> None:
    store.write([finish("a", answer=b"told"), finish("b")])
    assert [store.answer(one) for one in "abc"] == [b"told", b"", b""]
    store.write([finish("a")])
    assert store.answer("a") == b""


def test_the_oldest_is_forgotten_where_all_take_too_much(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "MOST_ANSWER_BYTES", 10)
    store.write([finish(one, answer=b"1234") for one in "abc"])
    assert [store.answer(one) for one in "abc"] == [b"", b"1234", b"1234"]
    store.write([finish("b", answer=b"123456"), finish("d", answer=b"1")])
    assert [store.answer(one) for one in "bcd"] == [b"123456", b"", b"1"]
    store.write([finish("e", answer=b"longer than all may be")])
    assert [store.answer(one) for one in "bcde"] == [b"", b"", b"", b"longer than all may be"]


def test_what_was_told_long_ago_is_forgotten(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write([finish("a", answer=b"told")])
    monkeypatch.setattr(memory, "ANSWERS_KEPT_S", 0.0)
    store.write([finish("b", answer=b"told")])
    assert [store.answer(one) for one in "ab"] == [b"told", b""]
