"""Which task plays an episode: how one opens it, takes it up again, and is closed."""

from __future__ import annotations

import copy
import dataclasses
import logging
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from chatenv_client.errors import ChatEnvError, InvalidRequestError, TaskError, TaskMissingError
from chatenv_client.reasons import Reason
from chatenv_server.environment.options import EpisodeOptions
from chatenv_server.environment.record import EpisodeRecord
from chatenv_server.environment.task_guard import TaskGuard, rejected
from chatenv_server.environment.user_code import State
from chatenv_server.tasks.choice import Tasks
from chatenv_server.tasks.task import End, Opening, TaskEpisode
from chatenv_server.work import Course

_LOG: Final = logging.getLogger(__name__)


class Opened(NamedTuple):
    """A task that has opened an episode."""

    task: TaskGuard
    options: EpisodeOptions
    """With what the task opened with."""
    state: State | None
    row: Mapping[str, Any] | None


class Casting:
    """Gives episodes their tasks.

    Args:
        tasks: that episodes choose from.
        timeout_s: seconds that a call of a task may take; 0: any.
        needs_state: whether what a task knows has to be kept, or its episode is lost.
    """

    def __init__(self, tasks: Tasks, timeout_s: float, *, needs_state: bool) -> None:
        self._tasks = tasks
        self._timeout_s = timeout_s
        self._needs_state = needs_state

    async def opened(self, asked: EpisodeOptions, *, prompt_is_given: bool) -> Opened | None:
        """The task of a new episode, once it has opened it; None: no task answers.

        Args:
            asked: what the episode is to be.
            prompt_is_given: whether this reset gave the system prompt.
        """
        name = self._tasks.chosen(asked.task)
        if not name:
            self._tasks.refuse_data(asked.task_args, asked.row, asked.row_id, asked.split)
            return None
        chosen = self._tasks.rows.chosen(name, asked.split, asked.row, asked.row_id)
        row_id, split, row = ("", "", None) if chosen is None else (chosen.row_id, chosen.split, chosen.row)
        asked = dataclasses.replace(asked, task=name, row=None, row_id=row_id, split=split)
        task = TaskGuard(self._tasks.made(name, asked.task_args), name, self._timeout_s)
        try:
            opening, state = await task.open(_seen_by_task(asked, row))
            self.check_kept(task, state)
            return Opened(task, _with_opening(asked, opening, prompt_is_given=prompt_is_given), state, row)
        except BaseException:
            await closed(task, End.REFUSED)
            raise

    async def taken_up(self, episode: EpisodeRecord) -> TaskGuard | None:
        """The task of an episode that was played before, as it was after the last step."""
        options = episode.options
        if not options.task:
            return None
        try:
            name = self._tasks.chosen(options.task)
            chosen = self._tasks.rows.chosen(name, options.split, None, options.row_id)
        except InvalidRequestError as error:
            raise TaskMissingError(
                f"the episode cannot be taken up: {error.message}; serve it with the task and rows that it began with"
            ) from error
        if episode.task_state is None:
            raise TaskError(
                f"task {name!r} keeps what is not JSON, so the episode cannot be taken up; "
                "give it state_dict and load_state_dict"
            )
        episode.row = None if chosen is None else chosen.row
        task = TaskGuard(self._tasks.made(name, options.task_args), name, self._timeout_s)
        await task.load_state(episode.task_state)
        return task

    def check_kept(self, task: TaskGuard, state: State | None) -> None:
        """See that a store can keep what a task knows, where one is to."""
        if state is None and self._needs_state:
            raise task.failure(
                f"task {task.name!r} keeps what is not JSON, and the server's store has to keep it; "
                "give it state_dict and load_state_dict"
            )


async def closed(task: TaskGuard, reason: End) -> None:
    """Close a task, or have it closed once a call that overran has ended: nobody waits for that."""
    if task.is_at_rest:
        await _closed_now(task, reason)
    else:
        Course(_closed_now(task, reason), Course.go_on).go_on()


async def _closed_now(task: TaskGuard, reason: End) -> None:
    try:
        await task.close(reason)
    except ChatEnvError as error:
        _LOG.warning("task not closed", extra={"task": task.name, "end": reason.value, "problem": str(error)})
        _LOG.debug("a task was not closed because of this exception", exc_info=error)


def _seen_by_task(asked: EpisodeOptions, row: Mapping[str, Any] | None) -> TaskEpisode:
    """What the caller asked for, in copies: whatever a task does to them, the options stay."""
    return TaskEpisode(
        asked.episode_id,
        asked.seed,
        copy.deepcopy(asked.messages),
        copy.deepcopy(asked.tools),
        copy.deepcopy(dict(asked.metadata)),
        row,
    )


def _with_opening(asked: EpisodeOptions, opening: Opening, *, prompt_is_given: bool) -> EpisodeOptions:
    given: dict[str, Any] = {"messages": opening.messages, "tools": opening.tools}
    if opening.metadata is not None:
        given["metadata"] = {**asked.metadata, **opening.metadata}
    try:
        opened = asked.overridden_by(given)  # type: ignore[arg-type]
    except (InvalidRequestError, TypeError, ValueError, AttributeError) as error:
        raise rejected(f"what the task opened with is refused: {error}") from error
    if prompt_is_given and not opened.system_prompt_in_use:
        raise InvalidRequestError(
            "the task opens with a system message of its own; leave system_prompt out",
            reason=Reason.SYSTEM_PROMPT_TWICE,
            field="system_prompt",
        )
    return opened


def is_the_tasks(error: BaseException, opened: Opened, asked: EpisodeOptions) -> bool:
    """Whether an opening is refused for what the task put there."""
    if not isinstance(error, InvalidRequestError):
        return False
    return opened.options.messages != asked.messages or opened.options.tools != asked.tools
