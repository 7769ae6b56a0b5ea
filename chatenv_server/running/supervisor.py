"""The parent of several serving processes: starts them, waits until all serve, replaces those that die, ends them.

Each is a fresh interpreter, so nothing of gRPC is ever forked. The parent itself serves nothing and holds no episode.
"""

from __future__ import annotations

import logging
import os
import selectors
import signal
import time
from typing import Final

from chatenv_client._version import __version__
from chatenv_server.running.serving import EXIT_FAILED
from chatenv_server.running.serving_process import ServingProcess
from chatenv_server.running.shared_port import SharedPorts
from chatenv_server.running.signals import catch_signals
from chatenv_server.settings.errors import BindError, SettingError
from chatenv_server.settings.settings import Settings

SETTLED_S: Final = 2.0
"""A process that served for so long did not die of its start."""
MOST_EARLY_DEATHS: Final = 5
"""In a row, of processes in one place: after them the server ends."""
_FIRST_PAUSE_S: Final = 0.1
"""Before a process is replaced that died early; each time twice as long."""
_LATE_S: Final = 5.0
"""That processes have beyond their grace."""

_LOG: Final = logging.getLogger(__name__)


class Supervisor:
    """Keeps the serving processes of one server alive.

    Raises:
        BindError: an address cannot be served on.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._ports = SharedPorts(settings.listen)
        self._selector = selectors.DefaultSelector()
        self._processes: dict[int, ServingProcess] = {}
        """By number."""
        self._due: dict[int, float] = {}
        """When to start a process again, by its number and the monotonic clock."""
        self._early_deaths = dict.fromkeys(range(1, settings.processes + 1), 0)
        self._serves = False
        self._ending = False

    def run(self) -> int:
        """Serve until SIGTERM or SIGINT; the exit code.

        Raises:
            BindError, SettingError: a process cannot start.
        """
        self._listen_to_signals()
        try:
            for number in self._early_deaths:
                self._start(number)
            while not self._ending:
                self._look(self._next_due())
                self._start_due()
            return self._drain()
        except _EndlessDeathsError:
            self._drain()
            return EXIT_FAILED
        finally:
            self._kill()
            self._ports.close()

    def _listen_to_signals(self) -> None:
        # A signal may come to the thread of the log, and would then not end this thread's waiting.
        signalled, signal_ = os.pipe()
        os.set_blocking(signal_, False)
        signal.set_wakeup_fd(signal_)
        self._selector.register(signalled, selectors.EVENT_READ)
        catch_signals(self._ask_to_end, self._end_at_once)

    def _ask_to_end(self) -> None:
        self._ending = True

    def _start(self, number: int) -> None:
        settings = self._settings.of_process(number, self._ports.addresses)
        process = self._processes[number] = ServingProcess(number, settings)
        self._selector.register(process.told, selectors.EVENT_READ, process)

    def _look(self, timeout_s: float | None) -> None:
        """Wait until a process says something or ends, a signal comes, or so long."""
        for key, _ in self._selector.select(timeout_s):
            if key.data is None:
                os.read(key.fd, 1)  # its handler has run, or runs next
            elif key.data.hear():
                self._note_ready()
            else:
                self._bury(key.data)

    def _note_ready(self) -> None:
        said = [process.said for process in self._processes.values()]
        if self._serves or len(said) < self._settings.processes or not all(said):
            return
        self._serves = True
        _LOG.info(
            "serving",
            extra={
                "addresses": ",".join(self._ports.addresses),
                "tokenizer": said[0]["tokenizer"],
                "version": __version__,
                "metrics": ",".join(each["metrics"] for each in said if each["metrics"]),
                "processes": len(said),
            },
        )

    def _bury(self, process: ServingProcess) -> None:
        """Take in that a process has ended."""
        self._selector.unregister(process.told)
        code = process.bury()
        del self._processes[process.number]
        if not self._ending:
            self._see_to_another(process, code)

    def _see_to_another(self, process: ServingProcess, code: int) -> None:
        number = process.number
        if process.why and not self._serves:
            raise (BindError if code == EXIT_FAILED else SettingError)(process.why)
        self._early_deaths[number] = self._early_deaths[number] + 1 if process.served_s < SETTLED_S else 0
        if self._early_deaths[number] >= MOST_EARLY_DEATHS:
            _LOG.error(
                "a serving process ends again and again, so the server ends",
                extra={"number": number, "exit_code": code, "why": process.why},
            )
            raise _EndlessDeathsError
        pause_s = _FIRST_PAUSE_S * 2 ** self._early_deaths[number] if self._early_deaths[number] else 0.0
        self._due[number] = time.monotonic() + pause_s
        _LOG.warning(
            "a serving process ended, and is replaced",
            extra={"number": number, "exit_code": code, "why": process.why, "pause_s": pause_s},
        )

    def _next_due(self) -> float | None:
        return max(0.0, min(self._due.values()) - time.monotonic()) if self._due else None

    def _start_due(self) -> None:
        now = time.monotonic()
        for number in [number for number, due in self._due.items() if due <= now]:
            del self._due[number]
            if not self._ending:
                self._start(number)

    def _drain(self) -> int:
        """Have all processes drain; the exit code, which is 0 if each ended with 0."""
        self._ending = True
        _LOG.info("draining", extra={"grace_s": self._settings.drain_grace})
        for process in self._processes.values():
            process.ask_to_end()
        asked = list(self._processes.values())
        until = time.monotonic() + self._settings.drain_grace + _LATE_S
        while self._processes and (left := until - time.monotonic()) > 0:
            self._look(left)
        if self._processes or any(process.has_failed for process in asked):
            _LOG.warning("stopped, and cut off calls that did not finish within the grace")
            return EXIT_FAILED
        _LOG.info("stopped")
        return 0

    def _kill(self) -> None:
        for process in self._processes.values():
            process.kill()

    def _end_at_once(self) -> None:
        self._kill()
        os._exit(EXIT_FAILED)


class _EndlessDeathsError(Exception):
    """A process dies each time that it is started."""
