"""Live episodes as they were last seen: a trainer ends its own, and they may be looked at once they are gone."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from chatenv_client.models import Trajectory

MOST_TOKENS: Final = 10_000_000
"""Of all episodes that are kept: some 150 MB."""


class LastSeen:
    """The episodes that were read last, by their ids.

    Args:
        most_tokens: of all; those that were read longest ago make room.
    """

    def __init__(self, most_tokens: int = MOST_TOKENS) -> None:
        self._most_tokens = most_tokens
        self._tokens = 0
        self._kept: OrderedDict[str, Trajectory] = OrderedDict()

    def keep(self, trajectory: Trajectory) -> None:
        """Keep an episode in the place of what was kept of it."""
        self._drop(trajectory.episode_id)
        self._kept[trajectory.episode_id] = trajectory
        self._tokens += _tokens_of(trajectory)
        while self._tokens > self._most_tokens and len(self._kept) > 1:
            self._drop(next(iter(self._kept)))

    def get(self, episode_id: str) -> Trajectory | None:
        """An episode as it was last seen; None: it was not, or had to make room."""
        return self._kept.get(episode_id)

    def _drop(self, episode_id: str) -> None:
        dropped = self._kept.pop(episode_id, None)
        self._tokens -= 0 if dropped is None else _tokens_of(dropped)


def _tokens_of(trajectory: Trajectory) -> int:
    return sum(len(segment.tokens) for segment in trajectory.segments)
