"""Calls that are answered later: begun and waited for where Ctrl-C may come at any moment.

Python runs a signal's handler in the main thread, between any two instructions. Where one raises inside of gRPC's code
for such calls, a lock stays held, or the thread that hands out answers never starts: every later call waits for ever
then, and so does the channel's close (seen with grpcio 1.71 and 1.85). So gRPC's code runs in a thread of ours, where
no handler runs, and whoever waits does so at a queue written in C.
"""

from __future__ import annotations

import _thread
import weakref
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")

_Outcome = tuple[Any, BaseException | None]
"""What a function returned, or else what it raised."""


class PendingCall:
    """A call that was begun. Its answer is asked for once."""

    def __init__(self, future: Any) -> None:
        """Take gRPC's future of the answer, in the thread that began the call.

        The future is left to the threads of gRPC. Even letting it go takes its lock.
        """
        self._answered: SimpleQueue[_Outcome] = SimpleQueue()
        self._future = weakref.ref(future)
        future.add_done_callback(lambda answered: self._answered.put(_outcome(answered.result)))

    def result(self) -> Any:
        """Wait for the answer.

        Raises:
            grpc.RpcError: the call failed.
        """
        return _told(self._answered.get())

    def cancel(self) -> None:
        """Ask for no answer any more."""
        undisturbed(self._cancel)

    def _cancel(self) -> None:
        if (future := self._future()) is not None:
            future.cancel()


class _Undisturbed:
    """Runs functions, one after another, in a thread where no signal's handler does."""

    def __init__(self) -> None:
        self._wanted: SimpleQueue[tuple[Callable[[], Any], SimpleQueue[_Outcome]]] = SimpleQueue()
        self._runs = False

    def __call__(self, function: Callable[[], T]) -> T:
        """What a function returns or raises. One that cannot be waited for is run all the same."""
        if not self._runs:
            # A `Thread` waits for its own start, and an exception there leaves one that never starts.
            _thread.start_new_thread(self._run, ())
            self._runs = True
        outcome: SimpleQueue[_Outcome] = SimpleQueue()
        self._wanted.put((function, outcome))
        return _told(outcome.get())  # type: ignore[no-any-return]

    def _run(self) -> None:
        while True:
            function, outcome = self._wanted.get()
            outcome.put(_outcome(function))
            del function, outcome  # what they hold is let go, also where nothing more comes


undisturbed = _Undisturbed()
"""Shared by all clients of a process: what they run in it is short."""


def _outcome(function: Callable[[], Any]) -> _Outcome:
    try:
        return function(), None
    except BaseException as error:  # noqa: BLE001 - whoever waits gets it
        return None, error


def _told(outcome: _Outcome) -> Any:
    returned, error = outcome
    if error is not None:
        raise error
    return returned
