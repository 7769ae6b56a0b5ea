"""Episodes by id: opens, steps, reads and ends them, within a budget. Knows nothing of gRPC or of templates."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

from chatenv_client.errors import InvalidRequestError
from chatenv_client.models import ChatAction, ChatObservation, ResetOptions
from chatenv_client.reasons import Reason
from chatenv_server.environment.environment import ChatEnvironment
from chatenv_server.episodes.budget import Budget
from chatenv_server.episodes.calls import EpisodeCalls, environment_of
from chatenv_server.episodes.episode import Caller, Write
from chatenv_server.episodes.expiry import Expiry
from chatenv_server.episodes.limits import StoreLimits
from chatenv_server.episodes.shelf import Shelf
from chatenv_server.episodes.writing import Outdated, Writing
from chatenv_server.observing.telemetry import Telemetry
from chatenv_server.stores.memory import MemoryStore
from chatenv_server.stores.store import End, Finish, Store

_EPISODE_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")
ResultT = TypeVar("ResultT")


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
    """

    def __init__(
        self,
        open_environment: Callable[[], ChatEnvironment],
        budget: Budget,
        *,
        store: Store | None = None,
        clock: Callable[[], float] | None = None,
        telemetry: Telemetry | None = None,
    ) -> None:
        self._telemetry = telemetry or Telemetry()
        self._store: Store = store or MemoryStore()
        self._limits = StoreLimits(self._store, budget)
        clock = clock or (time.time if self._store.keeps else time.monotonic)
        self.shelf = Shelf(open_environment, budget, self._store, clock, self._telemetry, relieve=self.expire_idle)
        self._calls = EpisodeCalls(self.shelf, self._limits)
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

    def reset(
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
            return self._written(lambda alone: self._calls.reset(episode_id, named, caller, answer, alone))
        return self._calls.reset(episode_id, named, caller, answer, writing)

    def step(
        self,
        episode_id: str,
        action: ChatAction,
        *,
        digest: bytes,
        step_index: int | None = None,
        caller: Caller | None = None,
        answer: Write | None = None,
        writing: Writing | None = None,
    ) -> ChatObservation:
        """Append one turn, or give the stored answer again. If `answer` fails, nothing is appended.

        Args:
            episode_id: the episode.
            action: what to append.
            digest: the same for two requests exactly if they ask the same.
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
            return self._written(
                lambda alone: self._calls.step(episode_id, action, digest, step_index, caller, answer, alone)
            )
        return self._calls.step(episode_id, action, digest, step_index, caller, answer, writing)

    def _written(self, work: Callable[[Writing], ResultT]) -> ResultT:
        """Do and write something, again for as long as other processes are quicker."""
        while True:
            writing = self.shelf.writing()
            try:
                result = work(writing)
                writing.settle()
            except Outdated:
                continue
            return result

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
        while (episode := self.shelf.table.get(episode_id)) is not None:
            episode.acquire(caller)
            try:
                if self.shelf.end(episode, End.CLOSED):
                    return True
            finally:
                episode.release()
        return self._close_in_store(episode_id)

    def _close_in_store(self, episode_id: str) -> bool:
        """End an episode that this process does not hold."""
        while (standing := self._store.standing(episode_id)) is not None and standing.end is None:
            if self._store.write([Finish(episode_id, standing.place.run, End.CLOSED, time.time())])[0]:
                self.shelf.tell_of_end(episode_id, End.CLOSED)
                return True
        return False

    def check_room(self, episodes: int, tokens: int) -> None:
        """Raise EpisodeLimitError or TokenLimitError unless the store may keep so many episodes and tokens more."""
        if self._store.keeps:
            self._limits.ask()
        self._limits.check_tokens(tokens)
        self._limits.check_episodes(episodes)


def is_episode_id(text: str) -> bool:
    """Whether a text could be the id of an episode."""
    return _EPISODE_ID.fullmatch(text) is not None


def checked_id(episode_id: str | None, field: str = "episode_id") -> str:
    """An id, or a new one where none is given.

    Raises:
        InvalidRequestError: it is none.
    """
    if not episode_id:
        return uuid.uuid4().hex
    if not is_episode_id(episode_id):
        raise InvalidRequestError(
            f"{field} must be 1 to 128 characters of A-Z a-z 0-9 . _ : -", reason=Reason.BAD_EPISODE_ID, field=field
        )
    return episode_id
