"""Whether a text would be encoded otherwise in one piece with what stands before it.

Asked of every sampled span, about the end of its prompt. Three things keep that cheap. What stands before the last
parting token of a prompt decides nothing (see `AddedTokens`), and after it prompts are alike. Most tokenizers first cut
a text into pieces, from left to right, across whose edges nothing merges: there the first sampled token settles the
answer, if it is more than white space, and many turns begin with the same token. And of such a text only the last
pieces can join what follows: that counts where no token parts. An added token need not part texts: a line break that is
one becomes another with the line break after it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Final
from unicodedata import combining

from tokenizers import Encoding, Tokenizer

from chatenv_client.tokens import Int32Array
from chatenv_server.engine.added_tokens import AddedTokens
from chatenv_server.engine.encodings import UNREADABLE, encoding_of, reaches_over, token_at
from chatenv_server.engine.spellings import normalized
from chatenv_server.engine.split_pattern import Cut

CONTEXT_TOKENS: Final = 8
"""Tokens before a boundary of ordinary text that are looked at, to see what would merge across it."""
_FIRST_TOKENS: Final = 4
"""Sampled tokens that are looked at where the first one settles nothing."""
_LAST_PIECES: Final = 2
"""Pieces before a boundary that are looked at, where it is certain where they begin."""
_MOST_KEPT: Final = 8192
"""Answers that are kept."""

TextOf = Callable[[Sequence[int], Sequence[int]], str]
"""Text of token ids, given those before them."""


class Boundaries:
    """The edges of texts under one tokenizer. Safe for threads."""

    def __init__(
        self, tokenizer: Tokenizer, added: AddedTokens, neutral_text: str, text_of: TextOf, ascii_cut: Cut | None
    ) -> None:
        self._tokenizer = tokenizer
        self._added = added
        self._neutral_text = neutral_text
        self._text_of = text_of
        cutter = tokenizer.pre_tokenizer
        self._ascii_cut = ascii_cut
        self._cuts_pieces = cutter is not None and len(cutter.pre_tokenize_str("a\nb")) > 1
        # Prompts end alike, in the generation prompt, and many turns begin alike.
        self._encode_context = lru_cache(maxsize=1024)(self._encode)
        self._end_of = lru_cache(maxsize=1024)(self._last_pieces)
        self._read_context = lru_cache(maxsize=1024)(self._cut_context)
        self._is_settled = lru_cache(maxsize=_MOST_KEPT)(self._settle)
        self._merges = lru_cache(maxsize=_MOST_KEPT)(self._look)

    def merges(self, before: Int32Array, ids: Int32Array) -> bool:
        """Whether encoding the text of `before` and `ids` together gives other tokens for the text of `before`."""
        if len(before) == 0 or len(ids) == 0 or ids.item(0) in self._added.parting_ids:
            return False
        context = self._from_last_parting(before[-CONTEXT_TOKENS:].tolist())
        settled = self._is_settled(self._end_of(context), ids.item(0))
        return self._merges(context, tuple(ids[:_FIRST_TOKENS].tolist())) if settled is None else settled

    def edge(self, encoding: Encoding, context: str) -> tuple[int, bool]:
        """Where `context` ends in an encoding of it and more.

        Returns:
            The number of tokens that begin in the context, and whether what follows changes the context's own tokens.
        """
        alone = self._encode_context(context)
        if encoding.ids[: len(alone)] == alone and not reaches_over(encoding, len(alone), len(context)):
            return len(alone), False  # nearly always, and cheaper to see than where the edge lies
        count = token_at(encoding, len(context))
        return count, reaches_over(encoding, count, len(context)) or alone != encoding.ids[:count]

    def _from_last_parting(self, ids: list[int]) -> tuple[int, ...]:
        for place in range(len(ids) - 1, 0, -1):
            if ids[place] in self._added.parting_ids:
                return tuple(ids[place:])
        return tuple(ids)

    def _last_pieces(self, before: tuple[int, ...]) -> tuple[int, ...]:
        """The tokens of the last pieces of an ASCII text; all where those are not certain, or no token begins there."""
        text = self._text_of(before, ())
        if self._ascii_cut is None or not text.isascii() or not self._added.texts.keys().isdisjoint(before):
            return before
        length = sum(map(len, self._ascii_cut(text)[-_LAST_PIECES:]))
        ends = (before[place:] for place in reversed(range(1, len(before))))
        return next((end for end in ends if len(self._text_of(end, ())) == length), before)

    def _settle(self, before: tuple[int, ...], first: int) -> bool | None:
        """Whether `before` merges with whatever begins with the token `first`; None where more has to be seen."""
        if len(before) == 1 and before[0] in self._added.parting_ids:
            return self._settle_parted(before, first)
        return self._settle_cut(before, first) if self._cuts_pieces else None

    def _settle_parted(self, before: tuple[int, ...], first: int) -> bool | None:
        """The same, after a token that takes nothing from a text but the white space at its beginning."""
        if first in self._added:
            return None
        if before[0] in self._added.isolating_ids:
            return False
        more = self._text_of((first,), before)
        return False if more and not more[0].isspace() else None

    def _settle_cut(self, before: tuple[int, ...], first: int) -> bool | None:
        """The same, of a tokenizer that cuts a text into pieces first."""
        context = self._read_context(before)
        if context is None or first in self._added:
            return None
        more = self._text_of((first,), before)
        text, alone = context
        if not more.strip() or UNREADABLE in more or combining(more[0]) or self._added.may_begin_in(text, more):
            return None
        if not self._is_normal(text + more):
            return None
        together = self._edges(text + more)
        if together[: len(alone)] == alone:
            return False
        if len(text) not in together:
            return None  # one piece reaches over the edge, and may go on
        return self._look(before, (first,))

    def _cut_context(self, before: tuple[int, ...]) -> tuple[str, list[int]] | None:
        """The text of `before`, and where its pieces end; None where that decides nothing."""
        # A token that takes nothing from a text is found before anything is cut: the pieces begin after it.
        start = int(before[0] in self._added.isolating_ids and before[0] in self._added.parting_ids)
        text = self._text_of(before[start:], before[:start])
        if any(token_id in self._added for token_id in before[start:]) or not self._is_normal(text):
            return None
        return text, self._edges(text)

    def _look(self, before: tuple[int, ...], first: tuple[int, ...]) -> bool:
        context = self._neutral_text + self._text_of(before, ())
        encoding = encoding_of(self._tokenizer, context + self._text_of(first, before))
        return self.edge(encoding, context)[1]

    def _is_normal(self, text: str) -> bool:
        return normalized(self._tokenizer.normalizer, text) == text

    def _edges(self, text: str) -> list[int]:
        """Where the pieces end that a text is cut into."""
        if self._ascii_cut is not None and text.isascii():
            return [*accumulate(map(len, self._ascii_cut(text)))]
        cutter = self._tokenizer.pre_tokenizer
        return [] if cutter is None else [stop for _, (_, stop) in cutter.pre_tokenize_str(text)]

    def _encode(self, text: str) -> list[int]:
        return encoding_of(self._tokenizer, text).ids
