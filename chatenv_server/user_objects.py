"""Finds what operators name: an attribute of a module of theirs, or an installed entry point."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any, NamedTuple


class Sought(NamedTuple):
    """What is sought."""

    word: str
    """What messages call it."""
    group: str
    """Of entry points."""


def found(name: str, sought: Sought) -> Any:
    """What goes by `module:attribute`, or by the name of an entry point.

    Raises:
        ValueError: nothing does, or its module raises.
    """
    if ":" in name:
        module_name, _, attribute = name.partition(":")
        return _loaded(name, sought, lambda: getattr(importlib.import_module(module_name), attribute))
    points = entry_points(group=sought.group, name=name)
    if not points:
        known = ", ".join(sorted(point.name for point in entry_points(group=sought.group))) or "none"
        raise ValueError(
            f"no {sought.word} is called {name!r}; write {_with_module(name)}, or one of the installed entry points "
            f"({known})"
        )
    return _loaded(name, sought, next(iter(points)).load)


def _with_module(name: str) -> str:
    """What somebody may have meant who named no module."""
    module, dot, attribute = name.rpartition(".")
    return f"{module}:{attribute}" if dot else f"module:{name}, with the module that it is in"


def _loaded(name: str, sought: Sought, load: Callable[[], Any]) -> Any:
    try:
        return load()
    except KeyboardInterrupt:
        raise
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"{sought.word} {name!r} cannot be loaded: {text_of(error)}; "
            "write module:attribute, with the module in PYTHONPATH"
        ) from error
    except BaseException as error:
        raise ValueError(f"{sought.word} {name!r} cannot be loaded: its module raised {told(error)}") from error


def told(error: BaseException) -> str:
    """Kind and text of an exception."""
    return f"{type(error).__name__}: {text_of(error)}"


def text_of(error: BaseException) -> str:
    """What an exception of anybody's says; one whose class fails at that is an exception like any other."""
    try:
        return str(error)
    except BaseException:  # noqa: BLE001 - it is about to be told; nothing may come in between
        return "(an exception that fails when it is asked for its text)"
