"""How a BPE tokenizer writes ASCII text before its model sees it, and where it cuts that text.

Two ways to write are known: byte-level, and SentencePiece's, where a space is U+2581 and may be put before a text.
Where no pattern cuts the text, the vocabulary may: no token holds a space after another character, if no piece of it
does, so each word can be encoded for itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from tokenizers import Tokenizer, models

from chatenv_server.engine.added_tokens import AddedTokens
from chatenv_server.engine.split_pattern import Cut, ascii_cut
from chatenv_server.engine.token_bytes import byte_level_alphabet

_AS_BYTE_LEVEL: Final = dict(enumerate(byte_level_alphabet()[:128]))
_AS_PIECES: Final = {ord(" "): "\u2581"}
_REPLACES_SPACES: Final = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
_PREPENDS_SPACE: Final = {"type": "Prepend", "prepend": "\u2581"}
_WORDS: Final = re.compile(r" *[^ ]+| +").findall


class WrittenText(NamedTuple):
    """How ASCII text after an added token is written and cut."""

    cut: Cut
    """Cuts a text, with what is put before it."""
    table: Mapping[int, str]
    """What is written for a character, for `str.translate`."""
    before: str = ""
    """What is put before every text."""


def written_text(tokenizer: Tokenizer, added: AddedTokens) -> WrittenText | None:
    """How a tokenizer writes and cuts; None where that is not certain, or its model encodes at random."""
    model = tokenizer.model
    if not isinstance(model, models.BPE) or model.dropout or added.may_hide_in_ascii():
        return None
    normalizes, cuts = _state(tokenizer.normalizer), _state(tokenizer.pre_tokenizer)
    if normalizes in ({}, {"type": "NFC"}):  # of ASCII text, NFC changes nothing
        cut = ascii_cut(tokenizer.pre_tokenizer)
        if cut is not None:
            return WrittenText(cut, _AS_BYTE_LEVEL)
    found = _uncut(normalizes, cuts)
    return found if found is not None and _parts_at_spaces(tokenizer, found.table) else None


def _uncut(normalizes: Mapping[str, Any], cuts: Mapping[str, Any]) -> WrittenText | None:
    """How a text is written that no pattern cuts, in words."""
    if cuts.get("type") == "ByteLevel" and normalizes in ({}, {"type": "NFC"}):
        is_plain = not cuts["add_prefix_space"] and not cuts.get("use_regex", True)
        return WrittenText(_WORDS, _AS_BYTE_LEVEL) if is_plain else None
    if cuts.get("type") == "Metaspace" and normalizes == {}:
        # After an added token no text is the first.
        is_plain = (
            cuts["replacement"] == "\u2581" and not cuts["split"] and cuts["prepend_scheme"] in ("first", "never")
        )
        return WrittenText(_WORDS, _AS_PIECES) if is_plain else None
    if cuts != {}:
        return None
    steps = normalizes["normalizers"] if normalizes.get("type") == "Sequence" else [normalizes]
    if steps == [_REPLACES_SPACES]:
        return WrittenText(_WORDS, _AS_PIECES)
    return WrittenText(_WORDS, _AS_PIECES, " ") if steps == [_PREPENDS_SPACE, _REPLACES_SPACES] else None


def _parts_at_spaces(tokenizer: Tokenizer, table: Mapping[int, str]) -> bool:
    """Whether no token can hold a space after another character, nor changes by what stands beside it."""
    model, space = tokenizer.model, table[ord(" ")]
    if model.ignore_merges or model.continuing_subword_prefix or model.end_of_word_suffix:
        return False
    return not any(space in piece.lstrip(space) for piece in tokenizer.get_vocab(with_added_tokens=False))


def _state(part: Any) -> dict[str, Any]:
    """A part of a tokenizer, as its file says; empty where it has none."""
    state: dict[str, Any] = {} if part is None else json.loads(part.__getstate__())
    return state
