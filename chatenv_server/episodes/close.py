"""Ends an episode because its caller closes it, wherever it lives: in this process, or in the store alone."""

from __future__ import annotations

import time

from chatenv_client.errors import ChatEnvError, DeadlineError
from chatenv_server.episodes.episode import Caller, Episode
from chatenv_server.episodes.shelf import Shelf
from chatenv_server.stores.store import End, Finish
from chatenv_server.work import done


def close(shelf: Shelf, episode_id: str, caller: Caller | None) -> bool:
    """End an episode; whether it was live until now."""
    while (episode := _for_its_end(shelf, episode_id, caller)) is not None:
        try:
            if shelf.endings.end(episode, End.CLOSED):
                return True
        finally:
            episode.release()
    return _close_in_store(shelf, episode_id)


def _for_its_end(shelf: Shelf, episode_id: str, caller: Caller | None) -> Episode | None:
    """An episode whose lock is held, to end it; None: this process does not hold it.

    Where its task has to be closed or its record archived, it is brought in, as the store has it now. One that cannot
    be read ends in the store alone, and neither is done.
    """
    if shelf.store.keeps and shelf.endings.needs_episode:
        try:
            return done(shelf.acquire_current(episode_id, caller))
        except DeadlineError:
            raise
        except ChatEnvError:
            return None
    episode = shelf.table.get(episode_id)
    if episode is not None:
        episode.acquire(caller)
    return episode


def _close_in_store(shelf: Shelf, episode_id: str) -> bool:
    """End an episode that this process does not hold."""
    while (standing := shelf.store.standing(episode_id)) is not None and standing.end is None:
        if shelf.store.write([Finish(episode_id, standing.place.run, End.CLOSED, time.time())])[0]:
            shelf.endings.leave_unread(episode_id, End.CLOSED)
            return True
    return False
