"""`python -m chatenv_server.running.child`: one of several serving processes, started by `supervisor` alone.

Its settings come on standard input, so that no secret shows in the list of processes. That pipe stays open for as long
as the parent lives: at its end the process drains, so a parent that is killed leaves nobody behind. What becomes of the
start is told through another pipe, whose number is the one argument.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from typing import Any

from chatenv_server.observing.logs import configure_logging
from chatenv_server.running.serving import (
    EXIT_FAILED,
    EXIT_SETTING,
    AskedToEnd,
    asked_by_signals,
    serve_among_others,
)
from chatenv_server.settings.errors import BindError, SettingError
from chatenv_server.settings.settings import Settings


def main() -> int:
    """Serve until SIGTERM, or until the parent is gone; the exit code."""
    tell = _Tell(int(sys.argv[1]))
    charge = json.loads(sys.stdin.buffer.readline())
    number, given = charge["number"], charge["settings"]
    # What JSON has as a list is a tuple of settings.
    as_given: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in given.items()
    }
    settings = Settings(**as_given)
    configure_logging(settings.log_level, settings.log_format, process=number)
    asked_to_end = asked_by_signals()
    threading.Thread(target=_watch_parent, args=[asked_to_end], name="parent", daemon=True).start()
    try:
        return serve_among_others(settings, number, asked_to_end, lambda said: tell("ready", **said))
    except (SettingError, BindError) as error:
        code = EXIT_SETTING if isinstance(error, SettingError) else EXIT_FAILED
        tell("failed", why=str(error))
        return code


class _Tell:
    """Tells the parent something, as one line of JSON."""

    def __init__(self, descriptor: int) -> None:
        os.set_inheritable(descriptor, False)  # the pipe ends with this process, whatever a transform starts
        self._descriptor = descriptor

    def __call__(self, what: str, **fields: Any) -> None:
        os.write(self._descriptor, json.dumps({"what": what, **fields}).encode() + b"\n")


def _watch_parent(asked_to_end: AskedToEnd) -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    asked_to_end.put(None)


if __name__ == "__main__":
    sys.exit(main())
