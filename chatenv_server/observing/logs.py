"""The server's log on standard error: one line per event, for people or for machines."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import threading
import time
import warnings
from collections.abc import Mapping
from datetime import datetime, timezone
from queue import SimpleQueue
from types import MappingProxyType
from typing import Any, Final

MOST_LINES: Final = 4096
"""That wait to be written."""
FLUSH_S: Final = 1.0
"""Seconds that the end of the server waits for its last lines."""

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def configure_logging(level: str, form: str, *, process: int | None = None) -> None:
    """Log to standard error.

    Args:
        level: least severe level that is shown: debug, info, warning, error.
        form: `text` or `json`.
        process: number of this process, where several of one server write to the same log; each line has it.
    """
    handler = LineWriter(sys.stderr.fileno())
    always = {} if process is None else {"process": process}
    handler.setFormatter(JsonFormatter(always) if form == "json" else TextFormatter(always))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # At DEBUG other libraries would log too much, the contents of calls among it.
    logging.getLogger().setLevel(max(logging.WARNING, logging.getLevelName(level.upper())))
    logging.getLogger("chatenv_server").setLevel(level.upper())
    # Python would print the line of code beside it, which tells an operator nothing.
    warnings.showwarning = lambda message, *_: logging.getLogger("chatenv_server").warning(
        " ".join(str(message).split())
    )


class LineWriter(logging.Handler):
    """Writes lines in a thread of its own, so that a reader who stops to read them holds up no call.

    As long as nobody reads, lines beyond MOST_LINES are dropped; how many, a line says afterwards.

    Args:
        descriptor: of the file.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._lines: SimpleQueue[str] = SimpleQueue()
        self._dropped = 0
        self._given = 0
        self._written = 0
        threading.Thread(target=self._write, name="log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Have a record written."""
        if self._lines.qsize() >= MOST_LINES:
            self._dropped += 1
            return
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            self._give(_dropped_record(dropped))
        self._give(record)

    def _give(self, record: logging.LogRecord) -> None:
        self._given += 1  # logging calls this with the handler's lock held
        self._lines.put(self.format(record))

    def flush(self) -> None:
        """Wait until all is written, but not for ever."""
        until = time.monotonic() + FLUSH_S
        while self._written < self._given and time.monotonic() < until:
            time.sleep(0.001)

    def _write(self) -> None:
        while True:
            line = self._lines.get()
            self._write_whole(f"{line}\n".encode(errors="replace"))
            self._written += 1

    def _write_whole(self, encoded: bytes) -> None:
        # Not through sys.stderr: whoever waits there holds a lock, which the interpreter wants when it ends.
        with contextlib.suppress(OSError):
            while encoded:
                encoded = encoded[os.write(self._descriptor, encoded) :]


def _dropped_record(count: int) -> logging.LogRecord:
    record = logging.LogRecord(__name__, logging.WARNING, "", 0, "lines of this log were dropped", (), None)
    record.count = count
    return record


class TextFormatter(logging.Formatter):
    """`time level message key=value ...`.

    Args:
        always: fields of every line.
    """

    def __init__(self, always: Mapping[str, Any] = MappingProxyType({})) -> None:
        super().__init__()
        self._always = always

    def format(self, record: logging.LogRecord) -> str:
        """One line; a traceback, at DEBUG, adds its own."""
        fields = "".join(f" {key}={_shown(value)}" for key, value in {**self._always, **_extra(record)}.items())
        line = f"{_time(record)} {record.levelname:<7} {record.getMessage()}{fields}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonFormatter(logging.Formatter):
    """One JSON object per line.

    Args:
        always: fields of every line.
    """

    def __init__(self, always: Mapping[str, Any] = MappingProxyType({})) -> None:
        super().__init__()
        self._always = always

    def format(self, record: logging.LogRecord) -> str:
        """The event with its time, level, logger and fields."""
        event = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **self._always,
            **_extra(record),
        }
        if record.exc_info:
            event["traceback"] = self.formatException(record.exc_info)
        return json.dumps(event, default=str)


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    return {key: value for key, value in vars(record).items() if key not in _STANDARD and value != ""}


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, tz=timezone.utc).isoformat(timespec="milliseconds")


def _shown(value: Any) -> str:
    text = str(value)
    if not text.isprintable():
        return json.dumps(text)  # what could end a line, or speak to a terminal, is spelled out
    return json.dumps(text, ensure_ascii=False) if " " in text or '"' in text else text
