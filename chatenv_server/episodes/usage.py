"""When episodes were used last: which are idle for too long, and what their store is told of their use."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from chatenv_server.episodes.episode import Episode
from chatenv_server.stores.store import Store, Touch

_NOTED_SHARE: Final = 1 / 8
"""Of the idle timeout: how late the store may learn that an episode was used by a call that wrote nothing."""


class Usage:
    """Knows which episodes are idle, and has their store learn which are not.

    Args:
        store: where they live.
        clock: seconds; where the store keeps anything, since 1970.
        timeout_s: seconds without a call after which an episode is idle for too long; 0: never.
    """

    def __init__(self, store: Store, clock: Callable[[], float], timeout_s: float) -> None:
        self._store = store
        self._clock = clock
        self._timeout_s = timeout_s

    def is_idle(self, episode: Episode) -> bool:
        """Whether nobody used an episode for too long, as far as this process knows."""
        return self._timeout_s > 0 and self._clock() - episode.last_used > self._timeout_s

    def note(self, episode: Episode) -> None:
        """Have the store learn, now and then, that an episode is used by calls that write nothing."""
        now = self._clock()
        if self._store.keeps and now - episode.noted_use > self._timeout_s * _NOTED_SHARE > 0:
            self._store.write([Touch(episode.episode_id, episode.place.run, now)])
            episode.noted_use = now

    def note_long_calls(self, episodes: Iterable[Episode]) -> None:
        """Have the store learn which episodes are in use by long calls, so that no other process expires them.

        Without their locks, which the calls hold: of an episode that was begun anew meanwhile the store notes nothing.
        """
        now = self._clock()
        lasting = [
            Touch(episode.episode_id, episode.place.run, now)
            for episode in episodes
            if episode.is_at_work and now - episode.last_used > self._timeout_s * _NOTED_SHARE
        ]
        if lasting:
            self._store.write(lasting)
