"""The threads that work on calls: a bounded number, which outlives every call and every lack of threads.

Where no transform waits, few threads answer, because they contend for one interpreter; more come when those are held
up. Where calls wait for something, each finds a thread of its own.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Final

from chatenv_client.errors import ServerBusyError

UNARY_WORKERS: Final = 3
"""Threads that wait for calls that are no batches."""
STEP_WORKERS: Final = 1
"""Threads that wait for Resets and Steps where a store keeps what they do: one has many written together."""
BATCH_WORKERS: Final = 1
"""Threads that wait for batches. Two that work at once take turns, and both answers are late."""
STUCK_S: Final = 0.02
"""Seconds without a call being taken up, although some wait, after which another thread is added."""
SOON_S: Final = 0.002
"""Seconds in which a few threads get through what many quick functions do. To make a thread takes as long as dozens of
them, and so does it to wake one."""

ACCEPTED: Final[Future[None]] = Future()
"""What gRPC is given for a call whose result nobody asks for; it only counts calls with it."""
ACCEPTED.set_result(None)

_LOG: Final = logging.getLogger(__name__)


class Workers(ThreadPoolExecutor):
    """A few threads that work on calls, and more while they are needed.

    A subclass because gRPC takes nothing but a ThreadPoolExecutor. The threads of the base, whose number is fixed, are
    never started. A call that comes when the machine gives no more threads waits for one of those that are there.

    Args:
        most: threads at once, and calls that may wait for one.
        threads: how many wait for calls when there are none.
        at_once: whether a call that finds no idle thread gets a new one at once, and not only when all are held up.
        soon: whether each call that has waited for SOON_S gets a new one, and not one thread is added for all of them.

    Raises:
        RuntimeError: the machine gives no thread at all.
    """

    def __init__(self, most: int, threads: int = UNARY_WORKERS, *, at_once: bool = False, soon: bool = False) -> None:
        super().__init__(1)
        self._most = max(most, threads)
        self._most_waiting = most
        self._threads_at_rest = threads
        self._at_once = at_once
        self._soon = soon
        self._calls: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        """None ends a thread."""
        self._lock = threading.Lock()
        self._count = 0
        """Threads."""
        self._spare = 0
        """Threads that wait for calls, less the calls that wait for threads."""
        self._taken = 0
        """Calls that were taken up so far."""
        self._stirred = threading.Event()
        self._ended = False
        for _ in range(1 if at_once else threads):
            self._add_thread()
        if not self._count:
            raise RuntimeError("this machine gives the server no threads")
        if not at_once:
            threading.Thread(target=self._watch, name="worker-watch", daemon=True).start()

    @property
    def is_full(self) -> bool:
        """Whether as many calls wait as may."""
        return self._calls.qsize() >= self._most_waiting

    def start(self, work: Callable[[], object]) -> None:
        """Do `work` as soon as a thread is free. Never blocks, and never raises."""
        with self._lock:
            self._spare -= 1  # here, and not when a thread takes it up: until then the next call would count on it, too
            has_thread = self._spare >= 0
        self._calls.put(work)
        if has_thread:
            return
        if self._at_once:
            self._add_thread()
        elif not self._stirred.is_set():
            self._stirred.set()

    def work_on_next(self) -> None:
        """Work on a call that waits, if there is one: in the calling thread, one of these, at work on another."""
        try:
            call = self._calls.get_nowait()
        except Empty:
            return
        if call is None:
            self._calls.put(None)
            return
        with self._lock:
            self._taken += 1
            self._spare += 1  # as if this thread had waited for it
        _do(call)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """The same, with a future of the result."""
        future: Future[Any] = Future()
        self.start(partial(_run, future, partial(fn, *args, **kwargs)))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take up no more calls."""
        self._ended = True
        self._stirred.set()
        for _ in range(self._count):
            self._calls.put(None)
        super().shutdown(wait, cancel_futures=cancel_futures)

    def _add_thread(self) -> None:
        with self._lock:
            if self._count >= self._most or self._ended:
                return
            self._count += 1
        try:
            threading.Thread(target=self._work, name="worker", daemon=True).start()
        except RuntimeError:  # the machine gives no more: those that are there go on
            with self._lock:
                self._count -= 1

    def _add_threads(self, count: int) -> None:
        for _ in range(count):
            self._add_thread()

    def _watch(self) -> None:
        """Add threads for as long as calls wait."""
        while not self._ended:
            self._stirred.wait()
            self._stirred.clear()
            while self._calls.qsize() and not self._ended:
                taken = self._taken
                time.sleep(SOON_S if self._soon else STUCK_S)
                if self._soon or self._taken == taken:
                    self._add_threads(self._calls.qsize() if self._soon else 1)

    def _work(self) -> None:
        while self._stay() and (call := self._calls.get()) is not None:
            with self._lock:
                self._taken += 1
            _do(call)
            del call  # else a waiting thread would hold on to the last request
        with self._lock:
            self._count -= 1

    def _stay(self) -> bool:
        """Whether one more thread may wait for calls."""
        with self._lock:
            stays = self._spare < self._threads_at_rest
            self._spare += stays
        return stays


MAX_SHARED: Final = 1024
"""Things that one process does at once in threads of their own, beside its calls. One more waits."""
_SHARED_AT_REST: Final = 2
"""One for quick functions, and one for what comes meanwhile: more take the interpreter from each other."""
_begins = threading.Lock()
_shared: Workers | None = None


def shared_workers() -> Workers:
    """Threads of the process for what somebody waits for: a user's function, a lock.

    Raises:
        ServerBusyError: the machine gives no thread at all.
    """
    global _shared  # noqa: PLW0603 - one pool a process
    with _begins:
        if _shared is None:
            try:
                _shared = Workers(MAX_SHARED, _SHARED_AT_REST, soon=True)
            except RuntimeError as error:
                raise ServerBusyError("this machine gives the server no more threads; try again later") from error
        return _shared


def _forget() -> None:
    """Begin anew in a forked process, which has none of its parent's threads."""
    global _begins, _shared
    _begins, _shared = threading.Lock(), None


os.register_at_fork(after_in_child=_forget)


def _do(call: Callable[[], object]) -> None:
    try:
        call()
    except BaseException:  # noqa: BLE001 - nothing ends a thread that others wait for
        # Calls answer whatever they raise; what comes here is a fault of ours, and costs no thread.
        _LOG.exception("a call ended without an answer")


class _Inline(ThreadPoolExecutor):
    """Works on a call on the spot, in gRPC's polling thread. Only for calls that wait for nothing."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Do it now."""
        fn(*args, **kwargs)
        return ACCEPTED


INLINE: Final = _Inline(1)


def _run(future: Future[Any], call: Callable[[], Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = call()
    except BaseException as error:  # noqa: BLE001 - the future hands it on
        future.set_exception(error)
        del future, call  # they would hold the failure, whose frames hold them
    else:
        future.set_result(result)
