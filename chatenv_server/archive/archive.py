"""The archive of a server: every ended episode as a line of a file, written beside the calls that end them.

A lost record fails no call: training goes on, and the loss is told by a metric and in the log.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from typing import Final

from chatenv_client.exports.json_lines import line_of
from chatenv_server.archive.files import ArchiveFiles
from chatenv_server.environment.environment import ChatEnvironment
from chatenv_server.observing.telemetry import Telemetry

PATIENCE_S: Final = 1.0
"""That the end of an episode waits for its record at the longest."""
_STUCK_S: Final = 5.0
"""Without a record written, after which the end of the server waits no longer."""

_LOG: Final = logging.getLogger(__name__)


class Archive:
    """Writes episodes in a thread of its own, in the order in which they ended. Safe to use from many threads.

    Args:
        files: where to.
        max_waiting_tokens: of episodes that wait to be written. Those beyond are lost.
        telemetry: told of each record, written or lost.
    """

    def __init__(self, files: ArchiveFiles, max_waiting_tokens: int, telemetry: Telemetry) -> None:
        self._files = files
        self._max_waiting_tokens = max_waiting_tokens
        self._telemetry = telemetry
        self._changed = threading.Condition()
        self._waiting: deque[ChatEnvironment] = deque()
        """The first is being written."""
        self._waiting_tokens = 0
        self._added = self._settled = 0
        self._fails = self._ends = self._is_late = False
        self._thread = threading.Thread(target=self._run, name="archive", daemon=True)
        self._thread.start()

    def add(self, environment: ChatEnvironment) -> None:
        """Have an episode written that has ended, and that nobody changes any more."""
        with self._changed:
            fits = not self._waiting or self._waiting_tokens + environment.held_tokens <= self._max_waiting_tokens
            if fits and not self._ends:
                self._waiting.append(environment)
                self._waiting_tokens += environment.held_tokens
                self._added += 1
                self._changed.notify_all()
                return
            problem = "the server has ended" if self._ends else "too many ended episodes wait to be written"
        self.lose(environment.episode_id, problem)

    def lose(self, episode_id: str, problem: str) -> None:
        """Tell that there is no record of an episode that has ended."""
        self._telemetry.archive_failed()
        _LOG.warning("episode not archived", extra={"episode_id": episode_id, "problem": problem})

    def settle(self) -> None:
        """Wait until what was added is written, but for `PATIENCE_S` at the longest; of a disk that hangs, once."""
        with self._changed:
            added = self._added
            if not self._is_late:
                self._is_late = not self._changed.wait_for(lambda: self._settled >= added, PATIENCE_S)

    def close(self) -> None:
        """Write what waits, unless the disk hangs."""
        with self._changed:
            self._ends = True
            self._changed.notify_all()
        settled = -1
        while self._thread.is_alive() and settled < self._settled:
            settled = self._settled
            self._thread.join(_STUCK_S)
        with self._changed:
            left = list(self._waiting)
        for environment in left:
            self.lose(environment.episode_id, "the server has ended")

    def _run(self) -> None:
        while (environment := self._next()) is not None:
            self._write(environment)
            with self._changed:
                self._waiting.popleft()
                self._waiting_tokens -= environment.held_tokens
                self._settled += 1
                self._is_late = False
                self._changed.notify_all()
        try:
            self._files.close()
        except OSError as error:
            self._note_fault(error)

    def _next(self) -> ChatEnvironment | None:
        """The episode that is to be written next; None: no more will come."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._ends)
            return self._waiting[0] if self._waiting else None

    def _write(self, environment: ChatEnvironment) -> None:
        began = time.perf_counter()
        try:
            self._files.append(line_of(environment.trajectory()))
        except Exception as error:  # noqa: BLE001 - whatever is wrong with one, the others are written
            self._note_fault(error)
            self.lose(environment.episode_id, "its record cannot be written")
            return
        self._telemetry.archived(time.perf_counter() - began)
        if self._fails:
            self._fails = False
            _LOG.info("archive available again", extra={"folder": str(self._files.folder)})

    def _note_fault(self, error: Exception) -> None:
        if not self._fails:
            self._fails = True
            problem = str(error) if isinstance(error, OSError) else type(error).__name__
            _LOG.error("archive unavailable", extra={"folder": str(self._files.folder), "error": problem})
