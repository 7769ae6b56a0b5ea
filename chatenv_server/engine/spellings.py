"""Where a text spells certain added tokens: as they are, or in another form that the tokenizer's normaliser undoes.

A tokenizer may look for some of its added tokens after normalising, and then finds them in capitals or in full-width
letters, too. Knows nothing of messages or templates.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterable, Mapping, Sequence

from tokenizers import AddedToken, Tokenizer, models
from tokenizers.normalizers import Normalizer


def any_of(texts: Iterable[str]) -> re.Pattern[str]:
    """A pattern that matches any of `texts`, the longest first.

    What several begin in is written once: some tokenizers have thousands of tokens that begin alike.
    """
    return re.compile(_any_of(sorted({text for text in texts if text})) or "(?!)")


def _any_of(texts: Sequence[str]) -> str:
    """The pattern of texts that are sorted and different; of them, only the first may be empty."""
    branches = []
    for _, alike in itertools.groupby(filter(None, texts), key=lambda text: text[0]):
        group = [*alike]
        start = os.path.commonprefix([group[0], group[-1]])  # noqa: RUF071 - character by character is what is wanted
        branches.append(re.escape(start) + _any_of([text[len(start) :] for text in group]))
    if not branches:
        return ""
    either = f"(?:{'|'.join(branches)})"
    return f"{either}?" if "" in texts[:1] else either


def add_in_order(tokenizer: Tokenizer, added: Mapping[int, AddedToken]) -> None:
    """Add tokens in the order of their ids."""
    in_order = (token for _, token in sorted(added.items()))
    for special, run in itertools.groupby(in_order, lambda token: token.special):  # one by one would take seconds
        add = tokenizer.add_special_tokens if special else tokenizer.add_tokens
        add([*run])


def normalized(normalizer: Normalizer | None, text: str) -> str:
    """A text as a tokenizer with this normaliser looks at it."""
    return text if normalizer is None else str(normalizer.normalize_str(text))


class Spellings:
    """Finds certain added tokens of one tokenizer in texts. Immutable; safe for threads.

    Args:
        texts: of the tokens to be found.
        added: every added token of the tokenizer, by id.
        normalizer: the tokenizer's.
    """

    def __init__(self, texts: Iterable[str], added: Mapping[int, AddedToken], normalizer: Normalizer | None) -> None:
        self.texts = frozenset(texts)
        """Of the tokens that are found."""
        self._as_they_are = any_of(self.texts)
        self._normalizer = normalizer
        self._normalized: re.Pattern[str] | None = None
        found_late = [token.content for token in added.values() if token.normalized]
        if normalizer is None or self.texts.isdisjoint(found_late):
            return
        self._normalized = any_of(map(self._plain, self.texts.intersection(found_late)))
        # It finds the same added tokens at the same places, and makes one token of all that lies between.
        self._finder = Tokenizer(models.WordLevel({"": 0}, unk_token=""))
        self._finder.normalizer = normalizer
        add_in_order(self._finder, added)
        self._ids = {self._finder.token_to_id(text) for text in self.texts}

    def occur_in(self, text: str) -> bool:
        """Whether a text spells one of the tokens."""
        if self._as_they_are.search(text) is not None:
            return True
        return self._normalized is not None and bool(self.in_(text))

    def in_(self, text: str) -> list[tuple[int, int]]:
        """Where a text spells the tokens: the first character of each and the one after its last, in order."""
        spans = [found.span() for found in self._as_they_are.finditer(text)]
        if not self._may_be_late_in(text):
            return spans
        encoding = self._finder.encode(text, add_special_tokens=False)
        late = (place for place, found in zip(encoding.offsets, encoding.ids, strict=True) if found in self._ids)
        return _disjoint([*spans, *late])

    def _may_be_late_in(self, text: str) -> bool:
        return self._normalized is not None and self._normalized.search(self._plain(text)) is not None

    def _plain(self, text: str) -> str:
        return normalized(self._normalizer, text)


def _disjoint(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Spans in order, those that overlap made one."""
    united: list[tuple[int, int]] = []
    for start, stop in sorted(spans):
        if united and start < united[-1][1]:
            united[-1] = (united[-1][0], max(stop, united[-1][1]))
        else:
            united.append((start, stop))
    return united
