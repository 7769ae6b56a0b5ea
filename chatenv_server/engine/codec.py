"""Text to token ids and back, for one fast tokenizer: behind an anchor, with or without the added vocabulary.

Works on a private copy of the tokenizer's parts, so truncation, padding or other switches that somebody flips on the
original never reach the token stream, and threads need no lock. Knows nothing of messages or templates.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, lru_cache, partial
from typing import NamedTuple

import numpy as np
from tokenizers import AddedToken, Encoding, Tokenizer

from chatenv_client.tokens import Int32Array
from chatenv_server.engine.byte_level import token_bytes
from chatenv_server.engine.controls import any_of
from chatenv_server.engine.isolated_texts import IsolatedTexts

_CONTEXT_TOKENS = 8
"""Sampled tokens re-read before a boundary of ordinary text, to see what would merge across it."""

_NO_TOKEN = -1

_FIRST_TOKENS = 4
"""Sampled tokens read behind a prompt, to see whether they would merge with its end."""


_LONG = 4096
"""Characters, or tokens, from which on tokenizing lets other threads run. It would cost the short ones more than it
gives."""


class Encoded(NamedTuple):
    """Token ids of a text, and where each part of the text went."""

    ids: Int32Array
    """(n,) int32."""
    pieces: Callable[[], Sequence[_Piece]]
    """The pieces with their offsets; worked out only when somebody asks."""
    merged: bool = False
    """Encoding the text together with what stands before it would have given other tokens at the boundary."""

    def tokens_at(self, characters: Sequence[int]) -> list[int]:
        """For each character of the text, the index of the first token that starts there or behind; n if none does."""
        if not any(characters):
            return [0] * len(characters)
        pieces = self.pieces()
        return [_token_at(pieces, character) if character else 0 for character in characters]


class _Piece(NamedTuple):
    """One encoded piece of a text; `lead` characters and `dropped` tokens of the encoding are its anchor's."""

    first: int
    encoding: Encoding
    lead: int = 0
    dropped: int = 0

    @property
    def ids(self) -> list[int]:
        ids = self.encoding.ids
        return ids[self.dropped :] if self.dropped else ids


def _first_character(encoding: Encoding, token: int) -> int:
    place = encoding.token_to_chars(token)
    return place[0] if place is not None else 0


def _reaches_over(encoding: Encoding, count: int, context: str) -> bool:
    """Whether the last of the first `count` tokens ends behind `context`."""
    place = encoding.token_to_chars(count - 1) if count else None
    return place is not None and place[1] > len(context)


def _encoding(tokenizer: Tokenizer, text: str) -> Encoding:
    """One text, encoded. While a long one is, other threads run."""
    if len(text) < _LONG:
        return tokenizer.encode(text, add_special_tokens=False)
    return tokenizer.encode_batch([text], add_special_tokens=False)[0]


def _decoded(tokenizer: Tokenizer, ids: list[int]) -> str:
    """Ids, decoded. While many are, other threads run."""
    if len(ids) < _LONG:
        return tokenizer.decode(ids, skip_special_tokens=False)
    return tokenizer.decode_batch([ids], skip_special_tokens=False)[0]


def _token_at(pieces: Sequence[_Piece], character: int) -> int:
    passed = 0
    for piece, follower in itertools.zip_longest(pieces, pieces[1:]):
        if follower is None or character < follower.first:
            # Asking for one token's place at a time is cheaper than a list of all.
            places = range(piece.dropped, len(piece.encoding))
            sought = character - piece.first + piece.lead
            return passed + bisect_left(places, sought, key=partial(_first_character, piece.encoding))
        passed += len(piece.encoding) - piece.dropped
    return passed


class Codec:
    """Encodes and decodes for one tokenizer. Immutable and safe to share between threads."""

    def __init__(self, backend: Tokenizer) -> None:
        self._tokenizer = _private_copy(backend)
        self._bare = _without_added_tokens(backend)
        self._token_bytes = token_bytes(self._tokenizer)
        added = self._tokenizer.get_added_tokens_decoder()
        self.added_tokens: Mapping[int, str] = {token_id: token.content for token_id, token in added.items()}
        """Text of every added token by id, special or not."""
        self.special_ids = frozenset(token_id for token_id, token in added.items() if token.special)
        self.vocabulary_size = self._tokenizer.get_vocab_size(with_added_tokens=True)
        self._added_text = any_of(self.added_tokens.values())
        self._longest_added = max(map(len, self.added_tokens.values()), default=0)
        self._plain_control_ids = frozenset(token_id for token_id, token in added.items() if _takes_nothing(token))
        """Control tokens that take nothing from their neighbours."""
        self._plain_control_text = any_of([self.added_tokens[token_id] for token_id in self._plain_control_ids])
        self._neutral_id = min(self._plain_control_ids & self.special_ids, default=None)
        # The neutral token stands for "something came before".
        self._neutral_text = "" if self._neutral_id is None else self.added_tokens[self._neutral_id]
        # Some tokenizers put a space of their own before text behind a control token.
        self._writes_prefix_space = self._decode_run(self._encode_behind_neutral("a")).startswith(" ")
        # Prompts end alike, in the generation prompt, and many turns begin alike.
        self._encode_context = lru_cache(maxsize=1024)(self.encode)
        self._merges = lru_cache(maxsize=8192)(self._look_for_merge)
        self._newline_ids = self._tokenizer.encode("\n", add_special_tokens=False).ids
        self.enclosures = IsolatedTexts(
            self._tokenizer, self.added_tokens, self._added_text, self._plain_control_ids, self._plain_control_text
        )
        """Encodes texts between control tokens."""

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of all that decides how text is encoded, in hexadecimal digits; 0.1 s for a large vocabulary."""
        return hashlib.sha256(self._tokenizer.to_str().encode()).hexdigest()

    def common_prefix(self, left: str, right: str) -> str:
        """The longest common prefix of two rendered texts that cuts no added token in two."""
        if left.startswith(right):
            return right
        length = shared_prefix_length(left, right)
        for found in self._added_text.finditer(left, max(0, length - self._longest_added)):
            if found.start() < length < found.end():
                return left[: found.start()]
        return left[:length]

    def fixed_length(self, text: str) -> int | None:
        """How many tokens `text` has at the end of any text; None where that depends on what stands before it."""
        ids = self.encode(text)
        return len(ids) if ids and ids[0] in self._plain_control_ids else None

    def length_behind(self, before: Int32Array, prefix: str, text: str) -> int | None:
        """How many tokens `prefix`, the beginning of `text`, has behind `before`; None where that takes an encoding.

        Cheap for the remainder of a turn's close, which is the same again and again.
        """
        if not prefix:
            return 0
        last = int(before[-1]) if len(before) else _NO_TOKEN
        parted = last in self._plain_control_ids and self._plain_control_text.match(text, len(prefix))
        return len(self._encode_context(self.added_tokens[last] + prefix)) - 1 if parted else None

    def parts(self, token_id: int) -> bool:
        """Whether what stands before a token never changes how what stands behind it is encoded, nor the reverse."""
        return token_id in self._plain_control_ids

    def id_of(self, text: str) -> int | None:
        """Id of the token with exactly this text."""
        return self._tokenizer.token_to_id(text)

    def encode(self, text: str) -> list[int]:
        """Ids of a rendered text as transformers would encode it, without adding special tokens."""
        return _encoding(self._tokenizer, text).ids

    def decode_behind(self, before: Int32Array, ids: Int32Array) -> str:
        """Text of token ids that follow the tokens `before`."""
        text = self.decode(ids)
        artificial = self._writes_prefix_space and len(before) > 0 and before.item(-1) in self.added_tokens
        return text.removeprefix(" ") if artificial else text

    def _encode_behind_neutral(self, text: str) -> list[int]:
        if self._neutral_id is None:
            return []
        return self._tokenizer.encode(self.added_tokens[self._neutral_id] + text, add_special_tokens=False).ids[1:]

    def decode(self, ids: Int32Array) -> str:
        """Text of token ids in the middle of a stream: no leading space is lost, control tokens are shown."""
        if not self._writes_prefix_space:
            return self._decode_run(ids.tolist())
        text = ""
        for control, group in itertools.groupby(ids.tolist(), self.added_tokens.__contains__):
            run = list(group)
            part = "".join(map(self.added_tokens.__getitem__, run)) if control else self._decode_run(run)
            text += part.removeprefix(" ") if text and not control else part
        return text

    def _decode_run(self, ids: list[int]) -> str:
        if self._token_bytes is not None and len(ids) < _LONG:
            return self._token_bytes.decode(ids)
        if self._neutral_id is None:
            return _decoded(self._tokenizer, ids)
        return _decoded(self._tokenizer, [self._neutral_id, *ids])[len(self._neutral_text) :]

    def encode_pieces(self, pieces: Sequence[tuple[str, bool]], before: Int32Array) -> Encoded:
        """Encode a text that goes on behind the tokens `before`.

        Args:
            pieces: the text in pieces of (text, is_control_text); control text is encoded as ordinary text although
                it spells added tokens. See `ControlTokens.split`.
            before: (n,) int32, the stream so far or the end of it; empty at the start of a stream.

        Raises:
            ValueError: control text cannot be encoded as ordinary text by this tokenizer.
        """
        if len(pieces) == 1 and not pieces[0][1]:
            ids = self._encode_fast(pieces[0][0], before)
            if ids is not None:
                return Encoded(np.array(ids, dtype=np.int32), lambda: self._encode_each(pieces, before)[0])
        encoded, merged = self._encode_each(pieces, before)
        ids = [token_id for piece in encoded for token_id in piece.ids]
        return Encoded(np.array(ids, dtype=np.int32), lambda: encoded, merged)

    def _encode_fast(self, text: str, before: Int32Array) -> list[int] | None:
        """Ids of a text behind a control token, found without offsets; None where they cannot be found this way."""
        last = int(before[-1]) if len(before) else _NO_TOKEN
        if last not in self.added_tokens:
            return None
        ids = self._tokenizer.encode_batch_fast([self.added_tokens[last] + text], add_special_tokens=False)[0].ids
        return ids[1:] if ids[0] == last else None

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
                piece, merged = self._encode_behind(text, before)
            else:
                piece = _Piece(0, _encoding(self._tokenizer, text))
            encoded.append(piece)
            first += len(text)
        return encoded, merged

    def _check_escaped(self, text: str, as_text: bool, piece: _Piece) -> None:
        if as_text and self.id_of(text) in piece.ids:
            raise ValueError("this tokenizer makes a control token even of plain text that spells it")

    def _encode_behind(self, text: str, before: Int32Array) -> tuple[_Piece, bool]:
        """Encode behind an anchor, the text of what stands before, and drop the anchor's ids again."""
        last = int(before[-1])
        if last in self.added_tokens:
            anchor = self.added_tokens[last]
            encoding = _encoding(self._tokenizer, anchor + text)
            if encoding.ids[:1] == [last]:
                return _Piece(0, encoding, len(anchor), 1), False
        return self._encode_behind_text(text, before)

    def _encode_behind_text(self, text: str, before: Int32Array) -> tuple[_Piece, bool]:
        context = self._neutral_text + self.decode(before[-_CONTEXT_TOKENS:])
        encoding = _encoding(self._tokenizer, context + text)
        dropped, merged = self._boundary(encoding, context)
        if not merged:
            return _Piece(0, encoding, len(context), dropped), False
        if dropped and encoding.ids[dropped - 1] in self.added_tokens:
            # A control token that swallows the white space before it: the token still has to be written.
            return _Piece(0, encoding, len(context), dropped - 1), True
        if _reaches_over(encoding, dropped, context):
            return self._encode_inside(text, self._tokenizer, 0), True
        return _Piece(0, encoding, len(context), dropped), True

    def _boundary(self, encoding: Encoding, context: str) -> tuple[int, bool]:
        """(Tokens that begin in `context`, whether what follows the context changes the context's own tokens)."""
        count = bisect_left(range(len(encoding)), len(context), key=partial(_first_character, encoding))
        return count, _reaches_over(encoding, count, context) or self._encode_context(context) != encoding.ids[:count]

    def merges(self, before: Int32Array, ids: Int32Array) -> bool:
        """Whether encoding the text of `before` and `ids` together gives other tokens for the text of `before`."""
        if len(before) == 0 or len(ids) == 0 or ids.item(0) in self.added_tokens:
            return False
        return self._merges(before[-_CONTEXT_TOKENS:].tobytes(), ids[:_FIRST_TOKENS].tobytes())

    def _look_for_merge(self, before: bytes, first: bytes) -> bool:
        prompt_end = np.frombuffer(before, dtype=np.int32)
        context = self._neutral_text + self._decode_text_end(prompt_end)
        text = context + self.decode_behind(prompt_end, np.frombuffer(first, dtype=np.int32))
        return self._boundary(self._tokenizer.encode(text, add_special_tokens=False), context)[1]

    def _decode_text_end(self, ids: Int32Array) -> str:
        """The text of `ids` from the last control token on."""
        control = [i for i, token_id in enumerate(ids.tolist()) if token_id in self.added_tokens]
        return self.decode(ids[control[-1] :] if control else ids)

    def _encode_inside(self, text: str, tokenizer: Tokenizer, first: int) -> _Piece:
        """Encode a piece from the middle of a text, behind a newline so that no prefix space is added."""
        encoding = _encoding(tokenizer, "\n" + text)
        if encoding.ids[: len(self._newline_ids)] == self._newline_ids:
            return _Piece(first, encoding, 1, len(self._newline_ids))
        return _Piece(first, _encoding(tokenizer, text))


def shared_prefix_length(left: str, right: str) -> int:
    """Length of the longest common prefix of two texts."""
    return len(os.path.commonprefix([left, right]))  # noqa: RUF071 - character by character is what is wanted


def _takes_nothing(token: AddedToken) -> bool:
    return not (token.lstrip or token.rstrip or token.single_word or token.normalized)


def _private_copy(backend: Tokenizer) -> Tokenizer:
    copy = _without_added_tokens(backend)
    added = backend.get_added_tokens_decoder()
    for _, token in sorted(added.items()):
        _ = copy.add_special_tokens([token]) if token.special else copy.add_tokens([token])
    if copy.get_added_tokens_decoder() == added:
        return copy
    # Ids with holes between them cannot be added again in order; a copy by text is right, only ten times slower.
    copy = Tokenizer.from_str(backend.to_str())
    copy.no_truncation()
    copy.no_padding()
    return copy


def _without_added_tokens(tokenizer: Tokenizer) -> Tokenizer:
    # The parts are shared by reference. Left behind: the added vocabulary, truncation, padding, and the
    # post-processor, which would trim offsets.
    bare = Tokenizer(tokenizer.model)
    for part in ("normalizer", "pre_tokenizer", "decoder"):
        if getattr(tokenizer, part) is not None:
            setattr(bare, part, getattr(tokenizer, part))
    return bare
