"""Ends episodes that nobody has used for too long, wherever they live."""

from __future__ import annotations

import math
import time
from typing import Final

from chatenv_client.errors import ChatEnvError, EpisodeNotFoundError
from chatenv_server.episodes.episode import Episode
from chatenv_server.episodes.shelf import Shelf
from chatenv_server.stores.store import End, Finish
from chatenv_server.work import done

_EXPIRED_AT_ONCE: Final = 1000
"""In one transaction of a store. Those left are ended in the next round."""


class Expiry:
    """Ends idle episodes.

    Args:
        shelf: holds them.
        timeout_s: seconds without a call after which an episode expires; 0: never.
    """

    def __init__(self, shelf: Shelf, timeout_s: float) -> None:
        self._shelf = shelf
        self._timeout_s = timeout_s
        self._none_is_idle_until = -math.inf
        """By the clock: before it no episode can have been idle for too long, so that nobody needs to look."""

    def expire_idle(self) -> None:
        """End the episodes that were idle for too long; to be called several times within that time.

        Without a store it costs nothing while none can be.
        """
        if not self._timeout_s:
            return
        if self._shelf.clock() > self._none_is_idle_until:
            for episode in self._idle_episodes():
                self._expire(episode)
        if self._shelf.store.keeps:
            self._shelf.usage.note_long_calls(self._shelf.table.all())
            self._expire_in_store(self._shelf.clock() - self._timeout_s)

    def _expire(self, episode: Episode) -> None:
        """End an episode that this process holds, unless a call is at work on it."""
        if episode.try_acquire():
            try:
                if self._shelf.usage.is_idle(episode):
                    self._shelf.endings.end(episode, End.EXPIRED)
            finally:
                episode.release()

    def _expire_in_store(self, moment: float) -> None:
        """End episodes that no process has used for too long, in whichever process they are held."""
        idle = self._shelf.store.idle_since(moment, _EXPIRED_AT_ONCE)
        finishes = [
            Finish(episode_id, run, End.EXPIRED, time.time(), moment)
            for episode_id, run in idle
            if not self._is_used(episode_id) and not self._is_brought_to_its_end(episode_id)
        ]
        ended = self._shelf.store.write(finishes) if finishes else []
        for finish, took_place in zip(finishes, ended, strict=True):
            if took_place:
                self._shelf.endings.leave_unread(finish.episode_id, End.EXPIRED)

    def _is_brought_to_its_end(self, episode_id: str) -> bool:
        """Bring an idle episode in, where more is to be done at its end: it expires then. False: it ends otherwise."""
        if not self._shelf.endings.needs_episode:
            return False
        try:
            self._shelf.release(done(self._shelf.acquire(episode_id, None)))
        except EpisodeNotFoundError:
            return True
        except ChatEnvError:  # nobody can close its task or archive it; but it must not stay for ever
            return False
        return True

    def _is_used(self, episode_id: str) -> bool:
        """Whether a call of this process is at work on an episode, or was of late: the store does not know yet."""
        episode = self._shelf.table.get(episode_id)
        if episode is None:
            return False
        if not episode.try_acquire():
            return True
        try:
            return not episode.is_out and not self._shelf.usage.is_idle(episode)
        finally:
            episode.release()

    def _idle_episodes(self) -> list[Episode]:
        """All that this process holds and that are idle for too long. Notes until when none of the others can be."""
        now = self._shelf.clock()
        idle, oldest = [], now
        for episode in self._shelf.table.all():
            if self._shelf.usage.is_idle(episode):
                idle.append(episode)
            else:
                oldest = min(oldest, episode.last_used)
        # A call may hold an idle episode just now; it is looked at again with the next that become idle.
        self._none_is_idle_until = oldest + self._timeout_s
        return idle
