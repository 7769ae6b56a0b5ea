"""The bytes of tokens, and the text of token ids read straight off them.

The library's decoder does the same for any tokenizer; for one whose tokens are bytes, or pieces of text beside bytes,
looking the bytes up takes half the time. Knows nothing of messages or templates.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Final

import numpy as np
from tokenizers import Tokenizer, decoders

from chatenv_client.tokens import Int32Array


def byte_level_alphabet() -> list[str]:
    """The characters that byte-level tokenizers write for bytes 0 to 255.

    Printable Latin-1 stands for itself; the other bytes take the code points from 256 on, in order
    (Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.2).
    """
    substitutes = iter(range(256, 512))
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    return [chr(byte if byte in printable else next(substitutes)) for byte in range(256)]


_BYTE_OF: Final = {character: byte for byte, character in enumerate(byte_level_alphabet())}

_LONE_BYTE: Final = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_PIECES_OF_TEXT: Final = [
    {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
    {"type": "ByteFallback"},
    {"type": "Fuse"},
]
"""The decoder of tokenizers in SentencePiece's manner, which write a space as U+2581, and some bytes as `<0x0A>`."""
_NO_FIRST_SPACE: Final = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
"""Often follows: it takes the first space of a text."""


_MOST_LOOKED_AT: Final = 1024
"""Places that are looked at for one where tokens part. Whoever samples decides how long a run of bytes is."""


class TokenBytes:
    """The bytes of every token of a tokenizer, looked up when they are first asked for. Safe for threads.

    Args:
        tokenizer: whose tokens they are.
        bytes_of: the bytes of a token as the vocabulary writes it.
        replaces_broken: whether the library makes of broken UTF-8 what Python does.
    """

    def __init__(self, tokenizer: Tokenizer, bytes_of: Callable[[str], bytes], *, replaces_broken: bool) -> None:
        self._known = np.full(tokenizer.get_vocab_size(with_added_tokens=True), None, dtype=object)
        """By id; None where nobody has asked. numpy takes those of a hundred ids in half the time of a loop."""
        self._text_of = tokenizer.id_to_token
        self._bytes_of = bytes_of
        self._errors = "replace" if replaces_broken else "strict"

    def __getitem__(self, token_id: int) -> bytes:
        """The bytes of a token; none of an id that no token has."""
        is_listed = token_id < len(self._known)
        found: bytes | None = self._known[token_id] if is_listed else None
        if found is None:
            found = self._bytes_of(self._text_of(token_id) or "")
            if is_listed:
                self._known[token_id] = found
        return found

    def parting_place(self, ids: Int32Array, count: int) -> int | None:
        """The last place, from `count` back, at which the text before and the text after are the text of all.

        None where there is none near.
        """
        last = min(count, len(ids) - 1)
        for place in range(last, max(0, last - _MOST_LOOKED_AT), -1):
            if self._part(ids[max(0, place - 3) : place].tolist(), ids.item(place)):
                return place
        return None

    def _part(self, before: list[int], after: int) -> bool:
        *_, last = before
        if not all(self[token_id] for token_id in (*before, after)):
            return False  # a token that says nothing may stand inside of a character
        if self._errors == "strict":  # one broken character spoils all bytes beside it
            return not (self._is_lone_byte(last) and self._is_lone_byte(after))
        # No character has more than four bytes, so no more than three before the place matter.
        end, start = b"".join(map(self.__getitem__, before))[-3:], self[after][:1]
        return (end + start).decode(errors="replace") == end.decode(errors="replace") + start.decode(errors="replace")

    def _is_lone_byte(self, token_id: int) -> bool:
        return _LONE_BYTE.fullmatch(self._text_of(token_id) or "") is not None

    def decode(self, ids: Int32Array) -> str | None:
        """The text of token ids; None where only the library knows what becomes of broken UTF-8."""
        try:
            whole = b"".join(self._known.take(ids).tolist())
        except (TypeError, IndexError):  # a token that nobody has asked for yet, or an id that no token has
            whole = b"".join(map(self.__getitem__, ids.tolist()))
        try:
            return whole.decode(errors=self._errors)
        except UnicodeDecodeError:
            return None


def token_bytes(tokenizer: Tokenizer, *, after_text: bool) -> TokenBytes | None:
    """The bytes of a tokenizer's tokens; None where its decoder does more than put bytes together.

    Args:
        tokenizer: whose tokens they are.
        after_text: whether what is decoded is never the first of a text.
    """
    if isinstance(tokenizer.decoder, decoders.ByteLevel):
        return TokenBytes(tokenizer, _of_byte_level, replaces_broken=True)
    if isinstance(tokenizer.decoder, decoders.Sequence):
        steps = json.loads(tokenizer.decoder.__getstate__())["decoders"]
        if steps == _PIECES_OF_TEXT or (after_text and steps == [*_PIECES_OF_TEXT, _NO_FIRST_SPACE]):
            return TokenBytes(tokenizer, _of_piece, replaces_broken=False)
    return None


def _of_byte_level(written: str) -> bytes:
    try:
        return bytes(map(_BYTE_OF.__getitem__, written))
    except KeyError:
        return written.encode()  # an added token, which is written as it is


def _of_piece(written: str) -> bytes:
    byte = _LONE_BYTE.fullmatch(written)
    return bytes([int(byte[1], 16)]) if byte else written.replace("\u2581", " ").encode()
