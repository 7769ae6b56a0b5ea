"""Encodings of the tokenizers library: made so that other threads may run meanwhile, and asked where tokens stand."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final, NamedTuple, TypeVar

from tokenizers import Encoding, Tokenizer

from chatenv_client.tokens import Int32Array

ResultT = TypeVar("ResultT")

VERY_LONG: Final = 2**16
"""Characters from which on a text waits until there is room to encode it."""
MOST_AT_ONCE: Final = 2**20
"""Characters of very long texts that are encoded at once; one beyond that alone. An encoding takes some 200 bytes for
each."""

LONG: Final = 4096
"""Characters, or tokens, from which on tokenizing lets other threads run. It would cost the short ones more than it
gives."""

UNREADABLE: Final = "\ufffd"
"""What decoders write for bytes that are no text."""


class Encoded(NamedTuple):
    """Token ids of a text, and where the marked characters went."""

    ids: Int32Array
    """(n,) int32."""
    marks: list[int]
    """For each marked character, the index of the first token that starts there or after it; n where none does."""
    merged: bool = False
    """Encoding the text together with what stands before it would have given other tokens at the boundary."""


class _Room:
    """The room for very long texts. Without it, many callers at once could make a server hold gigabytes."""

    def __init__(self) -> None:
        self._taken = 0
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, characters: int) -> Iterator[None]:
        """Hold room for as long as the context lasts; waits until there is some."""
        with self._changed:
            self._changed.wait_for(lambda: self._taken == 0 or self._taken + characters <= MOST_AT_ONCE)
            self._taken += characters
        try:
            yield
        finally:
            with self._changed:
                self._taken -= characters
                self._changed.notify_all()


_ROOM: Final = _Room()


def in_turn(characters: int, work: Callable[[], ResultT]) -> ResultT:
    """What `work` makes of a text of so many characters, which it encodes, and of which it keeps no encoding."""
    if characters < VERY_LONG:
        return work()
    with _ROOM.taken(characters):
        return work()


def encoding_of(tokenizer: Tokenizer, text: str) -> Encoding:
    """One text, encoded. While a long one is, other threads run."""
    if len(text) < LONG:
        return tokenizer.encode(text, add_special_tokens=False)
    return tokenizer.encode_batch([text], add_special_tokens=False)[0]


def ids_of(tokenizer: Tokenizer, text: str) -> list[int]:
    """The ids of one text: faster than an encoding, which also says where each token stands."""
    if len(text) < VERY_LONG:
        return tokenizer.encode_batch_fast([text], add_special_tokens=False)[0].ids
    return in_turn(len(text), lambda: encoding_of(tokenizer, text).ids)


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
