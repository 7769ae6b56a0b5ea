"""One tool: its schema, which the template writes into the prompt, and the function behind it."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from chatenv_server.tasks.argument_check import checked_arguments
from chatenv_server.tasks.user_functions import called, is_async


class ToolUnavailableError(Exception):
    """Raised by a tool that cannot work now, through no fault of the model: its sandbox is down, say.

    The model is told nothing. The step fails, is taken back, and may be tried again.
    """


@dataclass(frozen=True)
class Tool:
    """A tool whose schema was written by hand. Python functions that have a docstring need none.

    Args:
        schema: as Hugging Face templates take it: `{"type": "function", "function": {"name": ..., ...}}`.
        function: plain or `async`. It is called with the arguments as the model gave them, which nobody has checked.
    """

    schema: Mapping[str, Any]
    function: Callable[..., Any]

    @property
    def name(self) -> str:
        """By which the model calls it."""
        return str(self.schema["function"]["name"])

    @property
    def is_async(self) -> bool:
        """Whether several of its calls may run at once."""
        return is_async(self.function)

    def of(self, task: object) -> Tool:  # noqa: ARG002
        """The tool as one of a task."""
        return self

    async def call(self, arguments: dict[str, Any]) -> Any:
        """What the function returns. Raises what it raises."""
        return await called(self.function, arguments)


@dataclass(frozen=True)
class FunctionTool(Tool):
    """A tool that is a Python function: it is called with arguments by name, once they are known to fit."""

    is_method: bool = False
    """Whether the function takes `self`."""

    def of(self, task: object) -> Tool:
        """The tool as one of a task, which a method is given."""
        return FunctionTool(self.schema, partial(self.function, task)) if self.is_method else self

    async def call(self, arguments: dict[str, Any]) -> Any:
        """What the function returns. Raises what it raises.

        Raises:
            BadArgumentsError: the arguments do not fit the schema.
        """
        checked = checked_arguments(arguments, self.schema["function"]["parameters"])
        return await called(partial(self.function, **checked))


ToolFunction = Callable[..., Any] | Tool
"""A tool as users write it: a function, plain or `async`, whose docstring describes it and, under `Args:`, each of its
arguments; or a `Tool`."""


def by_name(functions: Sequence[ToolFunction]) -> dict[str, Tool]:
    """Tools by name. The schema of a function comes from its signature and its docstring.

    Raises:
        ValueError: no schema can be made of one of them, or two have the same name.
    """
    named: dict[str, Tool] = {}
    for function in functions:
        tool = function if isinstance(function, Tool) else _tool_of(function)
        if tool.name in named:
            raise ValueError(f"two tools are called {tool.name!r}")
        named[tool.name] = tool
    return named


def _tool_of(function: Callable[..., Any]) -> Tool:
    return FunctionTool(_schema_of(function), function, is_method=_takes_self(function))


_schemas: WeakKeyDictionary[Callable[..., Any], Mapping[str, Any]] = WeakKeyDictionary()
"""By function, as long as it is there: to make one takes longer than most tools."""


def _schema_of(function: Any) -> Mapping[str, Any]:
    source = getattr(function, "__func__", function)  # a method is a new object each time
    if not inspect.isfunction(source):
        raise ValueError(f"a tool is a function, a method or a Tool, and not a {type(function).__name__}")
    schema = _schemas.get(source)
    if schema is None:
        schema = _schemas[source] = _made_schema(function)
    return schema


def _made_schema(function: Any) -> Mapping[str, Any]:
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # it misses torch, which nobody here needs
    from transformers.utils import get_json_schema

    if _takes_self(function):
        function = function.__get__(object())
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise ValueError(f"the tool {function.__name__!r} takes {parameter}; each argument has to have a name")
    try:
        schema: Mapping[str, Any] = get_json_schema(function)
    except Exception as error:
        raise ValueError(f"the tool {function.__name__!r} has no schema: {error}") from error
    return schema


def _takes_self(function: Any) -> bool:
    return not inspect.ismethod(function) and next(iter(inspect.signature(function).parameters), "") == "self"
