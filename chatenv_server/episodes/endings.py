"""The end of an episode: in its store, in what the process holds, and for all who are told of it.

Who decides on it is elsewhere: callers (`close.py`, `calls.py`), or the clock (`expiry.py`).
"""

from __future__ import annotations

import logging
import time
from typing import Final

from chatenv_server.archive.archive import Archive
from chatenv_server.episodes.closings import Closings
from chatenv_server.episodes.episode import Episode
from chatenv_server.episodes.table import EpisodeTable
from chatenv_server.observing.telemetry import Telemetry
from chatenv_server.stores.store import End, Finish, Store
from chatenv_server.tasks.task import End as TaskEnd

_LOG: Final = logging.getLogger(__name__)

_REASONS: Final = {End.CLOSED: TaskEnd.CLOSED, End.EXPIRED: TaskEnd.EXPIRED}


class Endings:
    """Ends episodes.

    Args:
        store: where they live.
        table: those that this process holds.
        telemetry: told of each end.
        closes_tasks: whether an episode that ends may have a task that wants to be closed.
        archive: takes the records of episodes that ended; None: nobody does.
    """

    def __init__(
        self, store: Store, table: EpisodeTable, telemetry: Telemetry, *, closes_tasks: bool, archive: Archive | None
    ) -> None:
        self.needs_episode = closes_tasks or archive is not None
        """Whether an episode that ends has to be here: else it may end in the store alone."""
        self.closings = Closings(archive)
        """What is done once they have ended."""
        self._store = store
        self._table = table
        self._telemetry = telemetry

    def end(self, episode: Episode, end: End, answer: bytes = b"") -> bool:
        """End an episode for good, with an answer to keep; the caller holds its lock. False: it was not live."""
        if episode.environment is None:
            self._table.take_out(episode)
            return False
        unused_since = episode.last_used if end is End.EXPIRED and self._store.keeps else float("inf")
        finish = Finish(episode.episode_id, episode.place.run, end, time.time(), unused_since, answer=answer)
        ended = self._store.write([finish])[0]
        if ended:
            self.leave(episode, end)
        else:
            self._table.take_out(episode)
        return ended

    def leave(self, episode: Episode, end: End) -> None:
        """Forget an episode that has ended in the store, archive it, and close its task; the caller holds its lock."""
        environment = episode.environment
        self._table.take_out(episode)
        self.closings.begin(environment, _REASONS[end])
        if end is End.CLOSED:
            self.closings.settle()
        self._tell(episode.episode_id, end)

    def leave_unread(self, episode_id: str, end: End) -> None:
        """Tell of an episode that has ended in the store and is not here: it has no record, and no task to close."""
        self.closings.unread(episode_id)
        self._tell(episode_id, end)

    def _tell(self, episode_id: str, end: End) -> None:
        self._telemetry.episode_ended(end.value)
        if end is End.EXPIRED:
            _LOG.info("episode expired", extra={"episode_id": episode_id})
