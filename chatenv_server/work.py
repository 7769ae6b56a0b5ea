"""Work that may have to wait: coroutines that say what they wait for, and leave to others how.

A reset or a step waits where a task answers, a transform scores, or another call holds its episode. It is written once,
as a coroutine that awaits a `Pause`. No event loop runs it. Who has a thread for it waits in that thread: `done`. Who
works on many in one thread starts the pause and goes on with others: `Course`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Generator
from functools import partial
from typing import Any, Generic, TypeVar

ResultT = TypeVar("ResultT")


class Pause(ABC, Generic[ResultT]):
    """Something that work waits for, by awaiting it. It is waited for once, in one of two ways."""

    __slots__ = ()

    @abstractmethod
    def wait(self) -> ResultT:
        """Wait in this thread. Raises what it fails with."""

    @abstractmethod
    def start(self, ended: Callable[[], None]) -> None:
        """Begin, and come back at once; `ended` is called from any thread, also from within, once `result` is there.

        Raises what keeps it from beginning; then `ended` is not called.
        """

    @abstractmethod
    def result(self) -> ResultT:
        """What it came to, after it was started and has ended. Raises what it failed with."""

    def __await__(self) -> Generator[Pause[Any], Any, ResultT]:
        result: ResultT = yield self
        return result


Work = Coroutine[Pause[Any], Any, ResultT]
"""A coroutine that awaits nothing but pauses."""


def done(work: Work[ResultT]) -> ResultT:
    """Do work in this thread, waiting wherever it waits; what it comes to. Raises what it fails with."""
    try:
        waits_for = work.send(None)
        while True:
            waits_for = _after(work, waits_for.wait)
    except StopIteration as end:
        result: ResultT = end.value
        return result


def _after(work: Work[Any], wait: Callable[[], Any]) -> Pause[Any]:
    """Let work go on with what it waited for, up to the next pause. Raises StopIteration at the end."""
    try:
        result = wait()
    except BaseException as error:  # noqa: BLE001 - the work decides what becomes of it
        return work.throw(error)
    return work.send(result)


class Course(Generic[ResultT]):
    """Work on its course, piece by piece, between the pauses.

    Args:
        work: what to do. It must not raise.
        goes_on: called, from any thread, when a pause is over, and the next piece is to be worked on.
        waits_for: the pause that the work has come to already; None: it has not begun.
    """

    __slots__ = ("_goes_on", "_outcome", "_pause", "_work", "is_done", "result")

    result: ResultT
    """What the work came to, once it is done."""

    def __init__(
        self, work: Work[ResultT], goes_on: Callable[[Course[ResultT]], None], waits_for: Pause[Any] | None = None
    ) -> None:
        self._work = work
        self._goes_on = goes_on
        self._pause = waits_for
        self._outcome: Callable[[], Any] | None = None
        """Gives what the pause came to; None: it has not begun."""
        self.is_done = False

    def go_on(self) -> None:
        """Work up to the next pause and begin it, or work to the end."""
        self.advance()
        if not self.is_done:
            self.wait()

    def advance(self) -> None:
        """Work up to the next pause, or to the end. The pause before must be over."""
        before, self._outcome, self._pause = self._outcome, None, None
        try:
            self._pause = self._work.send(None) if before is None else _after(self._work, before)
        except StopIteration as end:
            self.result, self.is_done = end.value, True

    def wait(self) -> None:
        """Begin the pause that the work has come to."""
        pause = self._pause
        if pause is None:
            raise RuntimeError("the work has come to no pause")
        self._outcome = pause.result
        try:
            pause.start(self._resume)
        except BaseException as error:  # noqa: BLE001 - the work decides what becomes of it
            self._outcome = partial(_raise, error)
            self._resume()

    def _resume(self) -> None:
        self._goes_on(self)


def _raise(error: BaseException) -> None:
    raise error
