"""Brings episodes in from their store, holds them for the call that works on them, and lets them go.

The store is the truth, and what this process holds of it a cache. Where the store keeps nothing, what is held is all
there is. There are two kinds of lock, taken in this order: that of an episode, held while a call works on it, and that
of the table, held for a few dictionary operations. So no episode waits for the transform of another.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from chatenv_client import wire
from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client.errors import (
    ChatEnvError,
    DeadlineError,
    EpisodeClosedError,
    EpisodeDamagedError,
    EpisodeExpiredError,
    EpisodeNotFoundError,
    EpisodeUnknownError,
    InvalidRequestError,
)
from chatenv_server.archive.archive import Archive
from chatenv_server.environment.environment import ChatEnvironment
from chatenv_server.episodes.budget import Budget
from chatenv_server.episodes.closings import Closings
from chatenv_server.episodes.episode import Answer, Caller, Episode, check_waits
from chatenv_server.episodes.table import EpisodeTable
from chatenv_server.episodes.writing import Writing
from chatenv_server.observing.telemetry import Telemetry
from chatenv_server.stores.store import End, Finish, Journal, Standing, Store, Touch
from chatenv_server.tasks.task import End as TaskEnd
from chatenv_server.work import done

_LOG: Final = logging.getLogger(__name__)

_NOTED_SHARE: Final = 1 / 8
"""Of the idle timeout: how late the store may learn that an episode was used by a call that wrote nothing."""
_REASONS: Final = {End.CLOSED: TaskEnd.CLOSED, End.EXPIRED: TaskEnd.EXPIRED}
_ENDS: Final = {End.CLOSED: EpisodeClosedError, End.EXPIRED: EpisodeExpiredError}
_NOT_FOUND: Final[dict[type[EpisodeNotFoundError], str]] = {
    EpisodeUnknownError: "there is no such episode: it was never opened, or {lost}",
    EpisodeClosedError: "the episode was closed",
    EpisodeExpiredError: "the episode was idle for too long and expired",
}


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
        self.needs_ended = closes_tasks or archive is not None
        """Whether an episode that ends has to be here."""
        self.open_environment = open_environment
        self.store = store
        self.clock = clock
        self.telemetry = telemetry
        self.closings = Closings(archive)
        self._idle_timeout_s = budget.idle_timeout_s
        self._max_cached_tokens = budget.max_cached_tokens
        # What a store keeps is bounded by what it says of all its episodes; see `limits`.
        most = (2**62, 2**62) if store.keeps else (budget.max_episodes, budget.max_live_tokens)
        self.table = EpisodeTable(*most, clock, relieve)

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
            if writing is not None and writing.unwritten_of(episode):
                check_waits(caller)
                return episode
            if not self._locks_at_once(episode, caller):
                await self._lock(episode, caller, writing)
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
            raise self._not_found(self.store.standing(episode_id))
        return self.table.find_or_add(episode_id)

    async def open_place(self, episode_id: str, caller: Caller | None, writing: Writing | None = None) -> Episode:
        """Hold the lock of an episode that may be there or not, until `release`. The store is not asked.

        Raises:
            EpisodeLimitError: it would be one too many.
        """
        while True:
            episode = self.table.find_or_add(episode_id)
            if writing is not None and writing.unwritten_of(episode):
                check_waits(caller)
                return episode
            if not self._locks_at_once(episode, caller):
                await self._lock(episode, caller, writing)
            if not episode.is_out:
                return episode
            episode.release()  # it ended while this call waited, and its id is free again

    def _locks_at_once(self, episode: Episode, caller: Caller | None) -> bool:
        """Hold the lock of an episode, if nobody else holds it; whether that is so."""
        if not episode.try_acquire():
            return False
        try:
            episode.check_waited_for(caller)
        except DeadlineError:
            self._forget_if_empty(episode)
            raise
        return True

    async def _lock(self, episode: Episode, caller: Caller | None, writing: Writing | None) -> None:
        """Wait for the lock of an episode and hold it. Who waits for one lock lets go of all others first."""
        try:
            if writing is None:
                await episode.acquired(caller)
            else:
                await self._wait_for(episode, caller, writing)
        except DeadlineError:
            self._forget_if_empty(episode)
            raise

    async def _wait_for(self, episode: Episode, caller: Caller | None, writing: Writing) -> None:
        """Hold the lock of an episode that others hold; what was done meanwhile is written before."""
        writing.write()
        await episode.acquired(caller)

    def _forget_if_empty(self, episode: Episode) -> None:
        """Forget an episode that was added for a call which was not begun; who holds it now sees to it otherwise."""
        if episode.environment is None and episode.try_acquire():
            try:
                if episode.environment is None:
                    self.drop(episode)
            finally:
                episode.release()

    def _is_live(self, episode: Episode, *, was_held: bool) -> bool:
        """Whether an episode whose lock is held is live, and was not taken out while its lock was waited for."""
        if episode.is_out:
            return False
        if was_held and self.store.keeps:
            self.telemetry.episode_held()
        if self.is_idle(episode):
            self.end(episode, End.EXPIRED)
            return False  # it has expired, or another process used it meanwhile
        return True

    def release(self, episode: Episode, writing: Writing | None = None) -> None:
        """Let go of an episode, unless it waits to be written."""
        episode.last_used = self.clock()
        if writing is not None and writing.unwritten_of(episode):
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
                if not await self.is_outdated(episode, None):
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
            self.note_use(episode)
            yield episode
        finally:
            self.release(episode)

    def note_use(self, episode: Episode) -> None:
        """Have the store learn, now and then, that an episode is used by calls that write nothing."""
        now = self.clock()
        if self.store.keeps and now - episode.noted_use > self._idle_timeout_s * _NOTED_SHARE > 0:
            self.store.write([Touch(episode.episode_id, episode.place.run, now)])
            episode.noted_use = now

    def note_long_calls(self) -> None:
        """Have the store learn that episodes are in use whose calls last long, so that no other process expires them.

        Without their locks, which the calls hold: of an episode that was begun anew meanwhile the store notes nothing.
        """
        now = self.clock()
        lasting = [
            Touch(episode.episode_id, episode.place.run, now)
            for episode in self.table.all()
            if episode.is_at_work and now - episode.last_used > self._idle_timeout_s * _NOTED_SHARE
        ]
        if lasting:
            self.store.write(lasting)

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
            journal, environment, answer = await self._read(episode.episode_id)
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
            _, environment, _ = await self._read(episode.episode_id)
        except ChatEnvError:
            return None
        return environment

    async def _read(self, episode_id: str) -> tuple[Journal, ChatEnvironment, Answer]:
        """An episode as the store has it, and the answer to its last step."""
        journal = self._journal_of(episode_id)
        snapshot = _snapshot_of(journal)
        environment = self.open_environment()
        with _told_as_damage():
            observation = await environment.restoring(snapshot)
        return journal, environment, Answer(snapshot.entries[-1].request_digest, observation)

    def snapshot_of(self, episode_id: str) -> pb.EpisodeSnapshot:
        """An episode as the store has it.

        Raises:
            EpisodeNotFoundError: unknown, closed or expired.
            EpisodeDamagedError, StoreUnavailableError: it cannot be read.
        """
        return _snapshot_of(self._journal_of(episode_id))

    def _journal_of(self, episode_id: str) -> Journal:
        while (journal := self.store.load(episode_id)) is None:  # or it ended just now, and was opened anew since
            standing = self.store.standing(episode_id)
            if standing is None or standing.end is not None:
                raise self._not_found(standing)
        return journal

    async def is_outdated(self, episode: Episode, writing: Writing | None) -> bool:
        """Whether the store has another state of an episode than this process; what waits is written before."""
        if not self.store.keeps:
            return False
        await self._have_written(episode, writing)
        if episode.is_out:
            return True
        standing = self.store.standing(episode.episode_id)
        return standing is None or standing.end is not None or standing.place != episode.place

    async def _have_written(self, episode: Episode, writing: Writing | None) -> None:
        """Have what waits of an episode written. Its lock is held afterwards as before."""
        if writing is not None and writing.unwritten_of(episode):
            await self._wait_for(episode, None, writing)

    async def give_up(self, episode: Episode, writing: Writing) -> None:
        """Forget what was done to an episode last, and that nobody can tell the store of."""
        await self._have_written(episode, writing)
        self.drop(episode)

    def drop(self, episode: Episode) -> None:
        """Forget what this process holds of an episode; the caller holds its lock."""
        self.table.take_out(episode)

    def end(self, episode: Episode, end: End, answer: bytes = b"") -> bool:
        """End an episode for good, with an answer to keep; the caller holds its lock. False: it was not live."""
        if episode.environment is None:
            self.drop(episode)
            return False
        unused_since = episode.last_used if end is End.EXPIRED and self.store.keeps else float("inf")
        finish = Finish(episode.episode_id, episode.place.run, end, time.time(), unused_since, answer=answer)
        ended = self.store.write([finish])[0]
        if ended:
            self.leave(episode, end)
        else:
            self.drop(episode)
        return ended

    def leave(self, episode: Episode, end: End) -> None:
        """Forget an episode that has ended in the store, archive it, and close its task; the caller holds its lock."""
        environment = episode.environment
        self.drop(episode)
        self.closings.begin(environment, _REASONS[end])
        if end is End.CLOSED:
            self.closings.settle()
        self.tell_of_end(episode.episode_id, end)

    def tell_of_end(self, episode_id: str, end: End) -> None:
        """Tell those who watch that an episode has ended."""
        self.telemetry.episode_ended(end.value)
        if end is End.EXPIRED:
            _LOG.info("episode expired", extra={"episode_id": episode_id})

    def is_idle(self, episode: Episode) -> bool:
        """Whether nobody used an episode for too long, as far as this process knows."""
        return self._idle_timeout_s > 0 and self.clock() - episode.last_used > self._idle_timeout_s

    def _not_found(self, standing: Standing | None) -> EpisodeNotFoundError:
        """The error for an episode that is not live."""
        kind = EpisodeUnknownError if standing is None or standing.end is None else _ENDS[standing.end]
        lost = "it ended long ago" if self.store.keeps else "the server was restarted since"
        return kind(f"{_NOT_FOUND[kind].format(lost=lost)}; call Reset to open one")


def _snapshot_of(journal: Journal) -> pb.EpisodeSnapshot:
    with _told_as_damage():
        return wire.snapshot_of_bytes(b"".join(journal.entries))


@contextmanager
def _told_as_damage() -> Iterator[None]:
    """What a caller's snapshot would be refused for, is damage in a store's."""
    try:
        yield
    except InvalidRequestError as error:
        what = f"the record of the episode is damaged, and is left as it is ({error.message})"
        raise EpisodeDamagedError(what) from error
