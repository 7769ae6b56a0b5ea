"""A turn that is sent in pieces, down to token by token, is what it would be in one piece, and costs no more."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatenv_client import ChatAction
from chatenv_client.tokens import Int32Array
from chatenv_server import ChatEnvironment
from chatenv_server.engine.codec import Codec
from tests.engine.episodes import CLOCK
from tests.engine.small_tokenizers import user
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


@pytest.mark.parametrize("name", NAMES)
def test_a_turn_that_goes_on_decodes_what_is_new(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tested = subject(name)
    env = _begun(tested)
    decoded: list[int] = []
    decode = Codec.decode_after

    def counted(codec: Codec, before: Int32Array, ids: Int32Array) -> str:
        decoded.append(len(ids))
        return decode(codec, before, ids)

    monkeypatch.setattr(Codec, "decode_after", counted)
    ids = [
        token
        for token in tested.encode("A parrot 🦜 said: 你好, it's me.\n" * 8)
        if token not in tested.engine.stop_ids
    ]
    for token in ids:
        env.step(ChatAction(tokens=[token]))
    assert sum(decoded) <= 30 * len(ids)
    assert max(decoded[len(decoded) // 2 :]) <= 16
