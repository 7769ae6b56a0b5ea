"""The server's log on standard error: one line per event, for people or for machines."""

from __future__ import annotations

import json
import logging
import sys
import warnings
from datetime import datetime, timezone
from typing import Any, Final

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def configure_logging(level: str, form: str) -> None:
    """Log to standard error.

    Args:
        level: least severe level that is shown: debug, info, warning, error.
        form: `text` or `json`.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # At DEBUG other libraries would log too much, the contents of calls among it.
    logging.getLogger().setLevel(max(logging.WARNING, logging.getLevelName(level.upper())))
    logging.getLogger("chatenv_server").setLevel(level.upper())
    # Python would print the line of code beside it, which tells an operator nothing.
    warnings.showwarning = lambda message, *_: logging.getLogger("chatenv_server").warning(str(message))


class TextFormatter(logging.Formatter):
    """`time level message key=value ...`."""

    def format(self, record: logging.LogRecord) -> str:
        """One line; a traceback, at DEBUG, adds its own."""
        fields = "".join(f" {key}={_shown(value)}" for key, value in _extra(record).items())
        line = f"{_time(record)} {record.levelname:<7} {record.getMessage()}{fields}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonFormatter(logging.Formatter):
    """One JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        """The event with its time, level, logger and fields."""
        event = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_extra(record),
        }
        if record.exc_info:
            event["traceback"] = self.formatException(record.exc_info)
        return json.dumps(event, ensure_ascii=False, default=str)


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    return {key: value for key, value in vars(record).items() if key not in _STANDARD and value != ""}


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, tz=timezone.utc).isoformat(timespec="milliseconds")


def _shown(value: Any) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if " " in text or '"' in text or "\n" in text else text
