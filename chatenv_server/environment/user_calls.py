"""Calls of functions that somebody else wrote, plain or `async`, within a deadline.

Plain ones run in threads and `async` ones in the event loop of the process. A plain one that has no deadline, and whose
caller waits in a thread of its own, runs in that thread.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from chatenv_server.deadlines import DEADLINES
from chatenv_server.event_loop import event_loop
from chatenv_server.work import Pause
from chatenv_server.workers import shared_workers


@dataclass(slots=True)
class Outcome:
    """What became of a call.

    What the function raised is handed on as a value: thrown into a coroutine, some exceptions would become others. Who
    reads it takes it out: frames of the call hold this object, and what was raised holds those frames.
    """

    returned: Any = None
    raised: BaseException | None = None
    is_overdue: bool = False
    """It lasts longer than it may. A plain one goes on, since nothing can stop it; an `async` one is cancelled."""


class UserCall(Pause[Outcome]):
    """One call of a function.

    Args:
        function: what to call; if it returns a coroutine, that runs in the event loop.
        timeout_s: seconds that it may take; 0: any.
    """

    __slots__ = (
        "_ended",
        "_function",
        "_is_async",
        "_is_told",
        "_lock",
        "_outcome",
        "_over",
        "_task",
        "_timeout_s",
        "began",
        "is_over",
    )

    def __init__(self, function: Callable[[], Any], timeout_s: float, *, is_async: bool) -> None:
        self._function = function
        self._timeout_s = timeout_s
        self._is_async = is_async
        self._outcome = Outcome()
        self.began = False
        """Whether there was a thread for it."""
        self.is_over = False
        """Whether the function has really come to its end."""

    def _prepare(self, ended: Callable[[], None]) -> None:
        """Make what a call takes that runs elsewhere."""
        self._ended = ended
        self._lock = threading.Lock()
        self._is_told = False
        self._task: asyncio.Task[Outcome] | None = None
        self._over: threading.Event | None = None

    # -- Pause ------------------------------------------------------------------------------------

    def wait(self) -> Outcome:
        """Call, and wait in this thread."""
        if self._is_async and event_loop().is_this_thread():
            raise RuntimeError("an async function of a user's waits for another one, which would wait for it")
        if self._timeout_s or self._is_async:
            told = threading.Event()
            self.start(told.set)
            told.wait()
            return self.result()
        self.began = True
        outcome = _outcome_of(self._function)
        self.is_over = True
        if not inspect.iscoroutine(outcome.returned):
            return outcome
        return UserCall(lambda: outcome.returned, 0.0, is_async=True).wait()

    def start(self, ended: Callable[[], None]) -> None:
        """Call elsewhere."""
        self._prepare(ended)
        if self._timeout_s:
            DEADLINES.add(self._run_out, self._timeout_s)
        if self._is_async:
            event_loop().run(self._run_in_loop)
        else:
            shared_workers().start(self._run_in_thread)
        self.began = True

    def result(self) -> Outcome:
        """What became of it."""
        return self._outcome

    def wait_for_its_end(self, seconds: float | None) -> bool:
        """Wait until the function has really come to its end, or seconds have passed; whether it has."""
        with self._lock:
            if self.is_over:
                return True
            over = self._over = self._over or threading.Event()  # which takes long to make, and is hardly ever used
        return over.wait(seconds)

    # -- the call itself --------------------------------------------------------------------------

    def _run_in_thread(self) -> None:
        outcome = _outcome_of(self._function)
        if inspect.iscoroutine(outcome.returned):
            event_loop().run(lambda: self._go_on_in_loop(outcome.returned))
        else:
            self._come_to(outcome)

    def _run_in_loop(self) -> None:
        outcome = _outcome_of(self._function)
        if inspect.iscoroutine(outcome.returned):
            self._go_on_in_loop(outcome.returned)
        else:
            self._come_to(outcome)

    def _go_on_in_loop(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._task = task = asyncio.get_running_loop().create_task(_awaited(coroutine))
        task.add_done_callback(self._task_ended)
        if self._outcome.is_overdue:
            task.cancel()

    def _task_ended(self, task: asyncio.Task[Outcome]) -> None:
        self._task = None
        if task.cancelled():
            self._come_to(Outcome(raised=asyncio.CancelledError("the function was cancelled")))
        elif (raised := task.exception()) is not None:
            self._come_to(Outcome(raised=raised))
        else:
            self._come_to(task.result())

    def _come_to(self, outcome: Outcome) -> None:
        with self._lock:
            is_first, self._is_told = not self._is_told, True
            if is_first:
                self._outcome = outcome
            self.is_over = True
        if self._over is not None:
            self._over.set()
        if is_first:
            if self._timeout_s:
                DEADLINES.remove(self._run_out, self._timeout_s)
            self._ended()

    def _run_out(self) -> None:
        with self._lock:
            is_first, self._is_told = not self._is_told, True
            if is_first:
                self._outcome = Outcome(is_overdue=True)
        if is_first:
            if self._task is not None:
                event_loop().run(self._cancel)
            self._ended()

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()


def _outcome_of(function: Callable[[], Any]) -> Outcome:
    try:
        return Outcome(function())
    except BaseException as error:  # noqa: BLE001 - handed to who waits
        return Outcome(raised=error)


async def _awaited(coroutine: Coroutine[Any, Any, Any]) -> Outcome:
    try:
        return Outcome(await coroutine)
    except (KeyboardInterrupt, SystemExit) as error:  # which would end the event loop, for everybody
        return Outcome(raised=error)


class Lasting(Pause[bool]):
    """A call that is overdue, waited for until it has really ended.

    Args:
        call: the call.
        timeout_s: seconds to wait; None: any.
    """

    __slots__ = ("_call", "_timeout_s")

    def __init__(self, call: UserCall, timeout_s: float | None) -> None:
        self._call = call
        self._timeout_s = timeout_s

    def wait(self) -> bool:
        """Wait in this thread; whether it has ended."""
        return self._call.wait_for_its_end(self._timeout_s)

    def start(self, ended: Callable[[], None]) -> None:
        """Wait in another thread."""

        def wait() -> None:
            self._call.wait_for_its_end(self._timeout_s)
            ended()

        shared_workers().start(wait)

    def result(self) -> bool:
        """Whether it has ended."""
        return self._call.is_over
