"""The threads of unary calls where no step waits for anything: few, because they contend for one interpreter."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final

from chatenv_client.errors import ServerBusyError

UNARY_WORKERS: Final = 3


class UnaryWorkers(ThreadPoolExecutor):
    """A pool that knows how many calls wait for a thread.

    Args:
        most_waiting: calls from which on the pool is full.
    """

    def __init__(self, most_waiting: int) -> None:
        super().__init__(UNARY_WORKERS, thread_name_prefix="unary")
        self._most_waiting = most_waiting
        self._waiting = 0
        self._lock = threading.Lock()

    @property
    def is_full(self) -> bool:
        """Whether as many calls wait as may."""
        return self._waiting >= self._most_waiting

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run a call as soon as a thread is free."""
        with self._lock:
            self._waiting += 1
        return super().submit(self._begin, fn, *args, **kwargs)

    def _begin(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        with self._lock:
            self._waiting -= 1
        return fn(*args, **kwargs)


def turn_away(request: Any, context: Any) -> Any:  # noqa: ARG001 - the signature of a method
    """Answers a call that found the pool full.

    Raises:
        ServerBusyError: always.
    """
    raise ServerBusyError(
        "as many calls wait as this server lets wait; try again later, or raise --max-concurrent-calls"
    )
