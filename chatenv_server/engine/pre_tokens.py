"""Ids of short ASCII texts, put together from those of their pre-tokens.

Most tokenizers cut a text into pre-tokens, words as a rule, and encode each for itself. Most words of a text were seen
before, so their ids need not be found again: that takes a third of the time. What this cannot tell is left to the
tokenizer. Ids are packed, as int32 in bytes: bytes are put together faster than lists.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Final

from tokenizers import models

from chatenv_server.engine.added_tokens import AddedTokens
from chatenv_server.engine.encodings import LONG
from chatenv_server.engine.written_text import WrittenText

_LONGEST_KEPT: Final = 64
"""Characters of a pre-token whose ids are kept."""
MOST_KEPT: Final = 2**15
"""Pre-tokens whose ids are kept; when there are more, all are forgotten. Some four megabytes."""
ID_SIZE: Final = array("i").itemsize
"""Bytes of a packed id."""


def packed(ids: Iterable[int]) -> bytes:
    """Ids as int32 in bytes."""
    return array("i", ids).tobytes()


class _KnownIds(dict[str, bytes]):
    """Packed ids by pre-token, found when they are first asked for. A dictionary: nothing is asked more often."""

    def __init__(self, model: models.BPE, table: Mapping[int, str]) -> None:
        super().__init__()
        self._model = model
        self._table = table

    def __missing__(self, pre_token: str) -> bytes:
        ids = packed([token.id for token in self._model.tokenize(pre_token.translate(self._table))])
        if len(pre_token) <= _LONGEST_KEPT:
            if len(self) >= MOST_KEPT:
                self.clear()
            self[pre_token] = ids
        return ids


class PreTokens:
    """The pre-tokens of one tokenizer. Safe for threads."""

    def __init__(self, written: WrittenText, model: models.BPE, added: AddedTokens) -> None:
        self._cut, table, self._before = written
        self._added = added.pattern
        self._known = _KnownIds(model, table)

    def encode(self, text: str) -> bytes | None:
        """Packed ids of a text after an added token that takes nothing; None: the tokenizer must tell."""
        if not self._is_plain(text):
            return None
        return self._encode(self._cut(self._before + text if text else ""))

    def encode_marked(self, text: str, marks: Sequence[int]) -> tuple[bytes, list[int]] | None:
        """As `encode`, and for each marked character, in order, the index of the token that starts there.

        None also where a mark lies inside of a pre-token.
        """
        if self._before or not self._is_plain(text):
            return None
        pre_tokens = self._cut(text)
        starts = [0, *accumulate(map(len, pre_tokens))]
        if not set(marks).issubset(starts):
            return None
        places = [0, *map(starts.index, marks), len(pre_tokens)]
        parts = [self._encode(pre_tokens[start:stop]) for start, stop in pairwise(places)]
        return b"".join(parts), [size // ID_SIZE for size in accumulate(map(len, parts[:-1]))]

    def _encode(self, pre_tokens: Iterable[str]) -> bytes:
        return b"".join(map(self._known.__getitem__, pre_tokens))

    def _is_plain(self, text: str) -> bool:
        return len(text) <= LONG and text.isascii() and self._added.search(text) is None
