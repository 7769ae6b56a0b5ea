"""Closes the tasks of episodes that ended, beside the calls that ended them."""

from __future__ import annotations

import threading
import time

from chatenv_server.environment.environment import ChatEnvironment
from chatenv_server.tasks.task import End
from chatenv_server.work import Course


class TaskClosings:
    """Closes tasks, each once; no call waits for it. Safe to use from many threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._under_way: set[Course[None]] = set()

    def begin(self, environment: ChatEnvironment, reason: End) -> None:
        """Close the task of an episode that ended, if that has one that wants to be closed."""
        if environment.closes:
            course = Course(environment.closing(reason), self._go_on)
            with self._changed:
                self._under_way.add(course)
            self._go_on(course)

    def _go_on(self, course: Course[None]) -> None:
        course.go_on()
        if course.is_done:
            with self._changed:
                self._under_way.discard(course)
                self._changed.notify_all()

    def wait(self, seconds: float) -> bool:
        """Wait for those that are under way; whether all are done."""
        until = time.monotonic() + seconds
        with self._changed:
            while self._under_way and (left := until - time.monotonic()) > 0:
                self._changed.wait(left)
            return not self._under_way
