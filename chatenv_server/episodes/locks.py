"""How a call comes to hold the lock of an episode: at once where it is free, else by waiting for it.

Who waits for one lock lets go of all others first, by writing what it has not written. So no two calls wait for each
other.
"""

from __future__ import annotations

from chatenv_client.errors import DeadlineError
from chatenv_server.episodes.episode import Caller, Episode
from chatenv_server.episodes.table import EpisodeTable
from chatenv_server.episodes.writing import Writing


class Locks:
    """Locks episodes for calls. One that was added for a call which is not begun, is forgotten.

    Args:
        table: the episodes.
    """

    def __init__(self, table: EpisodeTable) -> None:
        self._table = table

    def try_acquire(self, episode: Episode, caller: Caller | None) -> bool:
        """Hold the lock of an episode, if nobody else holds it; whether that is so.

        Raises:
            DeadlineError: the caller has hung up.
        """
        if not episode.try_acquire():
            return False
        try:
            episode.check_waited_for(caller)
        except DeadlineError:
            self._forget_if_empty(episode)
            raise
        return True

    async def acquire(self, episode: Episode, caller: Caller | None, writing: Writing | None) -> None:
        """Wait for the lock of an episode and hold it; what was done meanwhile is written before.

        Raises:
            DeadlineError: others held it for too long, or the caller hung up.
        """
        try:
            if writing is not None:
                writing.write()
            await episode.acquired(caller)
        except DeadlineError:
            self._forget_if_empty(episode)
            raise

    def _forget_if_empty(self, episode: Episode) -> None:
        """Forget an episode that has no environment yet. Where another call holds it now, that one sees to it."""
        if episode.environment is None and episode.try_acquire():
            try:
                if episode.environment is None:
                    self._table.take_out(episode)
            finally:
                episode.release()
