"""The episodes that a process holds, by id. Knows nothing of where else they may live.

Its lock is held for a few dictionary operations. It is taken after that of an episode, never before.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from chatenv_client.errors import EpisodeLimitError, TokenLimitError
from chatenv_server.episodes.budget import LiveTokens
from chatenv_server.episodes.episode import Episode

_KEPT_SHARE = 0.75
"""What stays of the tokens that may be held, where there are too many: so that nobody has to look again at once."""


class EpisodeTable:
    """Episodes by id, and the count of their tokens.

    Args:
        max_episodes: how many there may be.
        max_tokens: how many tokens they may hold together.
        clock: seconds.
        relieve: called where they would be too many, to take some out.
    """

    def __init__(
        self, max_episodes: int, max_tokens: int, clock: Callable[[], float], relieve: Callable[[], None]
    ) -> None:
        self._max_episodes = max_episodes
        self._clock = clock
        self._relieve = relieve
        self._lock = threading.Lock()
        self._episodes: dict[str, Episode] = {}
        self._tokens = LiveTokens(max_tokens)

    def __len__(self) -> int:
        return len(self._episodes)

    @property
    def tokens(self) -> int:
        """Tokens that its episodes hold now."""
        return self._tokens.count

    def get(self, episode_id: str) -> Episode | None:
        """The episode of an id."""
        return self._episodes.get(episode_id)

    def all(self) -> list[Episode]:
        """All episodes, in no order."""
        with self._lock:
            return list(self._episodes.values())

    def find_or_add(self, episode_id: str) -> Episode:
        """The episode of an id, which may be a new one without an environment.

        Raises:
            EpisodeLimitError: there are too many.
        """
        if episode_id not in self._episodes and len(self._episodes) >= self._max_episodes:
            self._relieve()
        with self._lock:
            episode = self._episodes.get(episode_id)
            if episode is None:
                if len(self._episodes) >= self._max_episodes:
                    raise EpisodeLimitError(
                        f"{self._max_episodes} episodes are live, as many as this server allows; "
                        "close some, or raise --max-episodes"
                    )
                episode = self._episodes[episode_id] = Episode(episode_id, self._clock())
            return episode

    def take_out(self, episode: Episode) -> bool:
        """Take an episode out; the caller holds its lock. False: it was out already."""
        if episode.is_out:
            return False
        with self._lock:
            del self._episodes[episode.episode_id]
        self._tokens.adjust(-episode.accounted_tokens)
        episode.leave()
        return True

    # -- tokens -----------------------------------------------------------------------------------

    def reserve(self, tokens: int) -> None:
        """Count tokens that are about to be appended, at least so many.

        Raises:
            TokenLimitError: they do not fit.
        """
        try:
            self._tokens.reserve(tokens)
        except TokenLimitError:
            self._relieve()
            self._tokens.reserve(tokens)

    def account(self, episode: Episode, *, reserved: int = 0) -> None:
        """Count what an episode really holds in place of the tokens that were reserved for it."""
        length = 0 if episode.environment is None else episode.environment.held_tokens
        self._tokens.adjust(length - episode.accounted_tokens - reserved)
        episode.accounted_tokens = length

    def shrink(self, max_tokens: int) -> None:
        """Take out those that were used least recently, as far as nobody works on them, until few tokens are held."""
        for episode in sorted(self.all(), key=lambda one: one.last_used):
            if self._tokens.count <= max_tokens * _KEPT_SHARE:
                return
            if episode.try_acquire():
                try:
                    self.take_out(episode)
                finally:
                    episode.release()
