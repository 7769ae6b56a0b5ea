"""Tokens of the beginnings of one conversation, each rendered as a whole.

Two beginnings mostly share what the shorter one writes. Up to the last control token in there that parts texts (see
`AddedTokens`), what was encoded for one counts for the other. So that part is not encoded again.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from chatenv_client.tokens import EMPTY_TOKENS, Int32Array
from chatenv_server.engine.added_tokens import AddedTokens
from chatenv_server.engine.controls import has_marks
from chatenv_server.engine.tail_encoder import TailEncoder


class _Cut(NamedTuple):
    """A place after a control token, where a text may be cut in two."""

    character: int
    token: int


class GrowingRenders:
    """Encodes renders that share their beginnings. Not safe for threads.

    Args:
        render: the text of so many leading messages; whether it asks for another one.
        encoder: encodes it.
        added: the tokenizer's control tokens.
    """

    def __init__(self, render: Callable[[int, bool], str], encoder: TailEncoder, added: AddedTokens) -> None:
        self._render = render
        self._encoder = encoder
        self._parting = added.parting_pattern
        self._text, self._ids = "", EMPTY_TOKENS
        self._cuts: list[_Cut] = []
        """Of the last text, in order."""

    def tokens(self, count: int, prompt: bool) -> Int32Array:
        """(n,) int32, the full tokenization of the first messages. Raises as `Renderer.whole_tokens`."""
        text = self._render(count, prompt)
        if has_marks(text):
            return self._encoder.encode(text, EMPTY_TOKENS).ids
        shared = bisect_left(self._cuts, 1, key=lambda cut: not text.startswith(self._text[: cut.character]))
        cuts = self._cuts[:shared]
        character, token = cuts[-1] if cuts else _Cut(0, 0)
        ends = [found.end() for found in self._parting.finditer(text, character)]
        encoded = self._encoder.encode(text[character:], self._ids[:token], [end - character for end in ends])
        cuts += [_Cut(end, token + mark) for end, mark in zip(ends, encoded.marks, strict=True)]
        self._text, self._cuts = text, cuts
        self._ids = np.concatenate([self._ids[:token], encoded.ids])
        return self._ids
