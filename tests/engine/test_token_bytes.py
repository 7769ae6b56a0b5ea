"""What is read off a table of bytes is what the library decodes and encodes, to the last broken character."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders

from chatenv_server.engine.token_bytes import token_bytes
from chatenv_server.tokenizer_files.byte_tokenizer import ByteTokenizer
from tests.engine.own_tokenizers import OWN
from tests.engine.small_tokenizers import byte_level
from tests.engine.subjects import RECORDED, subject

BYTES = ByteTokenizer().backend_tokenizer


def decoded(tokenizer: Tokenizer, ids: list[int]) -> str:
    """What the library makes of token ids inside of a text, where no first space is left out."""
    return str(
        tokenizer.decode([*tokenizer.encode("<s>", add_special_tokens=False).ids, *ids], skip_special_tokens=False)
    )


@pytest.mark.parametrize("name", [*RECORDED, *OWN])
def test_the_text_of_tokens_is_what_the_library_decodes(name: str) -> None:
    tokenizer = subject(name).tokenizer.backend_tokenizer
    table = token_bytes(tokenizer, after_text=True)
    if table is None:
        assert not isinstance(tokenizer.decoder, decoders.ByteLevel)
        assert "ByteFallback" not in str(tokenizer.decoder)
        return
    size, before = tokenizer.get_vocab_size(), decoded(tokenizer, [])

    @given(st.lists(st.integers(0, 300) | st.integers(0, size + 3), max_size=12))
    def law(ids: list[int]) -> None:
        text = table.decode(np.array(ids, dtype=np.int32))
        assert (text is None and "\ufffd" in decoded(tokenizer, ids)) or before + str(text) == decoded(tokenizer, ids)

    law()


def test_an_added_token_of_other_letters_is_written_as_it_is() -> None:
    tokenizer = byte_level(control=("two words", "<｜end▁of▁turn｜>")).backend_tokenizer
    table = token_bytes(tokenizer, after_text=True)
    assert table is not None
    assert table.decode(np.array([256, 257], dtype=np.int32)) == tokenizer.decode([256, 257], skip_special_tokens=False)


@given(st.lists(st.integers(0, 258), max_size=40))
def test_any_bytes_become_the_text_that_the_library_makes_of_them(ids: list[int]) -> None:
    table = token_bytes(BYTES, after_text=True)
    assert table is not None
    assert table.decode(np.array(ids, dtype=np.int32)) == BYTES.decode(ids, skip_special_tokens=False)
