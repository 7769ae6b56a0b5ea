"""Texts between control tokens: each is encoded for itself, the short ones once.

A parting token (see `AddedTokens`) separates two texts: neither changes how the other is encoded. So of a rendered tail
only what was never seen before has to be encoded: the message's own text, which is put together from its words where
that is certain (`pre_tokens.py`). Knows nothing of messages.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np
from tokenizers import Tokenizer

from chatenv_server.engine.added_tokens import AddedTokens
from chatenv_server.engine.encodings import Encoded, encoding_of, ids_of, in_turn, token_at
from chatenv_server.engine.pre_tokens import ID_SIZE, PreTokens, packed

_LONGEST_KEPT: Final = 64
"""Characters of a text whose ids are kept: what templates write between control tokens is short."""
_MOST_KEPT: Final = 1024
_WHITE_SPACE: Final = " \t\n\v\f\r"
"""What control tokens take that take white space, of ASCII."""


class Surroundings(NamedTuple):
    """What stands around a text: ids, as far as control tokens part it from the rest, and what is encoded with it."""

    lead: bytes
    """Packed ids of what stands before the text, through the last control token."""
    control: str
    """The text of that token."""
    before: str
    """What stands between it and the text."""
    after: str
    """What stands between the text and the next control token."""
    trail: bytes
    """Packed ids of what stands after the text, from that token on."""


class _Written:
    """Ids that are put together part by part, and at which characters a token is known to begin."""

    __slots__ = ("_characters", "_tokens", "ids")

    def __init__(self) -> None:
        self.ids = array("i")
        self._characters: list[int] = []
        """In order."""
        self._tokens: list[int] = []

    def add(self, ids: bytes, position: int, inside: Iterable[tuple[int, int]] = ()) -> None:
        """Add a part that begins at a character, and (character, token of the part) inside of it, in order."""
        for character, token in ((position, 0), *inside):
            self._characters.append(character)
            self._tokens.append(len(self.ids) + token)
        self.ids.frombytes(ids)

    def token_at(self, character: int) -> int:
        """Index of the first token that begins at a character that was asked for, or after it."""
        place = bisect_left(self._characters, character)
        return self._tokens[place] if place < len(self._tokens) else len(self.ids)


class IsolatedTexts:
    """Encodes texts between control tokens, for one tokenizer. Safe for threads."""

    def __init__(self, tokenizer: Tokenizer, added: AddedTokens, pre_tokens: PreTokens | None) -> None:
        self._tokenizer = tokenizer
        self._added = added
        self._packed = {added.texts[token_id]: packed([token_id]) for token_id in added.parting_ids}
        self._pre_tokens = pre_tokens
        self._taking_nothing = {added.texts[token_id] for token_id in added.parting_ids & added.isolating_ids}
        self._encode_short = lru_cache(maxsize=_MOST_KEPT)(self._encode_one)
        self._encode_short_marked = lru_cache(maxsize=_MOST_KEPT)(self._encode_marked)

    def encode(self, last: int | None, text: str, marks: Sequence[int] = ()) -> Encoded | None:
        """Ids of a text after the token `last`; None where nothing parts it from what stands before.

        Args:
            last: the token before the text; None: the text is the first.
            text: what is to be encoded.
            marks: characters of the text whose tokens are asked for.
        """
        begins_parted = last is None and self._added.parting_pattern.match(text)
        if not begins_parted and last not in self._added.parting_ids:
            return None
        written, in_order = _Written(), sorted(marks)
        control, position = self._added.text_of(last), 0
        for found in self._added.parting_pattern.finditer(text):
            start, end = found.span()
            if start > position:
                self._add(written, control, text[position:start], position, in_order)
            control, position = found[0], end
            written.add(self._packed[control], start)
        if position < len(text):
            self._add(written, control, text[position:], position, in_order)
        return Encoded(np.frombuffer(written.ids, dtype=np.int32), [*map(written.token_at, marks)])

    def _add(self, written: _Written, control: str, text: str, position: int, marks: Sequence[int]) -> None:
        """Add the ids of one part, and where the marks inside of it stand; the marks are in order."""
        # The control token goes along: some tokenizers put a space before the first text of all.
        whole = control + text
        inside = marks[bisect_right(marks, position) : bisect_left(marks, position + len(text))]
        if inside:
            encode = self._encode_short_marked if len(whole) <= _LONGEST_KEPT else self._encode_marked
            found, tokens = encode(control, text, tuple(mark - position for mark in inside))
            written.add(found, position, zip(inside, tokens, strict=True))
        elif len(whole) <= _LONGEST_KEPT:
            written.add(self._encode_short(whole), position)
        else:
            written.add(self._encode_after(control, text), position)

    def _encode_marked(self, control: str, text: str, marks: tuple[int, ...]) -> tuple[bytes, list[int]]:
        """Packed ids of a text after a control token, without that token's; the index of each marked character's."""
        if self._pre_tokens and control in self._taking_nothing:
            found = self._pre_tokens.encode_marked(text, marks)
            if found is not None:
                return found

        def encode() -> tuple[bytes, list[int]]:
            encoding = encoding_of(self._tokenizer, control + text)
            return packed(encoding.ids[1:]), [token_at(encoding, len(control) + mark) - 1 for mark in marks]

        return in_turn(len(text), encode)

    def _encode_after(self, control: str, text: str) -> bytes:
        """Packed ids of a text after a control token, without that token's."""
        if self._pre_tokens:
            ids = self._pre_tokens.encode(text if control in self._taking_nothing else text.lstrip(_WHITE_SPACE))
            if ids is not None:
                return ids
        return self._encode_one(control + text)

    def _encode_one(self, whole: str) -> bytes:
        return packed(ids_of(self._tokenizer, whole)[1:])

    def surroundings(self, last: int, before: str, after: str) -> Surroundings | None:
        """What is always the same around a text between `before` and `after`, after the token `last`.

        None where that token parts nothing.
        """
        if last not in self._added.parting_ids:
            return None
        control, opened = self._added.texts[last], 0
        for found in self._added.parting_pattern.finditer(before):
            control, opened = found[0], found.end()
        closed = self._added.parting_pattern.search(after)
        end = len(after) if closed is None else closed.start()
        lead, trail = self.encode(last, before[:opened]), self.encode(last, after[end:])
        if lead is None or trail is None:
            return None
        return Surroundings(lead.ids.tobytes(), control, before[opened:], after[:end], trail.ids.tobytes())

    def encode_in(self, surroundings: Surroundings, text: str, marks: tuple[int, ...] = ()) -> Encoded:
        """Ids of a text with what stands around it.

        Args:
            surroundings: what stands around it.
            text: what is to be encoded.
            marks: characters of what control tokens do not part from the text, in order, whose tokens are asked for.
        """
        lead, control, before, after, trail = surroundings
        whole = before + text + after
        ids, tokens = self._encode_marked(control, whole, marks) if marks else (self._encode_after(control, whole), [])
        told = np.frombuffer(b"".join((lead, ids, trail)), dtype=np.int32)
        return Encoded(told, [len(lead) // ID_SIZE + token for token in tokens])
