"""Turns what a call raised into a status for the wire, and into one line in the log.

Only exceptions of chatenv say anything to the caller. Of all others neither the type nor the text leaves the process,
and the log, too, holds where they came from but not their text, which may quote a prompt. The exception is a transform:
what it raises is told to its author, in the log, with its text.
"""

from __future__ import annotations

import logging
import os
import sysconfig
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import chatenv_client
import chatenv_server
from chatenv_client import wire
from chatenv_client._generated import status_pb2
from chatenv_client.errors import ChatEnvError, TransformError, UnexpectedStatusError
from chatenv_client.reasons import Reason
from chatenv_server.observing.telemetry import Telemetry

MAX_MESSAGE_BYTES: Final = 1024
"""Of a status. It travels three times, escaped or in base64, and peers refuse trailers beyond 8 KiB."""
MAX_DETAIL_BYTES: Final = 128
"""Of one figure in the details, and of the path of a field."""

_UNEXPECTED: Final = UnexpectedStatusError(
    "the server failed at this call and nothing was changed; its log says where",
    code="INTERNAL",
    reason=Reason.INTERNAL,
)

_MOST_FRAMES: Final = 8
"""Of one failure that are told, the innermost."""

_NOT_THEIRS: Final = tuple(
    f"{folder}{os.sep}"
    for folder in (
        Path(chatenv_server.__file__).parent,
        Path(chatenv_client.__file__).parent,
        *map(sysconfig.get_path, ("stdlib", "platstdlib", "purelib", "platlib")),
    )
)
"""Where the code lies that no author of a transform would look at."""

_LOG: Final = logging.getLogger(__name__)


def status_of(failure: Exception) -> status_pb2.RpcStatus:
    """The status of a failed call, or of a failed item of a batch or stream. Long texts are cut off."""
    error = _told(failure)
    return wire.error_to_status(
        ChatEnvError(
            _clip(error.message, MAX_MESSAGE_BYTES),
            reason=error.reason,
            field=_clip(error.field, MAX_DETAIL_BYTES),
            details={key: _clip(value, MAX_DETAIL_BYTES) for key, value in error.details.items()},
            code=error.code,
        )
    )


def log_and_count(failure: Exception, *, method: str, seconds: float, telemetry: Telemetry) -> None:
    """Write a failure to the log, and tell the telemetry of it.

    Args:
        failure: what was raised.
        method: of the call, with or without its path.
        seconds: how long the call took.
        telemetry: counts it.
    """
    error = _told(failure)
    is_transforms = isinstance(failure, TransformError)
    ours = error.code == "INTERNAL" and not is_transforms
    level = logging.WARNING if is_transforms else logging.ERROR if ours else logging.INFO
    name = method.rpartition("/")[2]
    telemetry.failed(name, error.reason)
    _LOG.log(
        level,
        "call failed",
        extra={
            "method": name,
            "code": error.code,
            "reason": error.reason,
            "field": error.field,
            "duration_ms": round(seconds * 1000, 3),
            **(_origin(failure) if ours else {}),
            **(_transforms_origin(failure) if is_transforms else {}),
        },
    )
    _LOG.debug("call failed with this exception", exc_info=failure)


def _told(failure: Exception) -> ChatEnvError:
    """What the caller is told of a failure: all of an exception of chatenv, and nothing of any other."""
    return failure if isinstance(failure, ChatEnvError) else _UNEXPECTED


def _clip(text: str, limit: int) -> str:
    encoded = text.encode(errors="replace")
    return text if len(encoded) <= limit else encoded[:limit].decode(errors="ignore") + "..."


def _origin(failure: Exception) -> dict[str, str]:
    return {"exception": type(failure).__name__, "where": _where(traceback.extract_tb(failure.__traceback__))}


def _transforms_origin(failure: Exception) -> dict[str, str]:
    """What the author of a transform wants to know: what was raised, and in which of their lines."""
    raised = failure.__cause__
    if raised is None:
        return {"problem": str(failure)}
    frames = traceback.extract_tb(raised.__traceback__)
    theirs = [frame for frame in frames if not frame.filename.startswith(_NOT_THEIRS)]
    return {
        "problem": _clip(f"{failure} ({raised})" if str(raised) else str(failure), MAX_MESSAGE_BYTES),
        "exception": type(raised).__name__,
        "where": _where(theirs or frames),
    }


def _where(frames: Sequence[traceback.FrameSummary]) -> str:
    return " < ".join(f"{frame.name} ({frame.filename}:{frame.lineno})" for frame in reversed(frames[-_MOST_FRAMES:]))
