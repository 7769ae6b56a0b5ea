"""The one event loop of the process, in a thread of its own: here run the functions of users that are `async`."""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from collections.abc import Callable

from chatenv_server.threads import start_thread


class EventLoop:
    """An event loop in a daemon thread, which begins when it is first needed.

    Raises:
        ServerBusyError: the machine gives no thread for it.
    """

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        if hasattr(asyncio, "eager_task_factory"):  # from Python 3.12 on: what waits for nothing costs no round of it
            self._loop.set_task_factory(asyncio.eager_task_factory)
        self._handed_in: deque[Callable[[], object]] = deque()
        self._is_woken = False
        self._lock = threading.Lock()
        start_thread(self._loop.run_forever, "event-loop")

    def run(self, function: Callable[[], object]) -> None:
        """Call a function in the loop's thread. One that wakes the loop wakes it for all that come before it runs."""
        with self._lock:
            self._handed_in.append(function)
            wakes, self._is_woken = not self._is_woken, True
        if wakes:
            self._loop.call_soon_threadsafe(self._run_all)

    def is_this_thread(self) -> bool:
        """Whether the caller runs in the loop: it must not wait for what does."""
        try:
            return asyncio.get_running_loop() is self._loop
        except RuntimeError:
            return False

    def _run_all(self) -> None:
        with self._lock:
            handed_in, self._handed_in = self._handed_in, deque()
            self._is_woken = False
        for function in handed_in:
            function()


_begins = threading.Lock()
_the_loop: EventLoop | None = None


def event_loop() -> EventLoop:
    """The loop of this process.

    Raises:
        ServerBusyError: the machine gives no thread for it.
    """
    global _the_loop  # noqa: PLW0603 - one loop a process is the point
    if _the_loop is None:
        with _begins:
            if _the_loop is None:
                _the_loop = EventLoop()
    return _the_loop


def _forget() -> None:
    """Begin anew in a forked process, which has none of its parent's threads."""
    global _begins, _the_loop
    _begins, _the_loop = threading.Lock(), None


os.register_at_fork(after_in_child=_forget)
