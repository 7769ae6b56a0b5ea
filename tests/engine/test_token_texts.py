"""What single tokens are said to stand for."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatenv_client import TokenText
from chatenv_server import ChatEnvironment
from chatenv_server.engine import TokenEngine
from chatenv_server.engine.token_bytes import token_bytes
from tests.engine.subjects import NAMES, subject


@pytest.mark.parametrize("name", NAMES)
def test_the_bytes_of_a_texts_tokens_are_the_texts(name: str) -> None:
    one = subject(name)
    # Where the decoder does more than put bytes together, a part of a character is U+FFFD.
    by_bytes = token_bytes(one.tokenizer.backend_tokenizer, after_text=True) is not None

    @given(st.text(max_size=20) if by_bytes else st.text(string.ascii_letters, max_size=20))
    def law(text: str) -> None:
        ids = one.encode(f"a{text}b")
        whole = b"".join(token.text for token in one.engine.describe_tokens(ids))
        assert whole.decode(errors="replace").strip() == one.text_of(ids).strip()

    law()


@pytest.mark.parametrize("name", NAMES)
def test_the_added_vocabulary_is_told_from_plain_text(name: str) -> None:
    one = subject(name)
    added = one.tokenizer.backend_tokenizer.get_added_tokens_decoder()
    ids = range(one.engine.vocabulary_size)
    texts = one.engine.describe_tokens(ids)
    assert {token for token, text in zip(ids, texts, strict=True) if text.is_control} == {*added}
    assert [texts[token].text.decode() for token in added] == [token.content for token in added.values()]


@pytest.mark.parametrize("name", NAMES)
def test_an_id_that_no_token_has_stands_for_nothing(name: str) -> None:
    engine = subject(name).engine
    assert engine.describe_tokens([-1, engine.vocabulary_size + 5, 2**31 - 1]) == [TokenText(b"")] * 3


class Words:
    """A tokenizer of which nothing is known but how it renders and decodes."""

    eos_token_id = 1

    def __len__(self) -> int:
        return 3

    def apply_chat_template(self, messages: list[dict[str, str]], **_: object) -> list[int]:
        return [len(message["content"]) for message in messages]

    def decode(self, ids: list[int]) -> str:
        return " ".join(["", "end", "\ud800"][token_id] for token_id in ids)


def test_a_tokenizer_of_which_nothing_is_known_decodes_each_token_by_itself() -> None:
    engine = TokenEngine.load(Words())
    assert engine.describe_tokens([0, 1, 2, 7]) == [
        TokenText(b""),
        TokenText(b"end", is_control=True),
        TokenText(b"?"),
        TokenText(b""),
    ]
    assert ChatEnvironment(engine).describe_tokens([1]) == engine.describe_tokens([1])
