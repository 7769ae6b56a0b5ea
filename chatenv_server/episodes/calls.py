"""What a Reset, a Step and an end do: to the episode that this process holds, and to what is written of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Final, TypeVar

from chatenv_client.errors import ChatEnvError, EpisodeClosedError, InvalidRequestError
from chatenv_client.models import ChatAction, ChatObservation, ResetOptions
from chatenv_client.reasons import Reason
from chatenv_server.environment.environment import ChatEnvironment
from chatenv_server.episodes.answers import Answer
from chatenv_server.episodes.episode import Caller, Episode, Write
from chatenv_server.episodes.limits import StoreLimits
from chatenv_server.episodes.shelf import Shelf
from chatenv_server.episodes.summaries import summary_of
from chatenv_server.episodes.writing import Outdated, Writing
from chatenv_server.stores.store import Append, Begin, Finish, Place, Summary, new_run
from chatenv_server.stores.store import End as StoreEnd
from chatenv_server.tasks.task import End

ResultT = TypeVar("ResultT")

MAX_MESSAGES: Final = 65_536
"""Of one episode. A limit of tokens would not bound its memory, since a template may write nothing for a message."""


class EpisodeCalls:
    """Makes calls on episodes. Without a `writing` nothing is written; with one, it is left to that.

    Args:
        shelf: holds the episodes.
        limits: on what their store keeps.
    """

    def __init__(self, shelf: Shelf, limits: StoreLimits) -> None:
        self._shelf = shelf
        self._limits = limits

    async def reset(
        self,
        episode_id: str,
        options: ResetOptions,
        caller: Caller | None,
        answer: Write | None,
        writing: Writing | None,
    ) -> ChatObservation:
        """Start an episode, or start it anew; as `Episodes.reset`."""
        episode = await self._shelf.open_place(episode_id, caller, writing)
        try:
            return await self._start(episode, options, answer, writing)
        except BaseException:
            if episode.environment is None:
                self._shelf.drop(episode)
            raise
        finally:
            self._shelf.release(episode, writing)

    async def _start(
        self, episode: Episode, options: ResetOptions, answer: Write | None, writing: Writing | None
    ) -> ChatObservation:
        table = self._shelf.table
        is_new, before = await self._check_room_for(episode, writing)
        table.reserve(1)
        try:
            environment = self._shelf.open_environment()
            observation = await environment.resetting(answer=answer, **options)
            episode.begin(environment, Place(new_run(), 0), time.time())
        finally:
            table.account(episode, reserved=1)
        close = self._shelf.endings.closings.begin
        if writing is not None:
            try:
                piece, summary = self._told(episode, environment, writing)
            except BaseException:
                close(environment, End.REFUSED)
                raise
            run = episode.place.run
            begun = Begin(episode.episode_id, run, [piece], summary)
            replaced, refused = partial(close, before, End.RESET), partial(close, environment, End.REFUSED)
            writing.add(episode, begun, Place(run, 1), replaced, refused)
            writing.new_episodes += is_new
        else:
            close(before, End.RESET)
        self._shelf.telemetry.episode_started()
        self._count_reports(observation)
        return observation

    async def _check_room_for(self, episode: Episode, writing: Writing | None) -> tuple[bool, ChatEnvironment | None]:
        """Whether an episode would be one more in the store; and the one that it replaces, as far as that is known.

        Raises:
            EpisodeLimitError, TokenLimitError: there is no room.
        """
        self._limits.check_tokens()
        before, shelf = episode.environment, self._shelf
        needs_episode = shelf.endings.needs_episode
        if writing is None or (before is not None and not needs_episode):
            return False, before
        standing = shelf.store.standing(episode.episode_id)
        if standing is not None and standing.end is None:
            return False, await shelf.to_be_closed(episode, standing, writing) if needs_episode else before
        if before is not None and writing.unwritten_of(episode):
            return False, before
        self._limits.check_episodes(unwritten=writing.new_episodes)
        return True, None

    async def step(
        self,
        episode_id: str,
        action: ChatAction,
        step_index: int | None,
        caller: Caller | None,
        answer: Write | None,
        writing: Writing | None,
    ) -> ChatObservation:
        """Append one turn, or give the stored answer again; as `Episodes.step`."""
        # No context manager: its generator would take a microsecond or two, and a whole step takes few.
        shelf = self._shelf
        episode = await shelf.acquire(episode_id, caller, writing)
        try:
            environment = environment_of(episode)
            stored = episode.replayed(environment.step_count, step_index, action)
            if stored is not None:
                self._check_current(episode, writing)
                if answer is not None:
                    answer(stored)
                return stored
            observation = await self._append(episode, environment, action, answer)
        except ChatEnvError:
            self._check_current(episode, writing)
            raise
        else:
            if writing is not None:
                self._append_piece(episode, writing, self._told(episode, environment, writing))
            return observation
        finally:
            shelf.release(episode, writing)

    async def note(
        self,
        episode_id: str,
        caller: Caller | None,
        work: Callable[[ChatEnvironment], tuple[ResultT, bytes]],
        writing: Writing | None,
    ) -> ResultT:
        """Note something about an episode that is no step: `work` does, and gives what the store is to keep of it."""
        episode = await self._shelf.acquire(episode_id, caller, writing)
        try:
            environment = environment_of(episode)
            self._check_current(episode, writing)
            result, piece = work(environment)
            if writing is not None and piece:
                self._append_piece(episode, writing, (piece, summary_of(environment, episode.created)))
            return result
        finally:
            self._shelf.release(episode, writing)

    async def finish(
        self,
        episode_id: str,
        caller: Caller | None,
        answer: Callable[[ChatEnvironment], bytes],
        writing: Writing | None,
    ) -> bytes:
        """End an episode with an answer, which is kept; as `Episodes.finishing`."""
        try:
            episode = await self._shelf.acquire(episode_id, caller, writing)
        except EpisodeClosedError:
            if kept := self._shelf.store.answer(episode_id):
                return kept
            raise
        try:
            environment = environment_of(episode)
            self._check_current(episode, writing)
            told = answer(environment)
            if writing is None:
                self._shelf.endings.end(episode, StoreEnd.CLOSED, told)
            else:
                run, version = episode.place
                end = Finish(episode_id, run, StoreEnd.CLOSED, time.time(), version=version, answer=told)
                writing.add(episode, end, episode.place, partial(self._shelf.endings.leave, episode, StoreEnd.CLOSED))
            return b""
        finally:
            self._shelf.release(episode, writing)

    def _append_piece(self, episode: Episode, writing: Writing, told: tuple[bytes, Summary]) -> None:
        """Have a piece written that goes on where the journal of an episode ends."""
        place, continues = episode.place, writing.unwritten_of(episode)
        append = Append(episode.episode_id, place, *told, continues)
        writing.add(episode, append, place._replace(version=place.version + 1))

    def _told(self, episode: Episode, environment: ChatEnvironment, writing: Writing) -> tuple[bytes, Summary]:
        """What the store is told of the last call."""
        try:
            digest = b"" if episode.answer is None else episode.answer.digest
            return environment.newest_piece(digest), summary_of(environment, episode.created)
        except BaseException:
            self._shelf.give_up(episode, writing)
            raise

    def _check_current(self, episode: Episode, writing: Writing | None) -> None:
        """Before a call is answered that writes nothing. Raises Outdated where another process knows better."""
        if self._shelf.is_outdated(episode, writing):
            self._shelf.drop(episode)
            raise Outdated
        self._shelf.usage.note(episode)

    async def _append(
        self,
        episode: Episode,
        environment: ChatEnvironment,
        action: ChatAction,
        answer: Write | None,
    ) -> ChatObservation:
        _check_message_count(environment, action)
        at_least = max(1, len(action.tokens))
        self._limits.check_tokens(at_least)
        table = self._shelf.table
        table.reserve(at_least)
        try:
            observation = await environment.stepping(action, answer=answer)
            episode.answer = Answer(observation, action)
        finally:
            table.account(episode, reserved=at_least)
        self._count_reports(observation)
        if observation.segment != episode.segment:
            episode.segment = observation.segment
            self._shelf.telemetry.segment_began()
        return observation

    def _count_reports(self, observation: ChatObservation) -> None:
        for report in observation.fidelity:
            self._shelf.telemetry.inexact(report.kind.value)


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
