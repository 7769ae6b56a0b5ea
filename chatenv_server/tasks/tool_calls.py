"""Runs the calls of one turn and makes the messages that answer them, within limits.

Whatever a tool does becomes a message for the model, one for each call, in order. Only a tool that says that it cannot
work now fails the step.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from chatenv_client.models import Message
from chatenv_client.models.messages import ToolCall
from chatenv_server.tasks.argument_check import BadArgumentsError
from chatenv_server.tasks.tool import Tool, ToolUnavailableError
from chatenv_server.tasks.tool_results import BadResultError, cut, error_text, text_of

_LOG: Final = logging.getLogger(__name__)


class CallLimits(NamedTuple):
    """What the calls of a turn may take."""

    calls: int
    """Calls that are run; those after them are refused."""
    seconds: float
    """Of each call; 0: any."""
    characters: int
    """Of each result; the rest is cut off, visibly."""


async def results_of(calls: Sequence[ToolCall], tools: Mapping[str, Tool], limits: CallLimits) -> list[Message]:
    """The tool messages that answer the calls, in their order.

    Calls of `async` tools run at once. Plain ones run one after the other, in the order in which the model wrote them.

    Raises:
        ToolUnavailableError: one of the tools cannot work now.
    """
    runs = [_Run(call, tools, limits) for call in calls[: limits.calls]]
    plain = [run for run in runs if not run.is_async]
    at_once = [run.finish() for run in runs if run.is_async]
    await _all_of([*at_once, _one_after_the_other(plain)] if plain else at_once)
    refused = f"This call was not run: a turn may have {limits.calls} calls."
    texts = [run.text for run in runs] + [refused] * (len(calls) - len(runs))
    return [_message(call, text) for call, text in zip(calls, texts, strict=True)]


async def _one_after_the_other(runs: Sequence[_Run]) -> None:
    for run in runs:
        await run.finish()


async def _all_of(coroutines: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Run all at once. If one fails, the others are cancelled."""
    if len(coroutines) == 1:
        await coroutines[0]
        return
    tasks = [asyncio.ensure_future(each) for each in coroutines]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


def _message(call: ToolCall, text: str) -> Message:
    message: Message = {"role": "tool", "content": text}
    if "id" in call:
        message["tool_call_id"] = call["id"]
    if name := _name_of(call):
        message["name"] = name
    return message


def _name_of(call: ToolCall) -> str:
    return call.get("function", {}).get("name", "")


@dataclass(eq=False)
class _Run:
    """One call on its way to a text."""

    call: ToolCall
    tools: Mapping[str, Tool]
    limits: CallLimits
    text: str = ""

    @property
    def is_async(self) -> bool:
        tool = self.tools.get(_name_of(self.call))
        return tool is not None and tool.is_async

    async def finish(self) -> None:
        """Come to the text."""
        self.text = cut(await self._answered(), self.limits.characters)

    async def _answered(self) -> str:
        name = _name_of(self.call)
        tool = self.tools.get(name)
        if tool is None:
            return f"There is no tool {name!r}. The tools are: {', '.join(self.tools) or 'none'}."
        try:
            arguments = _arguments_of(self.call)
        except BadArgumentsError as error:
            return _refused(name, error)
        task = asyncio.ensure_future(_outcome(tool, arguments))
        try:
            # Not `wait_for`: it would wait for a tool that does not let itself be cancelled.
            await asyncio.wait({task}, timeout=self.limits.seconds or None)
        finally:
            task.cancel()
        if not task.done():
            return f"{name} was stopped: it took longer than {self.limits.seconds:g} s."
        return f"{name} was cancelled." if task.cancelled() else _unless_unavailable(task.result())


def _unless_unavailable(outcome: str | ToolUnavailableError) -> str:
    if isinstance(outcome, ToolUnavailableError):
        raise outcome
    return outcome


def _refused(name: str, error: BadArgumentsError) -> str:
    return f"{name} was not called: {error}."


def _arguments_of(call: ToolCall) -> dict[str, Any]:
    arguments: Any = call["function"].get("arguments", {})
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError) as error:
            raise BadArgumentsError("its arguments are not JSON") from error
    if not isinstance(arguments, dict):
        raise BadArgumentsError("its arguments are not a JSON object")
    return arguments


async def _outcome(tool: Tool, arguments: dict[str, Any]) -> str | ToolUnavailableError:
    """What a call comes to. Returned and never raised: nobody may wait for it any more."""
    try:
        return text_of(await tool.call(arguments))
    except (asyncio.CancelledError, KeyboardInterrupt):
        raise
    except ToolUnavailableError as error:
        return error
    except BadArgumentsError as error:
        return _refused(tool.name, error)
    except BadResultError as error:
        _LOG.warning("tool failed", extra={"tool": tool.name, "problem": str(error)})
        return f"{tool.name} failed: {error}."
    except BaseException as error:  # noqa: BLE001 - whatever a tool raises, the model is told of it
        _LOG.debug("a tool raised this", extra={"tool": tool.name}, exc_info=True)
        return f"{tool.name} failed: {error_text(error)}"
