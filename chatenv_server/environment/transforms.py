"""Transforms: functions of a step's observation, which shape its reward, its end and its metadata, after the task."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, cast

from chatenv_client.models import ChatObservation
from chatenv_server.environment.user_code import keeps_state, state_methods
from chatenv_server.tasks.user_functions import is_async
from chatenv_server.user_objects import Sought, found, told

Transform = Callable[[ChatObservation], ChatObservation | Awaitable[ChatObservation]]
"""Called with the observation that a step made; returns the one that the caller gets. May be `async`.

It may change the one it is given and return it, or return another. Of the one that it returns, four fields count: the
`reward`, a finite number, or `rewards` by name; `terminated`, or `done`, which is the same: the task is over;
`truncated`: cut off; and `metadata`, which is JSON. Messages it cannot add: a task answers. It is called once per
step, never at reset. If episodes share it, it must be safe for threads.

An object that keeps state from step to step says so with `state_dict()`, which returns it as a mapping of JSON values,
and `load_state_dict(state)`, which takes it back: after a step that fails, in a fork, and where an episode is restored.
Without the two an instance is made anew on a reload, and a fork in-process shares it; with one of them it is refused.
"""

SOUGHT: Final = Sought("transform", "chatenv.transforms")


def compose(*transforms: Transform) -> Transform:
    """One transform that applies `transforms` from left to right. It keeps state if one of them does.

    Raises:
        TypeError: one of them cannot be called with an observation.
    """
    for each in transforms:
        check_transform(each)

    composed = _ComposedWithState if any(map(keeps_state, transforms)) else _Composed
    return composed(transforms, is_async=any(map(is_async, transforms)))


class _Composed:
    def __init__(self, transforms: tuple[Transform, ...], *, is_async: bool) -> None:
        self._transforms = transforms
        self._is_async = is_async

    def __call__(self, observation: ChatObservation) -> Any:
        if self._is_async:
            return self._awaited(observation)
        for transform in self._transforms:
            observation = transform(observation)  # type: ignore[assignment] # none is async
        return observation

    async def _awaited(self, observation: ChatObservation) -> ChatObservation:
        for transform in self._transforms:
            shaped = transform(observation)
            observation = await shaped if inspect.isawaitable(shaped) else shaped
        return observation


class _ComposedWithState(_Composed):
    """Its state is that of those parts that keep some, by their places."""

    def state_dict(self) -> dict[str, Any]:
        parts: Any = enumerate(self._transforms)
        return {str(place): part.state_dict() for place, part in parts if keeps_state(part)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        parts: Any = self._transforms
        for place, part_state in state.items():
            parts[int(place)].load_state_dict(part_state)


def check_transform(transform: Any) -> None:
    """Find out what can be known of a transform before it is called.

    Raises:
        TypeError: it is no function of one observation, or a generator; or it has one of the two methods of those that
            keep state.
    """
    if not callable(transform):
        raise TypeError("a transform is a function, an object with __call__, or a class of such objects")
    if any(map(_returns_something_else, (transform, getattr(transform, "__call__", None)))):  # noqa: B004
        raise TypeError("a transform is a function, plain or async, and no generator")
    lacking = [name for name, is_there in state_methods(transform).items() if not is_there]
    if len(lacking) == 1:
        raise TypeError(
            "a transform that keeps state has state_dict() and load_state_dict(state), and this one has no "
            f"{lacking[0]}; write it, or take the other one away"
        )
    try:
        signature = inspect.signature(transform)
    except ValueError:  # some functions written in C have none
        return
    try:
        signature.bind(ChatObservation())
    except TypeError as error:
        raise TypeError(f"a transform is called with one observation, and this one takes {signature}") from error


def _returns_something_else(function: Any) -> bool:
    return inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)


def load_transform(name: str) -> Callable[[], Transform]:
    """Find a transform by `module:attribute` or by the name of an entry point of the group `chatenv.transforms`.

    Returns:
        A function that gives the transform of a new episode: of a class, a new instance for each episode; of anything
        else, the same for all.

    Raises:
        ValueError: nothing goes by this name, or what does is no transform. Of a class, one is made to find out.
    """
    of_name = found(name, SOUGHT)
    open_transform = cast("Callable[[], Transform]", of_name) if inspect.isclass(of_name) else lambda: of_name
    try:
        one = open_transform()
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        raise ValueError(f"{of_name.__name__}() of transform {name!r} raised {told(error)}") from error
    try:
        check_transform(one)
    except TypeError as error:
        raise ValueError(f"transform {name!r} cannot be used: {error}") from error
    return open_transform
