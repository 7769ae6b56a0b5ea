"""Episodes by id: opens, steps, reads and ends them, within a budget. Knows nothing of gRPC or of templates."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

from chatenv_client.errors import ChatEnvError, InvalidRequestError
from chatenv_client.models import ChatAction, ChatObservation, ResetOptions
from chatenv_client.reasons import Reason
from chatenv_server.environment.environment import ChatEnvironment
from chatenv_server.episodes.budget import Budget
from chatenv_server.episodes.episode import Caller, Episode, Write
from chatenv_server.episodes.expiry import Expiry
from chatenv_server.episodes.limits import StoreLimits
from chatenv_server.episodes.shelf import Shelf
from chatenv_server.episodes.summaries import summary_of
from chatenv_server.episodes.writing import Outdated, Writing
from chatenv_server.observing.telemetry import Telemetry
from chatenv_server.stores.memory import MemoryStore
from chatenv_server.stores.store import Append, Begin, End, Finish, Place, Store

MAX_MESSAGES: Final = 65_536
"""Of one episode. A limit of tokens would not bound its memory, since a template may write nothing for a message."""

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
            return self._written(lambda alone: self._reset(episode_id, named, caller, answer, alone))
        return self._reset(episode_id, named, caller, answer, writing)

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
                lambda alone: self._step(episode_id, action, digest, step_index, caller, answer, alone)
            )
        return self._step(episode_id, action, digest, step_index, caller, answer, writing)

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
                if not episode.is_out and episode.environment is not None and self.shelf.end(episode, End.CLOSED):
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

    # -- what calls do ----------------------------------------------------------------------------

    def _reset(
        self,
        episode_id: str,
        options: ResetOptions,
        caller: Caller | None,
        answer: Write | None,
        writing: Writing | None,
    ) -> ChatObservation:
        episode = self.shelf.open_place(episode_id, caller, writing)
        try:
            return self._start(episode, options, answer, writing)
        except BaseException:
            if episode.environment is None:
                self.shelf.drop(episode)
            raise
        finally:
            self.shelf.release(episode, writing)

    def _start(
        self, episode: Episode, options: ResetOptions, answer: Write | None, writing: Writing | None
    ) -> ChatObservation:
        table = self.shelf.table
        self._check_room_for(episode)
        table.reserve(1)
        try:
            environment = self.shelf.open_environment()
            observation = environment.reset(answer=answer, **options)
            episode.begin(environment, Place(uuid.uuid4().hex[:16], 0), time.time())
        finally:
            table.account(episode, reserved=1)
        if writing is not None:
            run, summary = episode.place.run, summary_of(environment, episode.created)
            begun = Begin(episode.episode_id, run, [environment.newest_piece()], summary)
            writing.add(episode, begun, Place(run, 1))
        self._telemetry.episode_started()
        self._count_reports(observation)
        return observation

    def _check_room_for(self, episode: Episode) -> None:
        self._limits.check_tokens()
        if not self._store.keeps or episode.environment is not None:
            return
        standing = self._store.standing(episode.episode_id)
        if standing is None or standing.end is not None:
            self._limits.check_episodes()

    def check_room(self, more: int) -> None:
        """Raise EpisodeLimitError or TokenLimitError unless the store may keep so many episodes more."""
        self._limits.check_tokens()
        self._limits.check_episodes(more)

    def _step(
        self,
        episode_id: str,
        action: ChatAction,
        digest: bytes,
        step_index: int | None,
        caller: Caller | None,
        answer: Write | None,
        writing: Writing | None,
    ) -> ChatObservation:
        # No context manager: its generator would take a microsecond or two, and a whole step takes few.
        shelf = self.shelf
        episode = shelf.acquire(episode_id, caller, writing)
        try:
            environment = environment_of(episode)
            stored = episode.replayed(environment.step_count, step_index, digest)
            if stored is not None:
                self._check_current(episode, writing)
                if answer is not None:
                    answer(stored)
                return stored
            observation = self._append(episode, environment, action, digest, answer)
        except ChatEnvError:
            self._check_current(episode, writing)
            raise
        else:
            if writing is not None:
                place = episode.place
                piece, summary = environment.newest_piece(digest), summary_of(environment, episode.created)
                append = Append(episode.episode_id, place, piece, summary)
                writing.add(episode, append, place._replace(version=place.version + 1))
            return observation
        finally:
            shelf.release(episode, writing)

    def _check_current(self, episode: Episode, writing: Writing | None) -> None:
        """Raise Outdated where another process knows better."""
        if self.shelf.is_outdated(episode, writing):
            self.shelf.drop(episode)
            raise Outdated

    def _append(
        self,
        episode: Episode,
        environment: ChatEnvironment,
        action: ChatAction,
        digest: bytes,
        answer: Write | None,
    ) -> ChatObservation:
        _check_message_count(environment, action)
        at_least = max(1, len(action.tokens))
        self._limits.check_tokens(at_least)
        table = self.shelf.table
        table.reserve(at_least)
        try:
            observation = episode.step(environment, action, digest, answer)
        finally:
            table.account(episode, reserved=at_least)
        self._count_reports(observation)
        if observation.segment != episode.segment:
            episode.segment = observation.segment
            self._telemetry.segment_began()
        return observation

    def _count_reports(self, observation: ChatObservation) -> None:
        for report in observation.fidelity:
            self._telemetry.inexact(report.kind.value)


def environment_of(episode: Episode) -> ChatEnvironment:
    """The environment of an episode that is live."""
    if episode.environment is None:
        raise RuntimeError("the episode has no environment")
    return episode.environment


def _check_message_count(environment: ChatEnvironment, action: ChatAction) -> None:
    if environment.message_count + len(action.messages) > MAX_MESSAGES:
        raise InvalidRequestError(
            f"the episode would hold more than {MAX_MESSAGES} messages; end it, and go on in another",
            reason=Reason.TOO_MANY_MESSAGES,
            field="messages",
        )


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
