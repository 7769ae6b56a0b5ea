"""Text to token ids and back, for one fast tokenizer: after an anchor, with or without the added vocabulary.

Works on a private copy of the tokenizer's parts, so truncation, padding or other switches that somebody flips on the
original never reach the token stream, and threads need no lock. Knows nothing of messages or templates.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
from tokenizers import Encoding, Tokenizer

from chatenv_client.models import TokenText
from chatenv_client.tokens import Int32Array
from chatenv_server.engine.added_tokens import AddedTokens
from chatenv_server.engine.boundaries import CONTEXT_TOKENS, Boundaries
from chatenv_server.engine.encodings import (
    LONG,
    UNREADABLE,
    Encoded,
    decoded,
    encoding_of,
    in_turn,
    reaches_over,
    token_at,
)
from chatenv_server.engine.isolated_texts import IsolatedTexts
from chatenv_server.engine.pre_tokens import PreTokens
from chatenv_server.engine.spellings import add_in_order, normalized
from chatenv_server.engine.token_bytes import TokenBytes, token_bytes
from chatenv_server.engine.written_text import written_text

_OFFSETS = re.compile(r'"trim_offsets":(true|false),?')

_DECODED_AGAIN = range(4, 9)
"""How many of the tokens that were decoded before are decoded again with those that go on: of four places in a row, one
is between two characters."""


class _Piece(NamedTuple):
    """One encoded piece of a text; `lead` characters and `dropped` tokens of the encoding are its anchor's."""

    first: int
    encoding: Encoding
    lead: int = 0
    dropped: int = 0

    @property
    def ids(self) -> list[int]:
        return self.encoding.ids[self.dropped :]

    def token_at(self, character: int) -> int:
        """Index, among this piece's tokens, of the first one at a character of the text or after it."""
        return token_at(self.encoding, character - self.first + self.lead, self.dropped) - self.dropped


class Codec:
    """Encodes and decodes for one tokenizer. Its tables fill as they are used; safe to share between threads."""

    def __init__(self, backend: Tokenizer) -> None:
        self._tokenizer = _private_copy(backend)
        self._bare = _without_added_tokens(backend)
        self.added = AddedTokens(self._tokenizer)
        self._token_bytes = token_bytes(self._tokenizer, after_text=self.added.neutral_id is not None)
        self.vocabulary_size = self._tokenizer.get_vocab_size(with_added_tokens=True)
        # The neutral token stands for "something came before".
        self._neutral_text = self.added.text_of(self.added.neutral_id)
        # Some tokenizers put a space of their own before text after a control token.
        self._writes_prefix_space = self._decode_run(_array(self._encode_after_neutral("a"))).startswith(" ")
        written = written_text(self._tokenizer, self.added)
        cut = None if written is None else written.cut
        self.boundaries = Boundaries(self._tokenizer, self.added, self._neutral_text, self._text_of, cut)
        self._newline_ids = self._tokenizer.encode("\n", add_special_tokens=False).ids
        pre_tokens = None if written is None else PreTokens(written, self._tokenizer.model, self.added)
        self.isolated_texts = IsolatedTexts(self._tokenizer, self.added, pre_tokens)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of all that decides how text is encoded, in hexadecimal digits; 0.1 s for a large vocabulary."""
        # Two readers of one folder may differ in the decoder, and in where tokens are said to stand.
        steps, _, rest = self._tokenizer.to_str().partition('"decoder":')
        _, _, model = rest.partition('"model":')
        return hashlib.sha256((_OFFSETS.sub("", steps) + model).encode()).hexdigest()

    def common_prefix(self, left: str, right: str) -> str:
        """The longest common prefix of two rendered texts that cuts no added token in two."""
        if left.startswith(right):
            return right
        return left[: self.added.cuts(left, shared_prefix_length(left, right))]

    def id_of(self, text: str) -> int | None:
        """Id of the token with exactly this text."""
        return self._tokenizer.token_to_id(text)

    # -- encoding ---------------------------------------------------------------------------------

    def encode(self, text: str) -> list[int]:
        """Ids of a rendered text as transformers would encode it, without adding special tokens."""
        return in_turn(len(text), lambda: encoding_of(self._tokenizer, text).ids)

    def encode_pieces(
        self, pieces: Sequence[tuple[str, bool]], before: Int32Array, marks: Sequence[int] = ()
    ) -> Encoded:
        """Encode a text that goes on after the tokens `before`.

        Args:
            pieces: the text in pieces of (text, is_control_text); control text is encoded as ordinary text although
                it spells added tokens. See `ControlTokens.split`.
            before: (n,) int32, the stream so far or the end of it; empty at the start of a stream.
            marks: characters of the whole text whose tokens are asked for.

        Raises:
            ValueError: control text cannot be encoded as ordinary text by this tokenizer.
        """
        if len(pieces) == 1 and not pieces[0][1]:
            parted = self.isolated_texts.encode(before.item(-1) if len(before) else None, pieces[0][0], marks)
            if parted is not None:
                return parted

        def encode() -> Encoded:
            encoded, merged = self._encode_each(pieces, before)
            ids = [token_id for piece in encoded for token_id in piece.ids]
            return Encoded(np.array(ids, dtype=np.int32), [*_tokens_at(encoded, marks)], merged)

        return in_turn(sum(len(text) for text, _ in pieces), encode)

    def _encode_each(self, pieces: Sequence[tuple[str, bool]], before: Int32Array) -> tuple[list[_Piece], bool]:
        encoded: list[_Piece] = []
        merged = False
        first = 0
        for text, as_text in pieces:
            if not text:
                continue
            if first > 0 or as_text:
                piece = self._encode_inside(text, self._bare if as_text else self._tokenizer, first)
                self._check_escaped(text, as_text, piece)
            elif len(before) > 0:
                piece, merged = self._encode_after(text, before)
            else:
                piece = _Piece(0, encoding_of(self._tokenizer, text))
            encoded.append(piece)
            first += len(text)
        return encoded, merged

    def _check_escaped(self, text: str, as_text: bool, piece: _Piece) -> None:
        if as_text and any(i in self.added and self._spells(text, self.added.texts[i]) for i in piece.ids):
            raise ValueError("this tokenizer makes a control token even of plain text that spells it")

    def _spells(self, text: str, token: str) -> bool:
        normalizer = self._tokenizer.normalizer
        return token in text or normalized(normalizer, token) in normalized(normalizer, text)

    def _encode_after(self, text: str, before: Int32Array) -> tuple[_Piece, bool]:
        """Encode after an anchor, the text of what stands before, and drop the anchor's ids again."""
        last = before.item(-1)
        if last in self.added:
            anchor = self.added.texts[last]
            encoding = encoding_of(self._tokenizer, anchor + text)
            if encoding.ids[:1] == [last]:
                return _Piece(0, encoding, len(anchor), 1), False
        return self._encode_after_text(text, before)

    def _encode_after_text(self, text: str, before: Int32Array) -> tuple[_Piece, bool]:
        context = self._neutral_text + self.decode(before[-CONTEXT_TOKENS:])
        encoding = encoding_of(self._tokenizer, context + text)
        dropped, merged = self.boundaries.edge(encoding, context)
        if not merged:
            return _Piece(0, encoding, len(context), dropped), False
        if dropped and text.lstrip().startswith(self.added.text_of(encoding.ids[dropped - 1]) or "\0"):
            # A control token that swallows the white space before it: the token still has to be written.
            return _Piece(0, encoding, len(context), dropped - 1), True
        if reaches_over(encoding, dropped, len(context)):
            return self._encode_inside(text, self._tokenizer, 0), True
        return _Piece(0, encoding, len(context), dropped), True

    def _encode_inside(self, text: str, tokenizer: Tokenizer, first: int) -> _Piece:
        """Encode a piece from the middle of a text, after a newline so that no prefix space is added."""
        encoding = encoding_of(tokenizer, "\n" + text)
        if encoding.ids[: len(self._newline_ids)] == self._newline_ids:
            return _Piece(first, encoding, 1, len(self._newline_ids))
        return _Piece(first, encoding_of(tokenizer, text))

    def _encode_after_neutral(self, text: str) -> list[int]:
        if self.added.neutral_id is None:
            return []
        return self._tokenizer.encode(self._neutral_text + text, add_special_tokens=False).ids[1:]

    # -- single tokens ----------------------------------------------------------------------------

    @cached_property
    def _bytes_inside(self) -> TokenBytes | None:
        """As `_token_bytes`, of tokens that are not the first of a text."""
        return token_bytes(self._tokenizer, after_text=True)

    def token_text(self, token_id: int) -> TokenText:
        """What a token stands for in the middle of a stream; an empty text where there is none of this id."""
        if token_id in self.added:
            return TokenText(self.added.texts[token_id].encode(), is_control=True)
        if token_id < 0 or self._tokenizer.id_to_token(token_id) is None:
            return TokenText(b"")
        if self._bytes_inside is not None:
            return TokenText(self._bytes_inside[token_id])
        return TokenText(self._decode_run(_array([token_id])).encode())

    # -- decoding ---------------------------------------------------------------------------------

    def decode(self, ids: Int32Array) -> str:
        """Text of token ids in the middle of a stream: no leading space is lost, control tokens are shown."""
        return self._decode(ids)

    def decode_after(self, before: Int32Array, ids: Int32Array) -> str:
        """Text of token ids that follow the tokens `before`."""
        return self._text_after(ids, before)

    def decode_on(self, text: str, count: int, before: Int32Array, ids: Int32Array) -> str:
        """As `decode_after`, where the first `count` of the ids are known to read `text`: costs what is new."""
        for start in self._places_to_go_on(ids, count):
            last = ids[start - 1 : start]
            again = self.decode_after(last, ids[start:count])
            kept = text[: len(text) - len(again)]
            # The tokens part where neither side has a piece of a character that the other one completes.
            parted = self._token_bytes is not None or not kept.endswith(UNREADABLE)
            if kept and parted and text.endswith(again):
                return kept + self.decode_after(last, ids[start:])
        return self.decode_after(before, ids)

    def _places_to_go_on(self, ids: Int32Array, count: int) -> list[int]:
        """Where tokens may part of which the first `count` were decoded before."""
        if self._token_bytes is None:
            return [count - few for few in _DECODED_AGAIN if few < count]
        place = self._token_bytes.parting_place(ids, count)
        return [] if place is None else [place]

    def _text_of(self, ids: Sequence[int], before: Sequence[int]) -> str:
        return self._text_after(_array(ids), _array(before))

    def _text_after(self, ids: Int32Array, before: Int32Array) -> str:
        if not self._writes_prefix_space:
            return self._decode_run(ids)
        text = self._decode(ids)
        artificial = len(before) > 0 and before.item(-1) in self.added
        return text.removeprefix(" ") if artificial else text

    def _decode(self, ids: Int32Array) -> str:
        if not self._writes_prefix_space or self.added.texts.keys().isdisjoint(ids.tolist()):
            return self._decode_run(ids)
        text, start = "", 0
        controls = [place for place, token_id in enumerate(ids.tolist()) if token_id in self.added.texts]
        for place in (*controls, len(ids)):
            if place > start:
                run = self._decode_run(ids[start:place])
                text += run.removeprefix(" ") if text else run
            text += self.added.text_of(ids.item(place)) if place < len(ids) else ""
            start = place + 1
        return text

    def _decode_run(self, ids: Int32Array) -> str:
        if self._token_bytes is not None and len(ids) < LONG:
            text = self._token_bytes.decode(ids)
            if text is not None:
                return text
        if self.added.neutral_id is None:
            return decoded(self._tokenizer, ids.tolist())
        return decoded(self._tokenizer, [self.added.neutral_id, *ids.tolist()])[len(self._neutral_text) :]


def _array(ids: Sequence[int]) -> Int32Array:
    return np.array(ids, dtype=np.int32)


def _tokens_at(pieces: Sequence[_Piece], characters: Iterable[int]) -> Iterator[int]:
    """For each of some characters, the index of the first token that starts there or after it."""
    firsts = [piece.first for piece in pieces]
    passed = [*itertools.accumulate((len(piece.encoding) - piece.dropped for piece in pieces), initial=0)]
    for character in characters:
        number = bisect_right(firsts, character) - 1
        yield passed[number] + pieces[number].token_at(character) if pieces and character else 0


def shared_prefix_length(left: str, right: str) -> int:
    """Length of the longest common prefix of two texts."""
    return len(os.path.commonprefix([left, right]))  # noqa: RUF071 - character by character is what is wanted


def _private_copy(backend: Tokenizer) -> Tokenizer:
    copy = _without_added_tokens(backend)
    added = backend.get_added_tokens_decoder()
    add_in_order(copy, added)
    if copy.get_added_tokens_decoder() == added:
        return copy
    # Ids with holes between them cannot be added again in order; a copy by text is right, only ten times slower.
    copy = Tokenizer.from_str(backend.to_str())
    copy.no_truncation()
    copy.no_padding()
    return copy


def _without_added_tokens(tokenizer: Tokenizer) -> Tokenizer:
    # The parts are shared by reference. Left out: the added vocabulary, truncation, padding, and the
    # post-processor, which would trim offsets.
    bare = Tokenizer(tokenizer.model)
    for part in ("normalizer", "pre_tokenizer", "decoder"):
        if getattr(tokenizer, part) is not None:
            setattr(bare, part, getattr(tokenizer, part))
    return bare
