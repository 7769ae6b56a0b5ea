"""How an episode is played: reset and step as work that may have to wait for a task or a transform.

It decides the order of a step: check, append, ask the task, append what it answers, ask the transform, tell the caller.
If any of them fails, it takes the whole step back. The engine owns the tokens; the server owns ids and concurrency.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from chatenv_client import wire
from chatenv_client.errors import (
    EpisodeClosedError,
    EpisodeDoneError,
    InvalidRequestError,
    TemplateRejectedError,
    TransformError,
    TransformTimeoutError,
)
from chatenv_client.models import ChatAction, ChatObservation, Failure, ResetOptions
from chatenv_server.engine import TokenEngine
from chatenv_server.environment.blame import blaming
from chatenv_server.environment.casting import Casting, Opened, closed, is_the_tasks
from chatenv_server.environment.guard import TransformGuard
from chatenv_server.environment.journal import NO_OUTCOME, Appended, Outcome
from chatenv_server.environment.late_rewards import set_late, step_of_turn
from chatenv_server.environment.options import EpisodeOptions
from chatenv_server.environment.reading import EnvironmentReading
from chatenv_server.environment.record import EpisodeRecord, Moment
from chatenv_server.environment.restoring import restored
from chatenv_server.environment.rewards import Earned
from chatenv_server.environment.snapshots import EpisodeSnapshot
from chatenv_server.environment.task_guard import NOTHING_SAID, Said, TaskGuard, rejected
from chatenv_server.environment.validation import check_action, check_failure, check_replace_from
from chatenv_server.environment.views import ended_turn, observation_of, show_reward
from chatenv_server.tasks.choice import Tasks
from chatenv_server.tasks.task import End

if TYPE_CHECKING:
    from typing_extensions import Unpack

_LOG: Final = logging.getLogger(__name__)

Tell = Callable[[ChatObservation], None]
"""Tells a caller of a reset or step before that is final. If it raises, it is not."""


class Playing(EnvironmentReading):
    """The part of an environment that changes its episode; `ChatEnvironment` is the whole.

    Args:
        engine: owns the tokens.
        options: of every episode whose reset does not say otherwise.
        transform: called on the observation of every step.
        tasks: that episodes choose from.
        task_timeout_s: seconds that a call of a task may take; 0: any.
        keeps_journal: whether to keep what `snapshot` needs.
    """

    def __init__(
        self,
        engine: TokenEngine,
        options: EpisodeOptions,
        transform: TransformGuard | None,
        tasks: Tasks,
        task_timeout_s: float,
        *,
        keeps_journal: bool,
    ) -> None:
        super().__init__(engine)
        self._options = options
        self._transform = transform
        self._casting = Casting(tasks, task_timeout_s, needs_state=not keeps_journal)
        self._keeps_journal = keeps_journal
        self._task: TaskGuard | None = None
        self._is_closed = False

    # -- reset ------------------------------------------------------------------------------------

    async def resetting(self, *, answer: Tell | None = None, **options: Unpack[ResetOptions]) -> ChatObservation:
        """The work of `reset`."""
        asked = self._options.overridden_by(options)
        opened = await self._casting.opened(asked, prompt_is_given=bool(options.get("system_prompt")))
        try:
            episode, observation = await self._begun(asked if opened is None else opened.options, opened)
            if answer is not None:
                answer(observation)
        except BaseException as error:
            if opened is not None:
                await closed(opened.task, End.REFUSED)
                if is_the_tasks(error, opened, asked):
                    raise rejected(f"what the task opened with is refused: {error}") from error
            raise
        before, self._task = self._task, None if opened is None else opened.task
        self._episode, self._is_closed = episode, False
        if before is not None:
            await closed(before, End.RESET)
        return observation

    async def _begun(self, asked: EpisodeOptions, opened: Opened | None) -> tuple[EpisodeRecord, ChatObservation]:
        # A transform may read the messages at every step, so for it their texts are kept.
        log = self.engine.open(asked.render_options(), keeps_texts=self._transform is not None)
        episode = EpisodeRecord(asked, log, keeps_journal=self._keeps_journal)
        kept = None if self._transform is None else await self._transform.state()
        try:
            change = episode.open(kept, None if opened is None else opened.state)
        except TemplateRejectedError as error:
            opening = asked.opening
            raise blaming(error, log, opening, len(opening) - len(asked.messages)) from error
        episode.row = None if opened is None else opened.row
        return episode, observation_of(episode, change)

    # -- step -------------------------------------------------------------------------------------

    async def stepping(self, action: ChatAction, *, answer: Tell | None = None) -> ChatObservation:
        """The work of `step`, for an action that was made already."""
        episode = self._live()
        check_action(action, self.engine.token_id_limit)
        if action.replace_from is not None:
            check_replace_from(action.replace_from, episode.log.message_count)
        moment, went_on = episode.moment, episode.progress.turn_open
        try:
            appended = episode.append(action)
            if self._task is None and self._transform is None:
                observation = observation_of(episode, appended.change)
                outcome = Outcome(truncated=True) if episode.progress.truncated else NO_OUTCOME
            else:
                appended, said, state = await self._answered(episode, appended, action, went_on=went_on)
                observation = observation_of(episode, appended.shown)
                outcome = await self._outcome(episode, observation, said, state)
            if answer is not None:
                answer(observation)
        except TemplateRejectedError as error:
            self._take_back(episode, moment)
            raise blaming(error, episode.log, action.messages) from error
        except BaseException:
            self._take_back(episode, moment)
            raise
        episode.book(appended, outcome)
        return observation

    async def _answered(
        self, episode: EpisodeRecord, appended: Appended, action: ChatAction, *, went_on: bool
    ) -> tuple[Appended, Said, Mapping[str, Any] | None]:
        """The step with what the task answers to it, that answer, and what the task knows then.

        Args:
            episode: the episode.
            appended: what the step appended.
            action: of the step.
            went_on: whether it went on with a turn that was aborted.
        """
        progress = episode.progress
        is_over = not progress.turn_open or progress.truncated  # nobody goes on with a turn that a limit cut off
        if self._task is None or appended.sampled is None or not is_over:
            return appended, NOTHING_SAID, episode.task_state
        said, state = await self._task.answer(ended_turn(episode, action, goes_on=went_on))
        self._casting.check_kept(self._task, state)
        return _with_messages(episode, appended, said), said, state

    async def _outcome(
        self, episode: EpisodeRecord, observation: ChatObservation, said: Said, state: Mapping[str, Any] | None
    ) -> Outcome:
        """What a step comes to, which its observation shows then."""
        progress, reward, kept = episode.progress, said.reward, None
        if said is not NOTHING_SAID:
            _show(observation, said, progress.truncated)
        if self._transform is not None:
            shaped = await self._transform.shaped(observation, reward)
            reward, kept = shaped.reward, shaped.state
            observation.reward, observation.rewards = None, {}
            show_reward(observation, reward)
            observation.terminated, observation.metadata = shaped.terminated, shaped.metadata
            observation.truncated = shaped.truncated or progress.truncated
        episode.end_as(observation.terminated, observation.truncated, observation.failure)
        own = episode.options.metadata
        return Outcome(
            reward,
            observation.terminated,
            observation.truncated,
            None if _is_same_json(observation.metadata, own) else observation.metadata,
            kept,
            state,
            observation.failure,
        )

    def _take_back(self, episode: EpisodeRecord, moment: Moment) -> None:
        episode.take_back(moment)
        if self._transform is not None:
            self._transform.take_back(episode.transform_state)
        if self._task is not None:
            self._task.take_back(episode.task_state)

    def _live(self) -> EpisodeRecord:
        episode = self._episode or self._current()
        if self._is_closed:
            raise EpisodeClosedError("the episode was closed; reset to begin another")
        if episode.progress.is_over:
            raise EpisodeDoneError("the episode is over; reset it to go on")
        return episode

    # -- after a step -----------------------------------------------------------------------------

    def set_late_reward(
        self, reward: Earned, *, step: int | None = None, turn: int | None = None
    ) -> tuple[int, Earned]:
        """Set what a step earned, also after the end: the step, and what it has earned then.

        Raises:
            InvalidRequestError: there is no such step or turn.
        """
        episode = self._current()
        of = step_of_turn(episode.log, turn) if turn is not None else step or 0
        return of, set_late(episode, of, reward)

    def record_failure(self, failure: Failure) -> Failure:
        """End the episode because something broke; the failure on record, which is the first.

        Raises:
            InvalidRequestError: it does not say what broke.
        """
        check_failure(failure)
        return self._current().fail(failure)

    # -- taken up, and ended ----------------------------------------------------------------------

    async def restoring(self, snapshot: EpisodeSnapshot | bytes) -> ChatObservation:
        """The work of `restore`."""
        told = wire.snapshot_of_bytes(snapshot) if isinstance(snapshot, bytes) else snapshot
        episode, observation = restored(
            self.engine, told, keeps_texts=self._transform is not None, keeps_journal=self._keeps_journal
        )
        task = await self._casting.taken_up(episode)
        if self._transform is not None and episode.transform_state is not None:
            await self._load_state(self._transform, episode.transform_state)
        before, self._task, self._episode = self._task, task, episode
        self._is_closed = False
        if before is not None:
            await closed(before, End.RESET)
        return observation

    async def _load_state(self, transform: TransformGuard, state: Mapping[str, Any]) -> None:
        try:
            await transform.load_state(state)
        except TransformError as error:
            transform.take_back(None if self._episode is None else self._episode.transform_state)
            if isinstance(error, TransformTimeoutError):
                raise
            raise TransformError(
                "load_state_dict of the transform raised, so the episode cannot be taken up; "
                "serve it with the transform that kept its state"
            ) from error.__cause__

    async def closing(self, reason: End) -> None:
        """Close the task of the episode, which takes no step any more. What it raises is logged."""
        task, self._task, self._is_closed = self._task, None, True
        if task is not None:
            await closed(task, reason)

    @property
    def closes(self) -> bool:
        """Whether anything has to be closed at the end."""
        return self._task is not None and self._task.is_to_be_closed


def _with_messages(episode: EpisodeRecord, appended: Appended, said: Said) -> Appended:
    """The step with what the task answered. Raises TaskAnswerError where that cannot be."""
    if not said.messages:
        return appended
    try:
        return episode.answer(appended, said.messages)
    except InvalidRequestError as error:
        raise rejected(f"what the task answered is refused: {error}") from error


def _show(observation: ChatObservation, said: Said, is_at_limit: bool) -> None:
    """Have an observation show what a task said of its step."""
    show_reward(observation, said.reward)
    observation.terminated = said.terminated
    observation.truncated = said.truncated or is_at_limit
    observation.failure = said.failure
    if said.metadata is not None:
        observation.metadata = {**observation.metadata, **copy.deepcopy(dict(said.metadata))}


def _is_same_json(left: Mapping[str, Any], right: Mapping[str, Any]) -> bool:
    return left == right and repr(left) == repr(right)  # 1 equals True, and JSON tells them apart
