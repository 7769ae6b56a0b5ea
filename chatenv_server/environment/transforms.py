"""Transforms: how a task sets the reward of a step, ends the episode and adds metadata."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any, cast

from chatenv_client.models import ChatObservation

Transform = Callable[[ChatObservation], ChatObservation]
"""Called with the observation that a step made; returns the one that the caller gets.

It may change the one it is given and return it, or return another. It ends the episode by setting `terminated`, or
`done`, which is the same: the task is over; or `truncated`: cut off. It is called once per step, never at reset. If
episodes share it, it must be safe for threads.
"""

ENTRY_POINT_GROUP = "chatenv.transforms"


def compose(*transforms: Transform) -> Transform:
    """One transform that applies `transforms` from left to right."""

    def composed(observation: ChatObservation) -> ChatObservation:
        for transform in transforms:
            observation = transform(observation)
        return observation

    return composed


def load_transform(name: str) -> Callable[[], Transform]:
    """Find a transform by `module:attribute` or by the name of an entry point of the group `chatenv.transforms`.

    Returns:
        A function that gives the transform of a new episode: of a class, a new instance for each episode; of anything
        else, the same for all.

    Raises:
        ValueError: nothing goes by this name, or what does cannot be called.
    """
    found = _import(name) if ":" in name else _entry_point(name)
    if inspect.isclass(found):
        return cast("Callable[[], Transform]", found)
    if callable(found):
        return lambda: found
    raise ValueError(
        f"transform {name!r} is not callable; name a function, an object with __call__, or a class of such objects"
    )


def _import(name: str) -> Any:
    module_name, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"transform {name!r} cannot be loaded: {error}; write module:attribute, with the module in PYTHONPATH"
        ) from error


def _entry_point(name: str) -> Any:
    found = entry_points(group=ENTRY_POINT_GROUP, name=name)
    if not found:
        known = ", ".join(sorted(point.name for point in entry_points(group=ENTRY_POINT_GROUP))) or "none"
        raise ValueError(
            f"no transform is called {name!r}; write module:attribute, or one of the installed entry points ({known})"
        )
    return next(iter(found)).load()
