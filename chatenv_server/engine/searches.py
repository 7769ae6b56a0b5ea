"""Searches for many strings in one text, which together take time linear in that text and in how many they are.

A search that is in vain reads all that it is let read, and a caller decides how many are. So whole searches are
counted, and where there were too many, only what is near is read.
"""

from __future__ import annotations

from typing import Final

MOST_PASSES: Final = 32
"""How many times the searches may read the whole text before they read only what is near."""
NEAR: Final = 2**14
"""Characters that count as near, beside as many as the string that is looked for has."""


class Searches:
    """Looks for strings in one text."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._left = MOST_PASSES * len(text)

    @property
    def are_far(self) -> bool:
        """Whether all of the text may still be read."""
        return self._left > 0

    def find(self, own: str, start: int, stop: int | None = None) -> int:
        """First place of a string between two others; -1 where it has none, or where it is too far to look for."""
        end = len(self._text) if stop is None else stop
        if not self.are_far:
            end = min(end, start + len(own) + NEAR)
        found = self._text.find(own, start, end)
        self._left -= max(0, (end if found < 0 else found) - start)
        return found

    def holds(self, own: str) -> bool:
        """Whether the string stands anywhere; no, where there were too many searches to look everywhere."""
        return self.are_far and self.find(own, 0) >= 0
