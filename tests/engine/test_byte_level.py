"""What is read off a table of bytes is what the library decodes and encodes, to the last broken character."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from chatenv_server.byte_tokenizer import CONTROL_TOKENS, ByteTokenizer
from chatenv_server.engine.byte_level import byte_level_alphabet, ids_of_bytes, token_bytes
from tests.engine.subjects import RECORDED, recorded_tokenizer

BYTES = ByteTokenizer().backend_tokenizer
_IDS = ids_of_bytes(BYTES)


@pytest.mark.parametrize("name", RECORDED)
def test_the_text_of_recorded_tokens_is_what_the_library_decodes(name: str) -> None:
    tokenizer = recorded_tokenizer(name).backend_tokenizer
    table = token_bytes(tokenizer)
    if table is None:
        assert not isinstance(tokenizer.decoder, decoders.ByteLevel)
        return
    size = tokenizer.get_vocab_size()

    @given(st.lists(st.integers(0, size + 3), max_size=12))
    def law(ids: list[int]) -> None:
        assert table.decode(ids) == tokenizer.decode(ids, skip_special_tokens=False)

    law()


@given(st.lists(st.integers(0, 258), max_size=40))
def test_any_bytes_become_the_text_that_the_library_makes_of_them(ids: list[int]) -> None:
    table = token_bytes(BYTES)
    assert table is not None
    assert table.decode(ids) == BYTES.decode(ids, skip_special_tokens=False)


@given(st.text(max_size=60).filter(lambda text: not any(token in text for token in CONTROL_TOKENS)))
def test_the_ids_of_bytes_are_what_the_library_encodes(text: str) -> None:
    assert _IDS is not None
    assert [int(_IDS[byte]) for byte in text.encode()] == BYTES.encode(text, add_special_tokens=False).ids


def _byte_level(merges: Any = (), **options: Any) -> Tokenizer:
    vocabulary = {character: byte for byte, character in enumerate(byte_level_alphabet())}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=list(merges), **options))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return tokenizer


def _with(change: Callable[[Tokenizer], None]) -> Tokenizer:
    tokenizer = _byte_level()
    change(tokenizer)
    return tokenizer


def _set(part: str, value: Any) -> Callable[[Tokenizer], None]:
    return lambda tokenizer: setattr(tokenizer, part, value)


@pytest.mark.parametrize(
    "tokenizer",
    [
        _with(_set("pre_tokenizer", pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False))),
        _with(_set("pre_tokenizer", pre_tokenizers.Whitespace())),
        _with(_set("normalizer", normalizers.Lowercase())),
        _byte_level(dropout=0.5),
        _byte_level(end_of_word_suffix="Ġ"),
        Tokenizer(models.BPE(vocab={chr(0x4E00 + index): index for index in range(256)}, merges=[])),
        Tokenizer(models.WordLevel(vocab={character: i for i, character in enumerate(byte_level_alphabet())})),
    ],
    ids=["prefix space", "other pieces", "normalizer", "dropout", "suffix", "other letters", "words"],
)
def test_a_tokenizer_that_does_more_than_spell_bytes_has_no_such_ids(tokenizer: Tokenizer) -> None:
    assert ids_of_bytes(tokenizer) is None
