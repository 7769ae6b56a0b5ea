"""What `chatenv-rl chat` opens an episode with: the system prompt, the task, and the row of data that it gets."""

from __future__ import annotations

import argparse
import json
from typing import Any

from chatenv_client import ResetOptions


def add_opening_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--system", metavar="PROMPT", help="system prompt; default: the server's")
    parser.add_argument("--task", metavar="NAME", help="task that answers; default: the server's only one, if any")
    parser.add_argument("--task-args", metavar="JSON", help="an object with keywords for the task's constructor")
    row = parser.add_mutually_exclusive_group()
    row.add_argument("--row", type=int, metavar="N", help="row of the server's data, by its place from 0")
    row.add_argument("--row-id", metavar="ID", help="the same by its id")
    parser.add_argument("--split", metavar="NAME", help="split of the data; default: the only one, or train")
    parser.add_argument("--max-turns", type=int, metavar="N", help="turns of the model before the episode is cut off")


def opening_options(arguments: argparse.Namespace) -> ResetOptions:
    """The keywords of `reset` that were given.

    Raises:
        ValueError: the task's keywords are no JSON object.
    """
    return {
        "system_prompt": arguments.system,
        "task": arguments.task,
        "task_args": object_in(arguments.task_args),
        "row": arguments.row,
        "row_id": arguments.row_id,
        "split": arguments.split,
        "max_turns": arguments.max_turns,
    }


def object_in(text: str | None) -> dict[str, Any] | None:
    """The keywords for a task's constructor; None: none were given.

    Raises:
        ValueError: they are no JSON object.
    """
    if text is None:
        return None
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ValueError(f"--task-args is no JSON: {error}") from error
    if isinstance(value, dict):
        return value
    raise ValueError(f"--task-args is a JSON object, not {text}")
