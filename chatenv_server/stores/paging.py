"""Pages of a list of episodes, newest use first: where a page ends, and where the next one goes on.

A page goes on after a moment of use and an id, not after a number of episodes. So an episode that isn't used meanwhile
is shown exactly once, whatever happens to the others; one that is used meanwhile moves to the front, and may be missed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Final, NamedTuple

MOST_LOOKED_AT: Final = 4096
"""Episodes that one page looks at. A page of a rare prefix may so be short, or empty, and yet not be the last."""


class Use(NamedTuple):
    """When an episode was last used. A list runs from the greatest to the least."""

    at: float
    """Seconds since 1970."""
    episode_id: str


FIRST: Final = Use(float("inf"), "")
"""Before all others."""


def use_after(token: str) -> Use:
    """What a token of `chosen` names.

    Raises:
        ValueError: it is none.
    """
    if not token:
        return FIRST
    moment, _, episode_id = token.partition(" ")
    with suppress(ValueError, OverflowError):
        use = Use(float.fromhex(moment), episode_id)
        if _token(use) == token and math.isfinite(use.at):
            return use
    raise ValueError("this is no place in a list of episodes")


def chosen(uses: Iterable[Use], prefix: str, limit: int) -> tuple[Sequence[Use], str]:
    """Of at most `MOST_LOOKED_AT` uses in order: those on the page, and the token to go on with; empty at the end."""
    page: list[Use] = []
    last = FIRST
    for looked_at, use in enumerate(uses):
        matches = use.episode_id.startswith(prefix)
        if looked_at == MOST_LOOKED_AT or (matches and len(page) == limit):
            return page, _token(last)
        if matches:
            page.append(use)
        last = use
    return page, ""


def _token(use: Use) -> str:
    return f"{use.at.hex()} {use.episode_id}"
