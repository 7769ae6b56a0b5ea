"""What waits for callers, oldest first: bounded in number and in time, and cut off where it goes beyond."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeVar

ItemT = TypeVar("ItemT")

SWEEP_S: Final = 0.25
"""Seconds between two rounds, unless told otherwise."""

_LOG: Final = logging.getLogger(__name__)


class Waiting(Generic[ItemT]):
    """Things that wait for callers. One that comes when there are too many takes the place of the oldest.

    So callers who never go on do not keep others out: who goes on at once is never the oldest.

    Args:
        most: how many may wait.
        longest_s: seconds that each may wait.
        cut_off: ends the wait of one; called without a lock, once at most for each.
    """

    def __init__(self, most: int, longest_s: float, cut_off: Callable[[ItemT], None]) -> None:
        self._most = most
        self._longest_s = longest_s
        self._cut_off = cut_off
        self._lock = threading.Lock()
        self._since: OrderedDict[ItemT, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._since)

    def add(self, item: ItemT) -> None:
        """Let one wait."""
        with self._lock:
            self._since[item] = time.monotonic()
            oldest = self._since.popitem(last=False)[0] if len(self._since) > self._most else None
        if oldest is not None:
            self._cut_off(oldest)

    def remove(self, item: ItemT) -> bool:
        """End the wait of one that goes on; False: it has ended before."""
        with self._lock:
            return self._since.pop(item, None) is not None

    def cut_overdue(self) -> None:
        """Cut off those that have waited for too long."""
        self.cut_older_than(self._longest_s)

    def cut_older_than(self, seconds: float) -> None:
        """Cut off those that have waited for longer."""
        until = time.monotonic() - seconds
        while (oldest := self._pop_older(until)) is not None:
            self._cut_off(oldest)

    def _pop_older(self, until: float) -> ItemT | None:
        with self._lock:
            if self._since and next(iter(self._since.values())) < until:
                return self._since.popitem(last=False)[0]
        return None


class Sweeper:
    """Does what is to be done again and again, in a thread of its own: above all, cut off what has waited too long.

    Args:
        tasks: each is short.
        pause_s: seconds between two rounds.
    """

    def __init__(self, tasks: Sequence[Callable[[], None]], pause_s: float = SWEEP_S) -> None:
        self._tasks = tasks
        self._pause_s = pause_s
        self._ended = threading.Event()
        threading.Thread(target=self._sweep, name="sweeper", daemon=True).start()

    def close(self) -> None:
        """Look no more."""
        self._ended.set()

    def _sweep(self) -> None:
        while not self._ended.wait(self._pause_s):
            for task in self._tasks:
                _do(task)


def _do(task: Callable[[], None]) -> None:
    try:
        task()
    except Exception:  # noqa: BLE001 - nothing ends the thread that cuts off what waits too long
        _LOG.exception("a task of the server failed")
