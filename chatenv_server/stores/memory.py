"""The store that keeps nothing: what is live is what the process holds, and goes with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from chatenv_server.bounded_cache import BoundedCache
from chatenv_server.stores.store import NOWHERE, Change, End, Finish, Journal, Listed, Standing, Totals

REMEMBERED_ENDS: Final = 8192
"""Ended episodes whose end is remembered, so that NOT_FOUND tells closed and expired from unknown."""


class MemoryStore:
    """Remembers how episodes ended, and nothing else."""

    name = "memory"
    keeps = False

    def __init__(self) -> None:
        self._ends: BoundedCache[str, End] = BoundedCache(REMEMBERED_ENDS)

    def write(self, changes: Sequence[Change]) -> list[bool]:
        """Note the ends among the changes."""
        for change in changes:
            if isinstance(change, Finish):
                self._ends.put(change.episode_id, change.end)
        return [True] * len(changes)

    def standing(self, episode_id: str) -> Standing | None:
        """How an episode ended; None: it is live, unknown, or ended too long ago."""
        end = self._ends.get(episode_id)
        return None if end is None else Standing(NOWHERE, 0.0, end)

    def load(self, episode_id: str) -> Journal | None:  # noqa: ARG002 - the protocol's signature
        """Nothing is kept."""
        return None

    def totals(self) -> Totals:
        """Nothing is kept."""
        return Totals(0, 0)

    def listed(self, prefix: str, after: str, limit: int) -> tuple[Sequence[Listed], str]:  # noqa: ARG002
        """Nothing is kept."""
        return (), ""

    def idle_since(self, moment: float, limit: int) -> Sequence[tuple[str, str]]:  # noqa: ARG002
        """Nothing is kept."""
        return ()

    def check(self) -> None:
        """It always answers."""

    def close(self) -> None:
        """There is nothing to give up."""
