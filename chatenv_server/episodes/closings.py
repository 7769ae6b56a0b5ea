"""What is done once an episode has ended: its record goes into the archive, and its task is closed."""

from __future__ import annotations

import threading
import time

from chatenv_server.archive.archive import Archive
from chatenv_server.environment.environment import ChatEnvironment
from chatenv_server.episodes.episode import Episode
from chatenv_server.tasks.task import End
from chatenv_server.work import Course, Work


class Closings:
    """Archives episodes that ended, and closes their tasks, each once; no call waits for that. Safe for threads.

    Args:
        archive: takes the records; None: nobody does.
    """

    def __init__(self, archive: Archive | None) -> None:
        self._archive = archive
        self._changed = threading.Condition()
        self._under_way: set[Course[None]] = set()

    def begin(self, environment: ChatEnvironment | None, reason: End) -> None:
        """Archive an episode that ended, and close its task, if there is one that wants to be closed.

        Args:
            environment: of the episode; None: there was none.
            reason: how it ended. One whose opening was refused has never begun.
        """
        if environment is None:
            return
        if self._archive is not None and reason is not End.REFUSED:
            self._archive.add(environment)
        if environment.closes:
            self._begin(environment.closing(reason))

    def begin_when_free(self, episode: Episode, reason: End) -> None:
        """The same, once no call is at work on the episode any more."""
        if self._archive is not None or (episode.environment is not None and episode.environment.closes):
            self._begin(self._begun_when_free(episode, reason))

    async def _begun_when_free(self, episode: Episode, reason: End) -> None:
        if not episode.try_acquire():
            await episode.acquired(None)
        try:
            self.begin(episode.environment, reason)
        finally:
            episode.release()

    def unread(self, episode_id: str) -> None:
        """Tell that an episode ended that cannot be read, so that there is no record of it."""
        if self._archive is not None:
            self._archive.lose(episode_id, "the store's record of it cannot be read")

    def settle(self) -> None:
        """Wait a little until the records of those that ended are written."""
        if self._archive is not None:
            self._archive.settle()

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
