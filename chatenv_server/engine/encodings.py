"""Encodings of the tokenizers library: made so that other threads may run meanwhile, and asked where tokens stand."""

from __future__ import annotations

from bisect import bisect_left
from functools import partial
from typing import Final

from tokenizers import Encoding, Tokenizer

LONG: Final = 4096
"""Characters, or tokens, from which on tokenizing lets other threads run. It would cost the short ones more than it
gives."""


def encoding_of(tokenizer: Tokenizer, text: str) -> Encoding:
    """One text, encoded. While a long one is, other threads run."""
    if len(text) < LONG:
        return tokenizer.encode(text, add_special_tokens=False)
    return tokenizer.encode_batch([text], add_special_tokens=False)[0]


def decoded(tokenizer: Tokenizer, ids: list[int]) -> str:
    """Ids, decoded. While many are, other threads run."""
    if len(ids) < LONG:
        return tokenizer.decode(ids, skip_special_tokens=False)
    return tokenizer.decode_batch([ids], skip_special_tokens=False)[0]


def token_at(encoding: Encoding, character: int, first: int = 0) -> int:
    """Index of the first token, from `first` on, that starts at a character of the encoded text or after it."""
    # Asking for one token's place at a time is cheaper than a list of all.
    return first + bisect_left(range(first, len(encoding)), character, key=partial(_first_character, encoding))


def reaches_over(encoding: Encoding, count: int, length: int) -> bool:
    """Whether the last of the first `count` tokens ends after the first `length` characters."""
    place = encoding.token_to_chars(count - 1) if count else None
    return place is not None and place[1] > length


def _first_character(encoding: Encoding, token: int) -> int:
    place = encoding.token_to_chars(token)
    return place[0] if place is not None else 0
