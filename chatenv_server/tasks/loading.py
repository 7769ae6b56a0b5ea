"""Tasks and rows as a server's operator names them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from chatenv_server.tasks.choice import TaskMaker, Tasks
from chatenv_server.tasks.row_files import split_of
from chatenv_server.tasks.rows import DEFAULT_SPLIT, Rows, Split
from chatenv_server.user_objects import Sought, found

SOUGHT: Final = Sought("task", "chatenv.tasks")
_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")


def load_tasks(named: Sequence[str], rows: Rows) -> Tasks:
    """The tasks of a server, with its data.

    Args:
        named: of each task `module:attribute` or the name of an entry point, with `NAME=` before it where the last part
            of that is not to be its name.
        rows: the data.

    Raises:
        ValueError: one cannot be loaded, two have one name, or rows are for no task.
    """
    makers: dict[str, TaskMaker] = {}
    for one in named:
        name, maker = _task(one)
        if name in makers:
            raise ValueError(f"two tasks are called {name!r}; give one of them another name: NAME={one}")
        makers[name] = maker
    tasks = _checked(makers, rows)
    if strange := tasks.rows.tasks - makers.keys():
        raise ValueError(f"there are rows for a task {min(strange)!r}, and no such task")
    return tasks


def _checked(makers: Mapping[str, TaskMaker], rows: Rows) -> Tasks:
    try:
        return Tasks(makers, rows)
    except TypeError as error:
        raise ValueError(str(error)) from error


def _task(given: str) -> tuple[str, Any]:
    name, equals, place = given.partition("=") if "=" in given else ("", "", given)
    if not place or "=" in place:
        raise ValueError(f"a task is module:attribute, or NAME=module:attribute, not {given!r}")
    name = name if equals else place.rpartition(":")[2].rpartition(".")[2]
    if not _NAME.fullmatch(name):
        raise ValueError(f"a task's name has 1 to 64 characters of A-Z a-z 0-9 . _ -, not {name!r}")
    return name, found(place, SOUGHT)


def load_rows(named: Sequence[str]) -> Rows:
    """The data of a server.

    Args:
        named: of each split its file, with `SPLIT=` before it where it is not `train`, and `TASK/` before that where it
            is for one task alone.

    Raises:
        ValueError: a file cannot be read, or two are of one split.
    """
    splits: dict[tuple[str, str], Split] = {}
    for one in named:
        of, equals, path = one.partition("=")
        task, _, split = of.rpartition("/") if equals else ("", "", DEFAULT_SPLIT)
        path = path if equals else one
        if (task, split) in splits:
            raise ValueError(f"two files are of split {split!r}; write SPLIT=FILE, or TASK/SPLIT=FILE")
        try:
            splits[task, split] = split_of(Path(path))
        except OSError as error:
            raise ValueError(f"{path!r} cannot be read: {error.strerror or error}") from error
        except ValueError as error:
            raise ValueError(f"{path!r} cannot be read as rows: {error}") from error
    return Rows(splits)
