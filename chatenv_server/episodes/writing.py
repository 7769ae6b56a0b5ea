"""Writes what was done to episodes into their store, one call at a time or many together, before anybody is told.

Until it is written, nobody else works on an episode: its lock is held. The next of those who ask together may go on
with it; while that one works, which may wait for a task, the lock stays held whatever is written.

What the store refuses, because another process was quicker, or did not take for certain, is forgotten here: the episode
is read from the store again when it is asked for. So nothing has to be undone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

from chatenv_client.errors import ChatEnvError
from chatenv_server.episodes.episode import Episode
from chatenv_server.observing.telemetry import Telemetry
from chatenv_server.stores.store import Change, Place, Store
from chatenv_server.work import Work

ResultT = TypeVar("ResultT")


class Outdated(Exception):  # noqa: N818 - no error: it is done again
    """Another process has changed the episode meanwhile."""


def _nothing() -> None:
    pass


class _Unwritten(NamedTuple):
    key: int
    episode: Episode
    change: Change
    written: Callable[[], object]
    """Called once it is written."""
    not_written: Callable[[], object]
    """Called where it is not."""


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
        self._at_work: set[str] = set()
        """Episodes of unwritten changes that somebody goes on with."""
        self._not_written: list[NotWritten] = []
        self.key = 0
        """Which of those who ask does what is done next."""
        self.new_episodes = 0
        """Episodes of unwritten changes that the store does not know of."""

    def next_key(self) -> int:
        """The key of one more who asks, and who does what is done next."""
        self.key += 1
        return self.key

    def add(
        self,
        episode: Episode,
        change: Change,
        place: Place,
        written: Callable[[], object] = _nothing,
        not_written: Callable[[], object] = _nothing,
    ) -> None:
        """Have a change written, after which the episode's journal is at `place`. The caller holds its lock.

        Args:
            episode: the episode.
            change: what was done to it.
            place: as above.
            written: called once it is written, while the lock is held.
            not_written: called where it is not.
        """
        self._unwritten.append(_Unwritten(self.key, episode, change, written, not_written))
        self._held[episode.episode_id] = episode
        episode.place = place

    def write(self) -> None:
        """Write all changes, and give the locks back that nobody works under."""
        unwritten, held = self._unwritten, self._held
        self._unwritten, self._held, self.new_episodes = [], {}, 0
        if not unwritten:
            return
        try:
            self._write(unwritten)
        except BaseException as error:
            for episode in held.values():
                self._drop(episode)
            for one in unwritten:
                one.not_written()
            self._telemetry.store_failed()
            self._not_written += [NotWritten(one.key, error) for one in unwritten]
            if not isinstance(error, ChatEnvError):
                raise
        finally:
            for episode_id, episode in held.items():
                if episode_id not in self._at_work:
                    episode.release()

    def _write(self, unwritten: Sequence[_Unwritten]) -> None:
        took = write_timed(self._store, [one.change for one in unwritten], self._telemetry)
        for one, took_place in zip(unwritten, took, strict=True):
            if took_place:
                one.written()
            else:
                self._drop(one.episode)
                one.not_written()
                self._telemetry.store_conflicted()
                self._not_written.append(NotWritten(one.key, None))

    def unwritten_of(self, episode: Episode) -> bool:
        """Whether there are changes of an episode that are not written yet."""
        return self._held.get(episode.episode_id) is episode

    def write_of(self, episode: Episode) -> None:
        """Write all changes, if some are of an episode. Who works on that holds its lock afterwards as before."""
        if self.unwritten_of(episode):
            self.write()

    def go_on_with(self, episode: Episode) -> None:
        """Work on an episode that has such changes, under the lock that is held for them, until `leave`."""
        self._at_work.add(episode.episode_id)

    def leave(self, episode: Episode) -> bool:
        """Work on an episode no more; whether its lock is kept, since there are changes that are not written yet."""
        self._at_work.discard(episode.episode_id)
        return self.unwritten_of(episode)

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


async def written(begin: Callable[[], Writing], work: Callable[[Writing], Work[ResultT]]) -> ResultT:
    """Do something and have it written, again for as long as other processes are quicker.

    Args:
        begin: a new way to write.
        work: does it, and leaves to that what is to be written.

    Raises:
        ChatEnvError: it is refused, or the store did not take it.
    """
    while True:
        writing = begin()
        try:
            result = await work(writing)
            writing.settle()
        except Outdated:
            continue
        return result
