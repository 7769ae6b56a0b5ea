"""Texts between control tokens: what stands around them is encoded once, and many of them are encoded together.

A control token that takes nothing from its neighbours parts a text: what stands before it never changes how what stands
behind it is encoded. So of a message in its frame only the text is encoded each time, and those of a whole batch can be
encoded ahead by the tokenizer's own threads. Knows nothing of messages but who speaks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final, NamedTuple

import numpy as np

from chatenv_client.tokens import Int32Array

MOST_KEPT: Final = 16
"""Different surroundings that texts are encoded ahead for. Callers choose roles, so there must be a bound."""


class Enclosure(NamedTuple):
    """What stands around a text, up to the control tokens that part it from the rest."""

    lead: Int32Array
    """(n,) int32, what stands before the text, through the last control token."""
    control: str
    """The text of that control token."""
    opening: str
    """What stands between it and the text."""
    closing: str
    """What stands between the text and the next control token."""
    trail: Int32Array
    """(n,) int32, what stands behind the text, from that token on."""

    def around(self, ids: Int32Array) -> Int32Array:
        """The whole, given the ids of what stands between the two control tokens."""
        return np.concatenate((self.lead, ids, self.trail))


class EncodingsAhead:
    """Encodings that were made together, until each is asked for. Safe for threads.

    Args:
        encode: encodes many texts at once, each alone.
        longest: characters of a text from which on it is left to be encoded alone.
    """

    def __init__(self, encode: Callable[[list[str]], list[list[int]]], longest: int) -> None:
        self._encode = encode
        self._longest = longest
        self._enclosures: dict[tuple[str, str, str], None] = {}
        """(Role, what stands before the text, what behind), in order."""
        self._ids: dict[str, list[int]] = {}

    def learn(self, role: str, enclosure: Enclosure) -> None:
        """Take note of what stands around the texts of a role."""
        if len(self._enclosures) < MOST_KEPT:
            self._enclosures[role, enclosure.control + enclosure.opening, enclosure.closing] = None

    @contextmanager
    def of(self, said: Iterable[tuple[str, str]]) -> Iterator[None]:
        """Have the encodings of texts, given as (role, text), at hand for as long as the block lasts."""
        around: dict[str, list[tuple[str, str]]] = {}
        for role, opening, closing in tuple(self._enclosures):
            around.setdefault(role, []).append((opening, closing))
        texts = list(self._enclosed(said, around))
        if len(texts) > 1:  # one alone is encoded where it is needed
            self._ids.update(zip(texts, self._encode(texts), strict=True))
        try:
            yield
        finally:
            for text in texts:
                self._ids.pop(text, None)

    def _enclosed(self, said: Iterable[tuple[str, str]], around: Mapping[str, list[tuple[str, str]]]) -> Iterator[str]:
        for role, text in said:
            if len(text) < self._longest:
                for opening, closing in around.get(role, ()):
                    yield opening + text + closing

    def take(self, text: str) -> list[int] | None:
        """The encoding of a text with what stands around it; None where it is not at hand. It is given out once."""
        return self._ids.pop(text, None)
