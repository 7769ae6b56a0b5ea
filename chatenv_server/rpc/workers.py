"""The threads that answer unary calls where no transform waits: few, because they contend; more if they are stuck."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any, Final

from chatenv_client.errors import ServerBusyError

UNARY_WORKERS: Final = 3
"""Threads that wait for calls that are no batches."""
BATCH_WORKERS: Final = 1
"""Threads that wait for batches. Two that work at once take turns, and both answers are late."""
STUCK_S: Final = 0.02
"""Seconds without a call being taken up, although some wait, after which another thread is added."""


class UnaryWorkers(ThreadPoolExecutor):
    """A few threads, and one more whenever all of them are held up: by a long text, or a request that comes slowly.

    A subclass because gRPC takes nothing but a ThreadPoolExecutor. The threads of the base, whose number is fixed, are
    never started.

    Args:
        most_waiting: how many calls may wait until it is full.
        threads: how many wait for calls.
    """

    def __init__(self, most_waiting: int, threads: int = UNARY_WORKERS) -> None:
        super().__init__(1)
        self._most_waiting = most_waiting
        self._threads_at_rest = threads
        self._calls: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        """None ends a thread."""
        self._lock = threading.Lock()
        self._idle = 0
        self._taken = 0
        """Calls that were taken up so far."""
        self._stirred = threading.Event()
        self._ended = False
        for _ in range(threads):
            self._add_thread()
        threading.Thread(target=self._watch, name="unary-watch", daemon=True).start()

    @property
    def is_full(self) -> bool:
        """Whether as many calls wait as may."""
        return self._calls.qsize() >= self._most_waiting

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run a call as soon as a thread is free."""
        future: Future[Any] = Future()
        self._calls.put((future, lambda: fn(*args, **kwargs)))
        if self._calls.qsize() > self._idle and not self._stirred.is_set():
            self._stirred.set()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take up no more calls."""
        self._ended = True
        self._stirred.set()
        for _ in range(self._threads_at_rest):
            self._calls.put(None)
        super().shutdown(wait, cancel_futures=cancel_futures)

    def _add_thread(self) -> None:
        threading.Thread(target=self._work, name="unary", daemon=True).start()

    def _watch(self) -> None:
        """Add a thread for as long as calls wait and none is taken up."""
        while not self._ended:
            self._stirred.wait()
            self._stirred.clear()
            while self._calls.qsize() and not self._ended:
                taken = self._taken
                time.sleep(STUCK_S)
                if self._calls.qsize() and self._taken == taken:
                    self._add_thread()

    def _work(self) -> None:
        while self._stay() and (call := self._calls.get()) is not None:
            with self._lock:
                self._idle -= 1
                self._taken += 1
            _run(*call)
            del call  # else a waiting thread would hold on to the last request

    def _stay(self) -> bool:
        """Whether one more thread may wait for calls."""
        with self._lock:
            stays = self._idle < self._threads_at_rest
            self._idle += stays
        return stays


def _run(future: Future[Any], call: Callable[[], Any]) -> None:
    if future.set_running_or_notify_cancel():
        try:
            future.set_result(call())
        except BaseException as error:  # noqa: BLE001 - the future hands it on
            future.set_exception(error)


def refuse_busy(request: Any, context: Any) -> Any:  # noqa: ARG001 - the signature of a method
    """Answer a call that found no room.

    Raises:
        ServerBusyError: always.
    """
    raise ServerBusyError(
        "as many calls wait as this server lets wait; try again later, or raise --max-concurrent-calls"
    )
