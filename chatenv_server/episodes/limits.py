"""The limits on what a store keeps. How much that is, it is asked once a second, so it may be a little more."""

from __future__ import annotations

import time
from typing import Final

from chatenv_client.errors import EpisodeLimitError, StoreUnavailableError, TokenLimitError
from chatenv_server.episodes.budget import Budget
from chatenv_server.stores.store import Store, Totals

_KNOWN_FOR_S: Final = 1.0


class StoreLimits:
    """Says whether a store may keep more. Where it keeps nothing, it may: then the table of episodes has the limits."""

    def __init__(self, store: Store, budget: Budget) -> None:
        self._store = store
        self._budget = budget
        self._totals = Totals(0, 0)
        self._known_until = 0.0

    @property
    def totals(self) -> Totals:
        """What all episodes of the store take."""
        now = time.monotonic()
        if now > self._known_until:
            self._totals = self._store.totals()
            self._known_until = now + _KNOWN_FOR_S
        return self._totals

    @property
    def known_totals(self) -> Totals:
        """The same; where the store does not answer, what it said last."""
        try:
            return self.totals
        except StoreUnavailableError:
            return self._totals

    def check_episodes(self, more: int = 1) -> None:
        """Raise EpisodeLimitError unless so many episodes more may be kept."""
        if self._store.keeps and self.totals.episodes + more > self._budget.max_episodes:
            raise EpisodeLimitError(
                f"{self._budget.max_episodes} episodes are live, as many as this server allows; "
                "close some, or raise --max-episodes"
            )

    def check_tokens(self, more: int = 1) -> None:
        """Raise TokenLimitError unless so many tokens more may be kept."""
        if self._store.keeps and self.totals.held_tokens + more > self._budget.max_live_tokens:
            raise TokenLimitError(
                f"live episodes hold {self.totals.held_tokens} of the {self._budget.max_live_tokens} tokens that this "
                "server allows; close some, or raise --max-live-tokens"
            )
