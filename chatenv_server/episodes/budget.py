"""What all live episodes together may take, and the count of what this process holds of it."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from chatenv_client.errors import TokenLimitError


@dataclass(frozen=True)
class Budget:
    """What all live episodes together may take."""

    max_episodes: int
    max_live_tokens: int
    idle_timeout_s: float = 0.0
    """Seconds without a call after which an episode expires; 0: never."""
    max_cached_tokens: int = 2**26
    """What a process holds of the episodes of a store."""


class LiveTokens:
    """A bounded count, safe to use from many threads."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._count = 0
        self._lock = threading.Lock()

    @property
    def count(self) -> int:
        """Tokens counted now, reserved ones included."""
        return self._count

    def reserve(self, tokens: int) -> None:
        """Count tokens that are about to be appended.

        Raises:
            TokenLimitError: they do not fit.
        """
        with self._lock:
            if self._count + tokens > self._limit:
                raise TokenLimitError(
                    f"live episodes hold {self._count} of the {self._limit} tokens that this server allows; "
                    "close some, or raise --max-live-tokens"
                )
            self._count += tokens

    def adjust(self, difference: int) -> None:
        """Correct the count by what really happened."""
        with self._lock:
            self._count += difference
