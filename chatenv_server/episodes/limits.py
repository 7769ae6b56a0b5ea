"""The limits on what a store keeps.

How much that is, it is asked once a second, and before anybody is refused. What other processes let in meanwhile is not
known, so it may be more than the limits say.
"""

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
        self._let_in = 0
        """Episodes that were let in since the store was asked."""

    @property
    def totals(self) -> Totals:
        """What all episodes of the store take."""
        if time.monotonic() > self._known_until:
            self.ask()
        return self._totals

    def ask(self) -> None:
        """Ask the store now."""
        self._totals = self._store.totals()
        self._known_until = time.monotonic() + _KNOWN_FOR_S
        self._let_in = 0

    @property
    def known_totals(self) -> Totals:
        """The same; where the store does not answer, what it said last."""
        try:
            return self.totals
        except StoreUnavailableError:
            return self._totals

    def check_episodes(self, more: int = 1, *, unwritten: int = 0) -> None:
        """Let so many episodes more in.

        Args:
            more: how many.
            unwritten: others that were let in, and that the store does not know of yet.

        Raises:
            EpisodeLimitError: it would be too many.
        """
        if not self._store.keeps:
            return
        most = self._budget.max_episodes - more
        if self.totals.episodes + max(self._let_in, unwritten) > most:
            self.ask()
            if self._totals.episodes + unwritten > most:
                raise EpisodeLimitError(
                    f"{self._budget.max_episodes} episodes are live, as many as this server allows; "
                    "close some, or raise --max-episodes"
                )
        self._let_in += more

    def check_tokens(self, more: int = 1) -> None:
        """Raise TokenLimitError unless so many tokens more may be kept."""
        most = self._budget.max_live_tokens - more
        if not self._store.keeps or self.totals.held_tokens <= most:
            return
        self.ask()
        if self._totals.held_tokens > most:
            raise TokenLimitError(
                f"live episodes hold {self._totals.held_tokens} of the {self._budget.max_live_tokens} tokens that this "
                "server allows; close some, or raise --max-live-tokens"
            )
