"""Writes what was done to episodes into their store, one call at a time or many together, before anybody is told.

Until it is written, nobody else works on an episode: its lock is held. What the store refuses, because another process
was quicker, or did not take for certain, is forgotten here: the episode is read from the store again when it is asked
for. So nothing has to be undone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from chatenv_client.errors import ChatEnvError
from chatenv_server.episodes.episode import Episode
from chatenv_server.observing.telemetry import Telemetry
from chatenv_server.stores.store import Change, Place, Store


class Outdated(Exception):  # noqa: N818 - no error: it is done again
    """Another process has changed the episode meanwhile."""


class _Unwritten(NamedTuple):
    key: int
    episode: Episode
    change: Change


class NotWritten(NamedTuple):
    """A change that was not written."""

    key: int
    """Which of those who asked."""
    error: BaseException | None
    """None: another process was quicker, and it is to be done again."""


class Writing:
    """Changes that are written together. While it lasts, it holds the locks of their episodes.

    Args:
        store: where they are written.
        drop: forgets an episode whose lock is held.
        telemetry: told how long the store took.
    """

    def __init__(self, store: Store, drop: Callable[[Episode], object], telemetry: Telemetry) -> None:
        self._store = store
        self._drop = drop
        self._telemetry = telemetry
        self._unwritten: list[_Unwritten] = []
        self._held: dict[str, Episode] = {}
        self._not_written: list[NotWritten] = []
        self.key = 0
        """Which of those who ask does what is done next."""
        self.new_episodes = 0
        """Episodes of unwritten changes that the store does not know of."""
        self._then: list[tuple[Callable[[], object], Callable[[], object]]] = []

    def next_key(self) -> int:
        """The key of one more who asks, and who does what is done next."""
        self.key += 1
        return self.key

    def add(self, episode: Episode, change: Change, place: Place) -> None:
        """Have a change written, after which the episode's journal is at `place`. The caller holds its lock."""
        self._unwritten.append(_Unwritten(self.key, episode, change))
        self._held[episode.episode_id] = episode
        episode.place = place

    def then(self, written: Callable[[], object], not_written: Callable[[], object]) -> None:
        """Call one of two functions once what was added is written, or is not."""
        self._then.append((written, not_written))

    def write(self) -> None:
        """Write all changes, and give the locks back."""
        unwritten, held, then = self._unwritten, self._held, self._then
        self._unwritten, self._held, self._then, self.new_episodes = [], {}, [], 0
        if not unwritten:
            return
        try:
            self._write(unwritten)
            for written, _ in then:
                written()
        except BaseException as error:
            for episode in held.values():
                self._drop(episode)
            for _, not_written in then:
                not_written()
            self._telemetry.store_failed()
            self._not_written += [NotWritten(one.key, error) for one in unwritten]
            if not isinstance(error, ChatEnvError):
                raise
        finally:
            for episode in held.values():
                episode.release()

    def _write(self, unwritten: Sequence[_Unwritten]) -> None:
        took = write_timed(self._store, [one.change for one in unwritten], self._telemetry)
        for one, took_place in zip(unwritten, took, strict=True):
            if not took_place:
                self._drop(one.episode)
                self._telemetry.store_conflicted()
                self._not_written.append(NotWritten(one.key, None))

    def unwritten_of(self, episode: Episode) -> bool:
        """Whether there are changes of an episode that are not written yet."""
        return self._held.get(episode.episode_id) is episode

    def finish(self) -> list[NotWritten]:
        """Write what is left; all changes that were not written."""
        self.write()
        not_written, self._not_written = self._not_written, []
        return not_written

    def settle(self, key: int = 0) -> None:
        """Write what is left, and see that what one of those who ask did was written.

        Raises:
            Outdated: another process was quicker.
            ChatEnvError: the store did not take it.
        """
        self.write()
        for one in self._not_written:
            if one.key == key:
                raise Outdated if one.error is None else one.error.with_traceback(None)


def write_timed(store: Store, changes: Sequence[Change], telemetry: Telemetry) -> list[bool]:
    """Write what calls did, and tell how long a store took that keeps it."""
    began = time.perf_counter()
    took = store.write(changes)
    if store.keeps:
        telemetry.store_wrote(len(changes), time.perf_counter() - began)
    return took
