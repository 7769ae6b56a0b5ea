"""What the subcommands print: JSON for programs, aligned lines for people."""

from __future__ import annotations

import dataclasses
import enum
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import numpy as np

from chatenv_client import Failure, FidelityReport

_WIPE: Final = "\r\x1b[K"
"""Begins the line of a terminal anew."""


def print_json(value: Any, *, indent: int | None = 2) -> None:
    """Print a value; dataclasses as objects, arrays as lists."""
    has_all = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    sys.stdout.write(json.dumps(value, ensure_ascii=not has_all, indent=indent, default=_plain) + "\n")
    sys.stdout.flush()


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _named(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, enum.Enum):
        return value.value
    raise TypeError(f"a {type(value).__name__} has no JSON")


def _named(value: Any) -> Any:
    """A failure as an object, where JSON would make a list of it."""
    return value._asdict() if isinstance(value, Failure) else value


def print_line(text: str = "") -> None:
    """Print a line and flush it, so that the reader of a pipe sees it at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


@contextmanager
def progress_line() -> Iterator[Callable[[str], None]]:
    """Shows progress on one line of standard error and wipes it at the end.

    Does nothing where that is no terminal, or one that cannot wipe.
    """
    if not sys.stderr.isatty() or os.environ.get("TERM", "dumb") == "dumb":
        yield lambda _: None
        return

    def show(text: str) -> None:
        sys.stderr.write(f"{_WIPE}{printable(text)[: shutil.get_terminal_size().columns - 1]}")
        sys.stderr.flush()

    try:
        yield show
    finally:
        show("")


def print_fields(fields: Mapping[str, object]) -> None:
    """Print names and values, aligned."""
    width = max(map(len, fields))
    for name, value in fields.items():
        print_line(f"{name:<{width}}  {value}")


def printable(text: str) -> str:
    """The text with control characters spelt out: what others wrote must not command the terminal."""
    return "".join(one if one.isprintable() or one == "\n" else repr(one)[1:-1] for one in text)


def told_message(message: Mapping[str, Any]) -> str:
    """A message as text, on as many lines as its content has: role, content, and its other keys."""
    rest = {key: value for key, value in message.items() if key not in ("role", "content") and value}
    content = message.get("content")
    said = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False) if content else ""
    more = f"  {json.dumps(rest, ensure_ascii=False)}" if rest else ""
    return printable(f"{message['role']}: {said}{more}")


def told_reward(reward: float, rewards: Mapping[str, float]) -> str:
    """A reward with its components, where it has some."""
    named = ", ".join(f"{name} {value:g}" for name, value in rewards.items())
    return printable(f"reward {reward:g}" + (f" ({named})" if named else ""))


def told_failure(failure: Failure) -> str:
    """A failure as one line."""
    return printable(f"failed: {failure.kind}" + (f": {failure.reason}" if failure.reason else ""))


def told_report(report: FidelityReport) -> str:
    """A fidelity report as one line."""
    return printable(f"not exact: {report.kind.value}: {report.detail}")
