"""Turns whatever a call raised into a status for the wire and one line in the log.

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
"""Of one figure behind a reason, and of the path of a field."""

_LOG: Final = logging.getLogger(__name__)


def status_of(failure: Exception, *, method: str, seconds: float, telemetry: Telemetry) -> status_pb2.RpcStatus:
    """The status of a failed call, or of a failed item of a batch or stream; logs and counts the failure.

    Args:
        failure: what was raised.
        method: of the call, with or without its path.
        seconds: how long the call took, for the log.
        telemetry: counts it.
    """
    error = failure if isinstance(failure, ChatEnvError) else _unexpected()
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
    error.message = _clip(error.message, MAX_MESSAGE_BYTES)
    error.field = _clip(error.field, MAX_DETAIL_BYTES)
    error.details = {key: _clip(value, MAX_DETAIL_BYTES) for key, value in error.details.items()}
    return wire.error_to_status(error)


def _clip(text: str, limit: int) -> str:
    encoded = text.encode(errors="replace")
    return text if len(encoded) <= limit else encoded[:limit].decode(errors="ignore") + "..."


def _unexpected() -> ChatEnvError:
    return UnexpectedStatusError(
        "the server failed at this call and nothing was changed; its log says where",
        code="INTERNAL",
        reason=Reason.INTERNAL,
    )


def _origin(failure: Exception) -> dict[str, str]:
    cause = failure.__cause__ if isinstance(failure, TransformError) and failure.__cause__ else failure
    frames = traceback.extract_tb(cause.__traceback__)[-8:]
    where = " < ".join(f"{frame.name} ({frame.filename}:{frame.lineno})" for frame in reversed(frames))
    return {"exception": type(cause).__name__, "where": where}
