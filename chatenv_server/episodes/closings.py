"""Closes the tasks of episodes that ended, beside the calls that ended them."""

from __future__ import annotations

import threading
import time

from chatenv_server.environment.environment import ChatEnvironment
from chatenv_server.episodes.episode import Episode
from chatenv_server.tasks.task import End
from chatenv_server.work import Course, Work


class TaskClosings:
    """Closes tasks, each once; no call waits for it. Safe to use from many threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._under_way: set[Course[None]] = set()

    def begin(self, environment: ChatEnvironment | None, reason: End) -> None:
        """Close the task of an episode that ended, if there is one that wants to be closed."""
        if environment is not None and environment.closes:
            self._begin(environment.closing(reason))

    def begin_when_free(self, episode: Episode, reason: End) -> None:
        """The same, once no call is at work on the episode any more."""
        if episode.environment is not None and episode.environment.closes:
            self._begin(_closed_when_free(episode, reason))

    def _begin(self, work: Work[None]) -> None:
        course = Course(work, self._go_on)
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


async def _closed_when_free(episode: Episode, reason: End) -> None:
    if not episode.try_acquire():
        await episode.acquired(None)
    try:
        if episode.environment is not None:
            await episode.environment.closing(reason)
    finally:
        episode.release()
