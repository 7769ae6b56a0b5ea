"""What is read off a table of bytes is what the library decodes and encodes, to the last broken character."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from chatenv_server.engine.byte_level import byte_level_alphabet, ids_of_bytes, token_bytes
from chatenv_server.tokenizer_files.byte_tokenizer import CONTROL_TOKENS, ByteTokenizer
from tests.engine.small_tokenizers import byte_level
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


def test_an_added_token_of_other_letters_is_written_as_it_is() -> None:
    tokenizer = byte_level(control=("two words", "<｜end▁of▁turn｜>")).backend_tokenizer
    table = token_bytes(tokenizer)
    assert table is not None
    assert table.decode([256, 257]) == tokenizer.decode([256, 257], skip_special_tokens=False)


@given(st.lists(st.integers(0, 258), max_size=40))
def test_any_bytes_become_the_text_that_the_library_makes_of_them(ids: list[int]) -> None:
    table = token_bytes(BYTES)
    assert table is not None
    assert table.decode(ids) == BYTES.decode(ids, skip_special_tokens=False)


@given(st.text(max_size=60).filter(lambda text: not any(token in text for token in CONTROL_TOKENS)))
def test_the_ids_of_bytes_are_what_the_library_encodes(text: str) -> None:
    assert _IDS is not None
    assert [int(_IDS[byte]) for byte in text.encode()] == BYTES.encode(text, add_special_tokens=False).ids


def _with(**parts: Any) -> Tokenizer:
    """A tokenizer that spells bytes, but for some parts."""
    tokenizer: Tokenizer = byte_level().backend_tokenizer
    for name, part in parts.items():
        setattr(tokenizer, name, part)
    return tokenizer


def _model(**options: Any) -> models.BPE:
    vocabulary = {character: byte for byte, character in enumerate(byte_level_alphabet())}
    return models.BPE(vocab=vocabulary, merges=[], **options)


@pytest.mark.parametrize(
    "tokenizer",
    [
        _with(pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False)),
        _with(pre_tokenizer=pre_tokenizers.Whitespace()),
        _with(normalizer=normalizers.Lowercase()),
        _with(model=_model(dropout=0.5)),
        _with(model=_model(end_of_word_suffix="Ġ")),
        Tokenizer(models.BPE(vocab={chr(0x4E00 + index): index for index in range(256)}, merges=[])),
        Tokenizer(models.WordLevel(vocab={character: i for i, character in enumerate(byte_level_alphabet())})),
    ],
    ids=["prefix space", "other pieces", "normalizer", "dropout", "suffix", "other letters", "words"],
)
def test_a_tokenizer_that_does_more_than_spell_bytes_has_no_such_ids(tokenizer: Tokenizer) -> None:
    assert ids_of_bytes(_with()) is not None
    assert ids_of_bytes(tokenizer) is None
