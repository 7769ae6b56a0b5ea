"""Tells things that they are overdue, from one thread, however many there are."""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from chatenv_server.threads import start_thread

Overrun = Callable[[], object]


class Deadlines:
    """What is to be told once some seconds have passed, unless it is taken out before.

    There are few different numbers of seconds, so those of one number are in their order already.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._by_seconds: dict[float, OrderedDict[Overrun, float]] = {}
        self._looks_at: float | None = None
        """When the thread looks next; None: there is no thread."""

    def add(self, overrun: Overrun, seconds: float) -> None:
        """Call `overrun`, which must be short and not raise, once so many seconds have passed.

        Raises:
            ServerBusyError: the machine gives no thread for it.
        """
        moment = time.monotonic() + seconds
        with self._changed:
            if self._looks_at is None:
                start_thread(self._watch, "deadlines")
                self._looks_at = moment
            self._by_seconds.setdefault(seconds, OrderedDict())[overrun] = moment
            if moment < self._looks_at:
                self._changed.notify()

    def remove(self, overrun: Overrun, seconds: float) -> None:
        """Do not call it any more."""
        with self._changed:
            self._by_seconds[seconds].pop(overrun, None)

    def _watch(self) -> None:
        while True:
            with self._changed:
                due = self._take_due(time.monotonic())
                if not due:
                    self._changed.wait(self._looks_at - time.monotonic())  # type: ignore[operator]
            for overrun in due:
                overrun()

    def _take_due(self, now: float) -> list[Overrun]:
        """Those that are overdue; notes when to look again."""
        due: list[Overrun] = []
        self._looks_at = now + 60.0
        for waiting in self._by_seconds.values():
            while waiting:
                overrun, moment = next(iter(waiting.items()))
                if moment > now:
                    self._looks_at = min(self._looks_at, moment)
                    break
                del waiting[overrun]
                due.append(overrun)
        return due


DEADLINES = Deadlines()
"""Those of the process."""
# A forked process has none of its parent's threads.
os.register_at_fork(after_in_child=DEADLINES.__init__)  # type: ignore[misc]
