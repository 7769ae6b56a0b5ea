"""Holds episodes for the calls that work on them: brings them in from their store before, and lets them go after.

The store is the truth, and what this process holds of it a cache. Where the store keeps nothing, what is held is all
there is. There are two kinds of lock, taken in this order: that of an episode, held while a call works on it, and that
of the table, held for a few dictionary operations. So no episode waits for the transform of another.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from chatenv_client.errors import ChatEnvError
from chatenv_server.archive.archive import Archive
from chatenv_server.environment.environment import ChatEnvironment
from chatenv_server.episodes.budget import Budget
from chatenv_server.episodes.endings import Endings
from chatenv_server.episodes.episode import Caller, Episode, check_waits
from chatenv_server.episodes.journals import Journals
from chatenv_server.episodes.locks import Locks
from chatenv_server.episodes.table import EpisodeTable
from chatenv_server.episodes.usage import Usage
from chatenv_server.episodes.writing import Writing
from chatenv_server.observing.telemetry import Telemetry
from chatenv_server.stores.store import End, Standing, Store
from chatenv_server.work import done


class Shelf:
    """The episodes that a process holds, and the way to those that it does not.

    Args:
        open_environment: makes an environment for an episode.
        budget: what all of them may take.
        store: where they live.
        clock: seconds; where the store keeps anything, since 1970.
        telemetry: told of what happens.
        relieve: called where there are too many, to take some out.
        closes_tasks: whether an episode that ends may have a task that wants to be closed.
        archive: takes the records of episodes that ended; None: nobody does.
    """

    def __init__(
        self,
        open_environment: Callable[[], ChatEnvironment],
        budget: Budget,
        store: Store,
        clock: Callable[[], float],
        telemetry: Telemetry,
        relieve: Callable[[], None],
        *,
        closes_tasks: bool,
        archive: Archive | None,
    ) -> None:
        self.open_environment = open_environment
        self.store = store
        self.clock = clock
        self.telemetry = telemetry
        self._max_cached_tokens = budget.max_cached_tokens
        # What a store keeps is bounded by what it says of all its episodes; see `limits`.
        most = (2**62, 2**62) if store.keeps else (budget.max_episodes, budget.max_live_tokens)
        self.table = EpisodeTable(*most, clock, relieve)
        self.journals = Journals(store, open_environment)
        self.usage = Usage(store, clock, budget.idle_timeout_s)
        self.endings = Endings(store, self.table, telemetry, closes_tasks=closes_tasks, archive=archive)
        self._locks = Locks(self.table)

    def writing(self) -> Writing:
        """A way to write what is done to several episodes together."""
        return Writing(self.store, self.drop, self.telemetry)

    # -- holding an episode -----------------------------------------------------------------------

    async def acquire(self, episode_id: str, caller: Caller | None, writing: Writing | None = None) -> Episode:
        """Hold the lock of a live episode, until `release`.

        Raises:
            EpisodeNotFoundError: unknown, closed or expired.
            EpisodeDamagedError, TokenizerMismatchError, StoreUnavailableError: it cannot be brought in.
        """
        while True:
            episode = self.table.get(episode_id) or self._place_for(episode_id)
            if writing is not None and _goes_on(episode, caller, writing):
                return episode
            if not self._locks.try_acquire(episode, caller):
                await self._locks.acquire(episode, caller, writing)
            try:
                was_held = episode.environment is not None
                if not was_held and not episode.is_out:
                    await self.bring_in(episode)
                if self._is_live(episode, was_held=was_held):
                    return episode
            except BaseException:
                episode.release()
                raise
            episode.release()

    def _place_for(self, episode_id: str) -> Episode:
        """A place for an episode that this process does not hold, and that the store may have.

        Raises:
            EpisodeNotFoundError: there is no store.
        """
        if not self.store.keeps:
            raise self.journals.refusal_of(episode_id)
        return self.table.find_or_add(episode_id)

    async def open_place(self, episode_id: str, caller: Caller | None, writing: Writing | None = None) -> Episode:
        """Hold the lock of an episode that may be there or not, until `release`. The store is not asked.

        Raises:
            EpisodeLimitError: it would be one too many.
        """
        while True:
            episode = self.table.find_or_add(episode_id)
            if writing is not None and _goes_on(episode, caller, writing):
                return episode
            if not self._locks.try_acquire(episode, caller):
                await self._locks.acquire(episode, caller, writing)
            if not episode.is_out:
                return episode
            episode.release()  # it ended while this call waited, and its id is free again

    def _is_live(self, episode: Episode, *, was_held: bool) -> bool:
        """Whether an episode whose lock is held is live, and was not taken out while its lock was waited for."""
        if episode.is_out:
            return False
        if was_held and self.store.keeps:
            self.telemetry.episode_held()
        if self.usage.is_idle(episode):
            self.endings.end(episode, End.EXPIRED)
            return False  # it has expired, or another process used it meanwhile
        return True

    def release(self, episode: Episode, writing: Writing | None = None) -> None:
        """Let go of an episode, unless it waits to be written."""
        episode.last_used = self.clock()
        if writing is not None and writing.leave(episode):
            episode.noted_use = episode.last_used
        else:
            episode.release()
        if self.store.keeps and self.table.tokens > self._max_cached_tokens:
            self.table.shrink(self._max_cached_tokens)

    async def acquire_current(self, episode_id: str, caller: Caller | None) -> Episode:
        """Hold the lock of a live episode as the store has it now, until `release`. Raises as `acquire`."""
        while True:
            episode = await self.acquire(episode_id, caller)
            try:
                if not self.is_outdated(episode, None):
                    return episode
                self.drop(episode)
            except BaseException:
                self.release(episode)
                raise
            self.release(episode)

    @contextmanager
    def reading(self, episode_id: str, caller: Caller | None) -> Iterator[Episode]:
        """A live episode, as its store has it now, while nobody changes it."""
        episode = done(self.acquire_current(episode_id, caller))
        try:
            self.usage.note(episode)
            yield episode
        finally:
            self.release(episode)

    # -- the store --------------------------------------------------------------------------------

    def look_up(self, episode: Episode) -> None:
        """Bring an episode in if its store has it; the caller holds the lock, and the episode may be new."""
        standing = self.store.standing(episode.episode_id)
        if episode.environment is None and standing is not None and standing.end is None:
            done(self.bring_in(episode))

    async def bring_in(self, episode: Episode) -> None:
        """Read an episode from the store; the caller holds the lock."""
        began = time.perf_counter()
        try:
            journal, environment, answer = await self.journals.read(episode.episode_id)
        except BaseException:
            self.drop(episode)
            raise
        episode.begin(environment, journal.place, journal.summary.created)
        episode.last_used = episode.noted_use = journal.summary.last_used
        episode.segment = answer.observation.segment
        episode.answer = answer if answer.digest else None
        self.table.account(episode)
        self.telemetry.episode_loaded(time.perf_counter() - began)

    async def to_be_closed(self, episode: Episode, standing: Standing, writing: Writing) -> ChatEnvironment | None:
        """What is to be closed of an episode that lives in the store and is about to end there.

        It is what this process holds, if that is what the store has, or will have. None: it cannot be read.
        """
        if episode.environment is not None and (writing.unwritten_of(episode) or standing.place == episode.place):
            return episode.environment
        try:
            return (await self.journals.read(episode.episode_id)).environment
        except ChatEnvError:
            return None

    def is_outdated(self, episode: Episode, writing: Writing | None) -> bool:
        """Whether the store has another state of an episode than this process; what waits is written before."""
        if not self.store.keeps:
            return False
        if writing is not None:
            writing.write_of(episode)
        if episode.is_out:
            return True
        standing = self.store.standing(episode.episode_id)
        return standing is None or standing.end is not None or standing.place != episode.place

    def give_up(self, episode: Episode, writing: Writing) -> None:
        """Forget what was done to an episode last, and that nobody can tell the store of."""
        writing.write_of(episode)
        self.drop(episode)

    def drop(self, episode: Episode) -> None:
        """Forget what this process holds of an episode; the caller holds its lock."""
        self.table.take_out(episode)


def _goes_on(episode: Episode, caller: Caller | None, writing: Writing) -> bool:
    """Whether a call goes on with an episode under the lock that is held for what is not written of it yet."""
    if not writing.unwritten_of(episode):
        return False
    check_waits(caller)
    writing.go_on_with(episode)
    return True
