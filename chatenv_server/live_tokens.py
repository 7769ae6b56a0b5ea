"""Counts the tokens of all live episodes against a limit."""

from __future__ import annotations

import threading

from chatenv_client.errors import TokenLimitError


class LiveTokens:
    """A bounded count, safe to use from many threads."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.count = 0
        """Tokens counted now, reserved ones included."""
        self._lock = threading.Lock()

    def reserve(self, tokens: int) -> None:
        """Count tokens that are about to be appended.

        Raises:
            TokenLimitError: they do not fit.
        """
        with self._lock:
            if self.count + tokens > self._limit:
                raise TokenLimitError(
                    f"live episodes hold {self.count} of the {self._limit} tokens that this server allows; "
                    "close some, or raise --max-live-tokens"
                )
            self.count += tokens

    def adjust(self, difference: int) -> None:
        """Correct the count by what really happened."""
        with self._lock:
            self.count += difference
