"""A turn that is sent in pieces, down to token by token, is what it would be in one piece, and costs no more."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatenv_client import ChatAction
from chatenv_client.tokens import Int32Array
from chatenv_server import ChatEnvironment
from chatenv_server.engine import TokenEngine
from chatenv_server.engine.codec import Codec
from chatenv_server.engine.token_bytes import byte_level_alphabet
from tests.engine.episodes import CLOCK
from tests.engine.small_tokenizers import byte_level, sentencepiece_like, user
from tests.engine.subjects import NAMES, Subject, subject

_TEXTS = (
    "Hello, how are you?",
    " 🦜🦜 你好",
    "\n\n  two  spaces ",
    "e\u0301 A\u030a ﬁ",
    "<think>hm</think>",
    "\ufffd\ufffd",
    "'s it.",
)


def _begun(tested: Subject) -> ChatEnvironment:
    env = ChatEnvironment(tested.engine)
    env.reset(messages=[user("Hi")], clock=CLOCK)
    return env


@pytest.mark.parametrize("name", NAMES)
def test_a_turn_in_pieces_is_read_as_the_same_turn_in_one(name: str) -> None:
    tested = subject(name)
    limit, stops = tested.engine.token_id_limit, tested.engine.stop_ids
    pieces = st.one_of(st.sampled_from(_TEXTS).map(tested.encode), st.lists(st.integers(0, limit - 1), max_size=4))

    @settings(max_examples=max(5, (settings.default.max_examples if settings.default else 100) // 4))
    @given(st.lists(pieces, min_size=1, max_size=8), st.data())
    def holds(spans: list[list[int]], data: st.DataObject) -> None:
        ids = [token for span in spans for token in span if token not in stops]
        if not ids:
            return
        whole, parted = _begun(tested), _begun(tested)
        whole.step(ChatAction(tokens=ids))
        position = 0
        while position < len(ids):
            size = data.draw(st.integers(1, 3))
            parted.step(ChatAction(tokens=ids[position : position + size]))
            position += size
        assert parted.state.history_messages == whole.state.history_messages
        assert parted.state.token_ids.tolist() == whole.state.token_ids.tolist()
        after: list[Any] = [env.step(user("Why?")) for env in (whole, parted)]
        assert after[0].token_ids.tolist() == after[1].token_ids.tolist()

    holds()


_SMALL: dict[str, Callable[[], Any]] = {
    "byte level": byte_level,
    "byte fallback": sentencepiece_like,
    "byte fallback without a pre-tokenizer": partial(sentencepiece_like, metaspace=False),
}
_BYTES = (0x41, 0x80, 0x9F, 0xA6, 0x9C, 0xE4, 0xBD, 0xA0, 0xF0, 0xFF)
"""Of a letter, of 🦜 and 你, and of no character at all."""


def _ids_of_bytes(tokenizer: Any, values: Iterable[int]) -> list[int]:
    alphabet = byte_level_alphabet()
    known = tokenizer.get_vocab()
    return [known.get(f"<0x{value:02X}>", known.get(alphabet[value])) for value in values]


@pytest.mark.parametrize("kind", _SMALL)
@given(data=st.data())
def test_bytes_in_pieces_are_read_as_the_same_bytes_in_one(kind: str, data: st.DataObject) -> None:
    tokenizer, engine = _small(kind)
    values = data.draw(st.lists(st.sampled_from(_BYTES) | st.sampled_from(["🦜", "你", " a"]), min_size=2, max_size=16))
    drawn = (value.encode() if isinstance(value, str) else (value,) for value in values)
    ids = _ids_of_bytes(tokenizer, (byte for one in drawn for byte in one))
    whole, parted = ChatEnvironment(engine), ChatEnvironment(engine)
    for env in (whole, parted):
        env.reset(messages=[user("Hi")], clock=CLOCK)
    whole.step(ChatAction(tokens=ids))
    for token in ids:
        parted.step(ChatAction(tokens=[token]))
    assert parted.state.history_messages == whole.state.history_messages


def test_a_turn_of_broken_bytes_that_goes_on_decodes_what_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer, engine = _small("byte level")
    env = ChatEnvironment(engine)
    env.reset(messages=[user("Hi")], clock=CLOCK)
    decoded = _decoded(monkeypatch)
    ids = _ids_of_bytes(tokenizer, [0xF0, 0x9F, 0x80, 0xFF, 0xF0] * 60)
    for token in ids:
        env.step(ChatAction(tokens=[token]))
    assert max(decoded) <= 16


@functools.cache
def _small(kind: str) -> tuple[Any, TokenEngine]:
    tokenizer = _SMALL[kind]()
    return tokenizer, TokenEngine.load(tokenizer)


def _decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tokens were decoded, each time."""
    decoded: list[int] = []
    decode = Codec.decode_after

    def counted(codec: Codec, before: Int32Array, ids: Int32Array) -> str:
        decoded.append(len(ids))
        return decode(codec, before, ids)

    monkeypatch.setattr(Codec, "decode_after", counted)
    return decoded


@pytest.mark.parametrize("name", NAMES)
def test_a_turn_that_goes_on_decodes_what_is_new(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tested = subject(name)
    env = _begun(tested)
    decoded = _decoded(monkeypatch)
    ids = [
        token
        for token in tested.encode("A parrot 🦜 said: 你好, it's me.\n" * 8)
        if token not in tested.engine.stop_ids
    ]
    for token in ids:
        env.step(ChatAction(tokens=[token]))
    assert sum(decoded) <= 30 * len(ids)
    assert max(decoded[len(decoded) // 2 :]) <= 16
