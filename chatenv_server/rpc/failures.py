"""Turns what a call raised into a status for the wire, and into one line in the log.

Only exceptions of chatenv say anything to the caller. Of all others neither the type nor the text leaves the process,
and the log, too, holds where they came from but not their text, which may quote a prompt.
"""

from __future__ import annotations

import logging
import traceback
from typing import Final

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
    ours = error.code == "INTERNAL"
    name = method.rpartition("/")[2]
    telemetry.failed(name, error.reason)
    _LOG.log(
        logging.ERROR if ours else logging.INFO,
        "call failed",
        extra={
            "method": name,
            "code": error.code,
            "reason": error.reason,
            "field": error.field,
            "duration_ms": round(seconds * 1000, 3),
            **(_origin(failure) if ours else {}),
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
    cause = failure.__cause__ if isinstance(failure, TransformError) and failure.__cause__ else failure
    frames = traceback.extract_tb(cause.__traceback__)[-8:]
    where = " < ".join(f"{frame.name} ({frame.filename}:{frame.lineno})" for frame in reversed(frames))
    return {"exception": type(cause).__name__, "where": where}
