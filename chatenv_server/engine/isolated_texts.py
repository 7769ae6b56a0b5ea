"""Texts between control tokens: what stands around them is encoded once, and many of them are encoded together.

A control token that takes nothing from its neighbours parts a text: what stands before it never changes how what stands
behind it is encoded. So of a message in its frame only the text is encoded each time, and those of a whole batch can be
encoded ahead by the tokenizer's own threads. Knows nothing of messages but who speaks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np
from tokenizers import Tokenizer

from chatenv_client.tokens import Int32Array
from chatenv_server.engine.byte_level import ids_of_bytes

MOST_EXPECTED: Final = 16
"""Different surroundings that texts are encoded ahead for. Callers choose roles, so there must be a bound."""
LONGEST_AHEAD: Final = 4096
"""Characters of a text that is encoded ahead; a longer one gains nothing by it, and many would take memory."""


class IsolatedText(NamedTuple):
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


class IsolatedTexts:
    """Encodes texts between control tokens, for one tokenizer. Safe for threads.

    Args:
        tokenizer: encodes.
        added_tokens: text of every added token, by id.
        added_text: matches any of them.
        plain_control_ids: those that take nothing from their neighbours.
        plain_control_text: matches any of these.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        added_tokens: Mapping[int, str],
        added_text: re.Pattern[str],
        plain_control_ids: frozenset[int],
        plain_control_text: re.Pattern[str],
    ) -> None:
        self._tokenizer = tokenizer
        self._added_tokens = added_tokens
        self._added_text = added_text
        self._plain_control_ids = plain_control_ids
        self._plain_control_text = plain_control_text
        self._ids_of_bytes = ids_of_bytes(tokenizer)
        self._is_boundary = lru_cache(maxsize=1024)(self._look_for_overlaps)
        self._expected: dict[tuple[str, str, str], None] = {}
        """(Role, what stands before the text, what behind), in order."""
        self._ahead: dict[str, list[int]] = {}
        """Ids of texts that were encoded ahead and that nobody has asked for."""

    def find(self, stop_id: int, before: str, after: str) -> IsolatedText | None:
        """What is always the same around a text between `before` and `after`, behind the token `stop_id`.

        None where there are no control tokens that part the text from the rest.
        """
        behind = [*self._plain_control_text.finditer(before)]
        ahead = self._plain_control_text.search(after)
        if not behind or ahead is None:
            return None
        left, right = (self._tokenizer.token_to_id(found.group()) for found in (behind[-1], ahead))
        if not (self._is_boundary(stop_id) and self._is_boundary(left) and self._is_boundary(right)):
            return None
        lead, trail = self._encode([self._added_tokens[stop_id] + before[: behind[-1].end()], after[ahead.start() :]])
        if (lead[0], lead[-1], trail[0]) != (stop_id, left, right):
            return None
        return IsolatedText(
            lead=np.array(lead[1:], dtype=np.int32),
            control=behind[-1].group(),
            opening=before[behind[-1].end() :],
            closing=after[: ahead.start()],
            trail=np.array(trail, dtype=np.int32),
        )

    def encode(self, enclosure: IsolatedText, text: str) -> Int32Array | None:
        """Ids of a text and of what stands around it; None where they have to be encoded as a whole."""
        inside = enclosure.opening + text + enclosure.closing
        if self._ids_of_bytes is not None:
            if self._added_text.search(inside):
                return None
            return enclosure.around(self._ids_of_bytes[np.frombuffer(inside.encode(), dtype=np.uint8)])
        whole = enclosure.control + inside
        ids = self._ahead.pop(whole, None) or self._encode([whole])[0]
        return enclosure.around(np.array(ids[1:], dtype=np.int32))

    def expect(self, role: str, enclosure: IsolatedText) -> None:
        """Take note of what stands around the texts of a role, for those that will be encoded ahead."""
        if self._ids_of_bytes is None and len(self._expected) < MOST_EXPECTED:  # looking bytes up needs no head start
            self._expected[role, enclosure.control + enclosure.opening, enclosure.closing] = None

    @contextmanager
    def encoding_ahead(self, said: Iterable[tuple[str, str]]) -> Iterator[None]:
        """Have the ids of texts, given as (role, text), at hand for as long as the block lasts."""
        around: dict[str, list[tuple[str, str]]] = {}
        for role, before, behind in tuple(self._expected):
            around.setdefault(role, []).append((before, behind))
        texts = [
            before + text + behind
            for role, text in said
            if len(text) <= LONGEST_AHEAD
            for before, behind in around.get(role, ())
        ]
        if len(texts) > 1:  # one alone is encoded where it is needed
            self._ahead.update(zip(texts, self._encode(texts), strict=True))
        try:
            yield
        finally:
            for text in texts:
                self._ahead.pop(text, None)

    def _encode(self, texts: list[str]) -> list[list[int]]:
        """Texts encoded side by side, each alone, in the tokenizer's own threads where there are several."""
        return [found.ids for found in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)]

    def _look_for_overlaps(self, token_id: int | None) -> bool:
        """Whether a token parts texts whatever they are: no text beside it can make another token of it."""
        if token_id not in self._plain_control_ids:
            return False
        own = self._added_tokens[token_id]
        starts = tuple(own[:length] for length in range(1, len(own) + 1))
        others = (text for other, text in self._added_tokens.items() if other != token_id)
        # A token for a single word asks what stands beside it; behind it, a word's letters would be an answer.
        return not own[0].isalnum() and not any(own in other or other.endswith(starts) for other in others)
