"""Calls the task of one episode, and holds what it says against the rules.

What a task opens with or answers is checked here, so that the environment takes it as it takes a caller's. A task that
fails, fails its call: the reset or step is taken back whole.
"""

from __future__ import annotations

import dataclasses
import math
import threading
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import numpy as np

from chatenv_client.errors import InvalidRequestError, TaskAnswerError, TaskError, TaskTimeoutError
from chatenv_client.models import Failure, Message, own_message
from chatenv_client.reasons import Reason
from chatenv_client.wire.json_fields import check_keys, plain_json
from chatenv_server.environment.rewards import NO_REWARD, Earned, earned
from chatenv_server.environment.user_code import Kind, OwnState, State, StateKeeper, UserCode, keeps_state
from chatenv_server.environment.validation import check_failure, check_messages
from chatenv_server.tasks.scores import NoScoreError
from chatenv_server.tasks.task import Answer, End, ModelTurn, Opening, Task, TaskEpisode
from chatenv_server.tasks.user_functions import is_the_users

_KIND: Final = Kind("task", "task-timeout", TaskError, TaskTimeoutError)


class Said(NamedTuple):
    """What a task answered, checked."""

    messages: tuple[Message, ...] = ()
    reward: Earned = NO_REWARD
    terminated: bool = False
    truncated: bool = False
    metadata: Mapping[str, Any] | None = None
    failure: Failure | None = None


NOTHING_SAID: Final = Said()


class TaskGuard(UserCode):
    """The guarded task of one episode.

    Args:
        task: the task.
        name: by which callers choose it.
        timeout_s: seconds a call may take; 0: any.
    """

    def __init__(self, task: Task, name: str, timeout_s: float = 0.0) -> None:
        super().__init__(_KIND, timeout_s, _keeper_of(task))
        self.name = name
        self._task = task
        self._closes = threading.Lock()
        """Taken once, by who closes it."""

    async def open(self, episode: TaskEpisode) -> tuple[Opening, State | None]:
        """How the task opens an episode, and what it knows then.

        Raises:
            TaskError: it fails, or takes too long.
        """
        opening, state = await self.called("the task", self._task.open, episode)
        if opening is None:
            opening = Opening()
        if not isinstance(opening, Opening):
            raise self.failure(f"`open` of the task returned {type(opening).__name__}, not an Opening")
        if opening.metadata is None:
            return opening, state
        try:
            return dataclasses.replace(opening, metadata=_own_metadata(opening.metadata)), state
        except (TypeError, InvalidRequestError) as error:
            raise self.failure(f"what the task opened with is refused: {error}") from error
        except BaseException as error:
            if is_the_users(error):
                raise
            raise self.failure("the task opened with what cannot be read") from error

    async def answer(self, turn: ModelTurn) -> tuple[Said, State | None]:
        """What the task answers to a turn, and what it knows then.

        Raises:
            TaskError: it fails, takes too long, or answers what cannot be.
        """
        answer, state = await self._asked(turn)
        if answer is None:
            return NOTHING_SAID, state
        if not isinstance(answer, Answer):
            raise self.failure(f"`answer` of the task returned {type(answer).__name__}, not an Answer")
        try:
            return self._checked(answer), state
        except TypeError as error:
            raise self.failure(f"what the task answered is refused: {error}") from error
        except InvalidRequestError as error:
            what = f"what the task answered is refused: {error}"
            if error.reason in (Reason.BAD_REWARD, Reason.BAD_METADATA, Reason.BAD_FAILURE, Reason.INVALID_REQUEST):
                raise self.failure(what) from error
            raise rejected(what) from error
        except BaseException as error:
            if is_the_users(error) or isinstance(error, TaskError):
                raise
            # To read a value may run code of the task's, or of its libraries.
            raise self.failure("the task answered what cannot be read") from error

    async def _asked(self, turn: ModelTurn) -> tuple[Any, State | None]:
        try:
            return await self.called("the task", self._task.answer, turn)
        except TaskError as error:
            if isinstance(error.__cause__, NoScoreError):
                raise self.failure(str(error.__cause__)) from error.__cause__
            raise

    @staticmethod
    def _checked(answer: Answer) -> Said:
        messages = tuple(own_message(message) for message in answer.messages)
        check_messages(messages)
        if answer.failure is not None:
            check_failure(answer.failure)
        return Said(
            messages,
            earned(answer.reward, answer.rewards, answer.weights),
            _end(answer.terminated, "terminated"),
            _end(answer.truncated, "truncated"),
            None if answer.metadata is None else _own_metadata(answer.metadata),
            answer.failure,
        )

    # -- the end ----------------------------------------------------------------------------------

    @property
    def is_to_be_closed(self) -> bool:
        """Whether closing it does anything."""
        return type(self._task).close is not Task.close

    async def close(self, reason: End) -> None:
        """Close the task, the first time that this is called; a call that overran is waited for, however long it lasts.

        Raises:
            TaskError: it fails, or takes too long.
        """
        if self.is_to_be_closed and self._closes.acquire(blocking=False):
            await self.at_rest()
            await self.called("`close` of the task", self._task.close, reason)


def _own_metadata(given: Any) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        raise TypeError(f"metadata is a mapping, not a {type(given).__name__}")
    metadata: dict[str, Any] = plain_json(dict(given), "metadata", Reason.BAD_METADATA)
    check_keys(metadata, "metadata", Reason.BAD_METADATA)
    return metadata


def _end(given: Any, name: str) -> bool:
    if not isinstance(given, (bool, np.bool_)):
        raise TypeError(f"{name} is a bool, not a {type(given).__name__}")
    return bool(given)


def rejected(what: str) -> TaskAnswerError:
    """The error for messages of a task's that cannot be."""
    return TaskAnswerError(f"{what}; the step was taken back")


def _keeper_of(task: Task) -> StateKeeper:
    return OwnState(task, _KIND) if keeps_state(task) else _Attributes(task)


class _Attributes(StateKeeper):
    """The state of any other task: its attributes, where they are JSON."""

    def __init__(self, task: Task) -> None:
        self._task = task

    def told(self) -> State | None:
        """Its attributes."""
        try:
            return {name: _copied(value) for name, value in vars(self._task).items()}
        except _NotJsonError:
            return None

    def give_back(self, state: State) -> None:
        """Sets them, and removes all others."""
        attributes = vars(self._task)
        attributes.clear()
        attributes.update(state)


class _NotJsonError(Exception):
    """A value that JSON does not give back as it was."""


def _copied(value: Any) -> Any:
    """A copy of a value that JSON gives back as it was. Raises _NotJsonError, also where it contains itself."""
    kind = type(value)
    if value is None or kind in (str, int, bool):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return float(value)  # one that JSON spelled in another way is a number like any other
    try:
        if kind is list:
            return [_copied(item) for item in value]
        if kind is dict and all(type(key) is str for key in value):
            return {key: _copied(item) for key, item in value.items()}
    except RecursionError:
        pass
    raise _NotJsonError
