"""Episodes by id: opens, steps, reads and ends them, within a budget. Knows nothing of gRPC or of templates."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from chatenv_client.models import ChatAction, ChatObservation, ResetOptions
from chatenv_server.archive.archive import Archive
from chatenv_server.environment.environment import ChatEnvironment
from chatenv_server.episodes.budget import Budget
from chatenv_server.episodes.calls import EpisodeCalls, environment_of
from chatenv_server.episodes.close import close
from chatenv_server.episodes.episode import Caller, Write
from chatenv_server.episodes.expiry import Expiry
from chatenv_server.episodes.ids import checked_id
from chatenv_server.episodes.limits import StoreLimits
from chatenv_server.episodes.notes import Notes
from chatenv_server.episodes.shelf import Shelf
from chatenv_server.episodes.writing import Writing, written
from chatenv_server.observing.telemetry import Telemetry
from chatenv_server.stores.memory import MemoryStore
from chatenv_server.stores.store import Store
from chatenv_server.tasks.task import End as TaskEnd
from chatenv_server.work import done


class Episodes:
    """All live episodes of a server. Safe to use from many threads; calls on one episode are serialised.

    A call waits for other calls on its episode until its `caller` has waited long enough; then it raises DeadlineError
    and has done nothing. Without a caller it waits for ever. Where a store keeps the episodes, any call may raise
    StoreUnavailableError, and one on an episode EpisodeDamagedError or TokenizerMismatchError.

    A call that is given a `writing` does not write what it does, but leaves that to it; where another process was
    quicker, it raises Outdated and is to be made again.

    Args:
        open_environment: makes the environment of an episode.
        budget: what all of them may take.
        store: where they live; None: in this process alone.
        clock: seconds; where a store keeps them, since 1970. None: the machine's.
        telemetry: told of what happens.
        closes_tasks: whether episodes may have tasks that want to be closed.
        archive: takes the records of episodes that ended; None: nobody does.
    """

    def __init__(
        self,
        open_environment: Callable[[], ChatEnvironment],
        budget: Budget,
        *,
        store: Store | None = None,
        clock: Callable[[], float] | None = None,
        telemetry: Telemetry | None = None,
        closes_tasks: bool = False,
        archive: Archive | None = None,
    ) -> None:
        self._telemetry = telemetry or Telemetry()
        self._store: Store = store or MemoryStore()
        self._limits = StoreLimits(self._store, budget)
        clock = clock or (time.time if self._store.keeps else time.monotonic)
        self.shelf = Shelf(
            open_environment,
            budget,
            self._store,
            clock,
            self._telemetry,
            self.expire_idle,
            closes_tasks=closes_tasks,
            archive=archive,
        )
        self._calls = EpisodeCalls(self.shelf, self._limits)
        self.notes = Notes(self.shelf, self._calls)
        """What is told of them beside their steps."""
        self._expiry = Expiry(self.shelf, budget.idle_timeout_s)

    @property
    def live_episodes(self) -> int:
        """Episodes live now."""
        return self._limits.known_totals.episodes if self._store.keeps else len(self.shelf.table)

    @property
    def live_tokens(self) -> int:
        """Tokens that live episodes hold now."""
        return self._limits.known_totals.held_tokens if self._store.keeps else self.shelf.table.tokens

    @property
    def held_episodes(self) -> int:
        """Episodes that this process holds."""
        return len(self.shelf.table)

    @property
    def held_tokens(self) -> int:
        """Tokens of the episodes that this process holds."""
        return self.shelf.table.tokens

    def expire_idle(self) -> None:
        """End the episodes that were idle for too long. Costs nothing while none can be."""
        self._expiry.expire_idle()

    def writing(self) -> Writing | None:
        """A way to write what many calls do together; None where nothing is written."""
        return self.shelf.writing() if self._store.keeps else None

    # -- calls ------------------------------------------------------------------------------------

    def reset(self, options: ResetOptions, **how: Any) -> ChatObservation:
        """As `resetting`, in this thread."""
        return done(self.resetting(options, **how))

    def step(self, episode_id: str, action: ChatAction, **how: Any) -> ChatObservation:
        """As `stepping`, in this thread."""
        return done(self.stepping(episode_id, action, **how))

    async def resetting(
        self,
        options: ResetOptions,
        *,
        caller: Caller | None = None,
        answer: Write | None = None,
        writing: Writing | None = None,
    ) -> ChatObservation:
        """Start an episode, or start the named one anew. If that or `answer` fails, everything is as it was.

        Raises:
            InvalidRequestError: a bad episode_id, or whatever the environment refuses.
            EpisodeLimitError: too many episodes.
            TokenLimitError: too many tokens.
        """
        episode_id = checked_id(options.get("episode_id"))
        named: ResetOptions = {**options, "episode_id": episode_id}
        if writing is None and self._store.keeps:
            return await written(
                self.shelf.writing, lambda alone: self._calls.reset(episode_id, named, caller, answer, alone)
            )
        return await self._calls.reset(episode_id, named, caller, answer, writing)

    async def stepping(
        self,
        episode_id: str,
        action: ChatAction,
        *,
        step_index: int | None = None,
        caller: Caller | None = None,
        answer: Write | None = None,
        writing: Writing | None = None,
    ) -> ChatObservation:
        """Append one turn, or give the stored answer again. If `answer` fails, nothing is appended.

        Args:
            episode_id: the episode.
            action: what to append.
            step_index: step_count as the caller has seen it; None: no check.
            caller: who waits for the answer.
            answer: writes it; may be called again, and only the last time counts.
            writing: writes what is done; None: it is written before the call returns.

        Raises:
            StepIndexMismatchError: neither the next step nor a repetition of the last.
            EpisodeNotFoundError: unknown, closed or expired.
            InvalidRequestError: too many messages.
            TokenLimitError: too many tokens.
            ChatEnvError: whatever the environment refuses.
        """
        if writing is None and self._store.keeps:
            return await written(
                self.shelf.writing,
                lambda alone: self._calls.step(episode_id, action, step_index, caller, answer, alone),
            )
        return await self._calls.step(episode_id, action, step_index, caller, answer, writing)

    def finish(
        self, episode_id: str, answer: Callable[[ChatEnvironment], bytes], *, caller: Caller | None = None
    ) -> bytes:
        """As `finishing`, in this thread."""
        return done(self.finishing(episode_id, answer, caller=caller))

    async def finishing(
        self,
        episode_id: str,
        answer: Callable[[ChatEnvironment], bytes],
        *,
        caller: Caller | None = None,
        writing: Writing | None = None,
    ) -> bytes:
        """End an episode with a last answer, which its store keeps for who asks again.

        Args:
            episode_id: the episode.
            answer: reads the environment, and gives what to keep. If it fails, the episode is as it was. It may be
                called again, and only the last time counts.
            caller: who waits for the answer.
            writing: as for `stepping`.

        Returns:
            What was kept, where the episode was finished before; else nothing: what `answer` gave last is the answer.

        Raises:
            EpisodeNotFoundError: unknown, expired, or closed with another call or too long ago.
        """
        if writing is None and self._store.keeps:
            return await written(
                self.shelf.writing, lambda alone: self._calls.finish(episode_id, caller, answer, alone)
            )
        return await self._calls.finish(episode_id, caller, answer, writing)

    @contextmanager
    def reading(self, episode_id: str, *, caller: Caller | None = None) -> Iterator[ChatEnvironment]:
        """An episode's environment, to read from while nobody changes it.

        Raises:
            EpisodeNotFoundError: unknown, closed or expired.
        """
        with self.shelf.reading(episode_id, caller) as episode:
            yield environment_of(episode)

    def close(self, episode_id: str, *, caller: Caller | None = None) -> bool:
        """End an episode; whether it was live until now."""
        return close(self.shelf, episode_id, caller)

    def close_tasks(self, seconds: float) -> bool:
        """Close the tasks of all episodes that end with this process, which are none where a store keeps them.

        Args:
            seconds: that they have.

        Returns:
            Whether all are closed, those of episodes that ended before included.
        """
        for episode in [] if self._store.keeps else self.shelf.table.all():
            self.shelf.endings.closings.begin_when_free(episode, TaskEnd.STOPPED)
        return self.shelf.endings.closings.wait(seconds)

    def check_room(self, episodes: int, tokens: int) -> None:
        """Raise EpisodeLimitError or TokenLimitError unless the store may keep so many episodes and tokens more."""
        if self._store.keeps:
            self._limits.ask()
        self._limits.check_tokens(tokens)
        self._limits.check_episodes(episodes)
