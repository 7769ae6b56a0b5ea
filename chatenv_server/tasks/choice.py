"""The tasks that an environment has, by name, and their data: which one plays an episode."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from chatenv_client.errors import InvalidRequestError, TaskError
from chatenv_client.reasons import Reason
from chatenv_server.tasks.rows import NO_ROWS, Rows
from chatenv_server.tasks.task import Task

TaskMaker = Callable[..., Task]
"""A class of tasks, or a function that makes one, called with `task_args`."""


class Tasks:
    """What an environment has to choose from.

    Args:
        makers: by name.
        rows: the data.

    Raises:
        TypeError: one of them makes no tasks.
    """

    def __init__(self, makers: Mapping[str, TaskMaker] | None = None, rows: Rows = NO_ROWS) -> None:
        self._makers = dict(makers or {})
        self.rows = rows
        for name, maker in self._makers.items():
            check_maker(name, maker)

    @classmethod
    def of(
        cls, task: TaskMaker | Mapping[str, TaskMaker] | Tasks | None, rows: Rows | Sequence[Mapping[str, Any]] | None
    ) -> Tasks:
        """What users give in-process: one task, several by name, or none.

        Raises:
            TypeError: one of them makes no tasks.
        """
        if isinstance(task, Tasks):
            return task
        own = rows if isinstance(rows, Rows) else NO_ROWS if rows is None else Rows.of(rows)
        if task is None or isinstance(task, Mapping):
            return cls(task, own)
        return cls({getattr(task, "__name__", "task"): task}, own)

    @property
    def names(self) -> tuple[str, ...]:
        """Their names, in the order in which they were given."""
        return tuple(self._makers)

    @property
    def closes(self) -> bool:
        """Whether any of them may want to be closed."""
        return any(getattr(maker, "close", None) is not Task.close for maker in self._makers.values())

    def __bool__(self) -> bool:
        return bool(self._makers)

    def chosen(self, name: str) -> str:
        """The name of the task that is to play; empty: none does.

        Args:
            name: the one that was asked for; empty: the only one, or none where there is none.

        Raises:
            InvalidRequestError: there is no such task, or there are several and none was asked for.
        """
        if name in self._makers:
            return name
        if name:
            known = f"there are {', '.join(self._makers)}" if self._makers else "it has none: start it with --task"
            raise _bad(f"this server has no task {name!r}; {known}", "task")
        if len(self._makers) > 1:
            raise _bad(f"this server has several tasks; choose one of {', '.join(self._makers)}", "task")
        return next(iter(self._makers), "")

    def refuse_data(self, arguments: Mapping[str, Any], row: int | None, row_id: str, split: str) -> None:
        """Raise InvalidRequestError where no task plays, and something was given that only a task can take."""
        for field, value in (("task_args", arguments or None), ("row", row), ("row_id", row_id), ("split", split)):
            if value is not None and value != "":
                raise _bad(f"{field} is for a task, and no task answers here: start the server with --task", field)

    def made(self, name: str, arguments: Mapping[str, Any]) -> Task:
        """A new instance of a task.

        Raises:
            InvalidRequestError: it does not take these arguments.
            TaskError: it cannot be made.
        """
        maker = self._makers[name]
        try:
            inspect.signature(maker).bind(**arguments)
        except TypeError as error:
            raise _bad(f"task {name!r} does not take these task_args: {error}", "task_args") from error
        except ValueError:  # some functions written in C have no signature
            pass
        try:
            task = maker(**arguments)
        except Exception as error:
            raise TaskError(f"task {name!r} could not be made; nothing was changed") from error
        if not isinstance(task, Task):
            raise TaskError(f"task {name!r} made a {type(task).__name__}, and no Task; nothing was changed")
        return task


def check_maker(name: str, maker: Any) -> None:
    """Find out what can be known of a task before one is made.

    Raises:
        TypeError: it is neither a class of tasks nor a function; or it defines no `answer`.
    """
    if not callable(maker):
        raise TypeError(f"task {name!r} is a subclass of chatenv_server.Task, or a function that makes one")
    if inspect.isclass(maker) and not issubclass(maker, Task):
        raise TypeError(f"task {name!r} is a class, and no subclass of chatenv_server.Task")
    if inspect.isclass(maker) and getattr(maker, "answer", None) is Task.answer:
        raise TypeError(f"task {name!r} does not answer: define `answer(self, turn)`")
    if inspect.iscoroutinefunction(maker):
        raise TypeError(f"task {name!r} is made by an async function; make it by a plain one, and wait in `open`")
    if inspect.isclass(maker):
        check_methods(name, maker)


def check_methods(name: str, kind: type) -> None:
    """Raise TypeError where a method of a task cannot work as it is written."""
    for method in ("open", "answer", "close"):
        function = getattr(kind, method)
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(f"`{method}` of task {name!r} is a generator; return what it has to say")
        try:
            inspect.signature(function).bind(None, None)
        except TypeError as error:
            raise TypeError(f"`{method}` of task {name!r} takes one argument, and this one does not") from error
    for method in ("state_dict", "load_state_dict"):
        if inspect.iscoroutinefunction(getattr(kind, method, None)):
            raise TypeError(f"`{method}` of task {name!r} is async; write a plain one")
    if hasattr(kind, "state_dict") != hasattr(kind, "load_state_dict"):
        raise TypeError(f"task {name!r} has one of state_dict and load_state_dict; it needs both, or none")


def _bad(what: str, field: str) -> InvalidRequestError:
    return InvalidRequestError(what, reason=Reason.BAD_TASK, field=field)


NO_TASKS: Final = Tasks()
