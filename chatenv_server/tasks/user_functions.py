"""Calls functions of users, plain or `async`, from a task that is `async` itself.

All tasks of a process share one event loop. A plain function would hold them all up, so it runs in a thread.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from chatenv_server.workers import shared_workers


def is_async(function: Any) -> bool:
    """Whether to call a function gives a coroutine, as far as one can tell before."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004


def is_the_users(error: BaseException) -> bool:
    """Whether somebody pressed Ctrl-C, which only the main thread is told of. All else is the function's doing."""
    return isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread()


async def called(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function returns. Raises what it raises, but nothing that would end the event loop."""
    call = partial(function, *arguments)
    result = call() if is_async(function) else await _in_thread(call)
    return await _awaited(result) if inspect.isawaitable(result) else result


async def _awaited(result: Awaitable[Any]) -> Any:
    try:
        return await result
    except (KeyboardInterrupt, SystemExit) as error:
        if is_the_users(error):
            raise
        raise _harmless(error) from error


async def _in_thread(call: Callable[[], Any]) -> Any:
    future = shared_workers().submit(contextvars.copy_context().run, _outcome_of, call)
    result, raised = await asyncio.wrap_future(future)
    if isinstance(raised, (KeyboardInterrupt, SystemExit)):
        raise _harmless(raised) from raised
    if raised is not None:
        raise raised
    return result


def _outcome_of(call: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    """What a call returns and what it raises: an asyncio future takes no StopIteration, and would never end."""
    try:
        return call(), None
    except BaseException as error:  # noqa: BLE001 - handed to the coroutine that waits
        return None, error


def _harmless(error: BaseException) -> RuntimeError:
    """An error that says the same, and does not end the event loop."""
    return RuntimeError(f"a function raised {type(error).__name__}")
