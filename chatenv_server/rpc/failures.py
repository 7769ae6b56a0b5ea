"""Turns what a call raised into a status for the wire, and into one line in the log.

Only exceptions of chatenv say anything to the caller. Of all others neither the type nor the text leaves the process,
and the log, too, holds where they came from but not their text, which may quote a prompt. Tasks and transforms are the
exception: what they raise is told to their author, in the log, with its text.
"""

from __future__ import annotations

import logging
import os
import sysconfig
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import grpc

import chatenv_client
from chatenv_client import wire
from chatenv_client._generated import status_pb2
from chatenv_client.errors import ChatEnvError, TaskError, TransformError, UnexpectedStatusError
from chatenv_client.reasons import Reason
from chatenv_server.episodes.ids import is_episode_id
from chatenv_server.observing.telemetry import Telemetry
from chatenv_server.user_objects import text_of

MAX_MESSAGE_BYTES: Final = 1024
"""Of a status. It travels three times, escaped or in base64, and peers refuse trailers beyond 8 KiB."""
MAX_DETAIL_BYTES: Final = 128
"""Of one figure in the details, and of the path of a field."""

MOST_LINES: Final = 20
"""Of the log, for one method and code within WINDOW_S. Anybody can make calls that fail; nobody is to fill a disk."""
WINDOW_S: Final = 10.0

_UNEXPECTED: Final = UnexpectedStatusError(
    "the server failed at this call and nothing was changed; its log says where",
    code="INTERNAL",
    reason=Reason.INTERNAL,
)

_CODES: Final = frozenset(code.name for code in grpc.StatusCode) - {"OK"}
"""Others come of an error that somebody has changed."""

_MOST_FRAMES: Final = 8
"""Of one failure that are told, the innermost."""

_NOT_THEIRS: Final = tuple(
    f"{folder}{os.sep}"
    for folder in (
        Path(__file__).parents[1],
        Path(chatenv_client.__file__).parent,
        *map(sysconfig.get_path, ("stdlib", "platstdlib", "purelib", "platlib")),
    )
)
"""Where the code lies that no author of a task or transform would look at."""

_LOG: Final = logging.getLogger(__name__)


def status_of(failure: BaseException) -> status_pb2.RpcStatus:
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


class Failed(NamedTuple):
    """What failed."""

    method: str
    """Its name, without the path."""
    peer: str
    """Who called."""
    episode_id: str
    seconds: float
    """That it took."""


class FailureLog:
    """Counts failures, and writes them to the log: a line each, unless they come in great numbers.

    Args:
        telemetry: counts them.
        clock: seconds.
    """

    def __init__(self, telemetry: Telemetry, clock: Callable[[], float] = time.monotonic) -> None:
        self.telemetry = telemetry
        self._clock = clock
        self._lock = threading.Lock()
        self._windows: dict[tuple[str, str], _Window] = {}

    def write(self, failure: BaseException, failed: Failed) -> None:
        """Note one failure."""
        error = _told(failure)
        self.telemetry.failed(failed.method, error.reason)
        left_out = self._left_out_before(failed.method, error.code)
        if left_out is None:
            return
        is_users = isinstance(failure, TaskError | TransformError)
        is_ours = error.code == "INTERNAL" and not is_users
        _LOG.log(
            logging.WARNING if is_users else logging.ERROR if is_ours else logging.INFO,
            "call failed",
            extra={
                "method": failed.method,
                "code": error.code,
                "reason": error.reason,
                "field": error.field,
                # Anything may stand where the id of an episode should, a prompt among it.
                "episode_id": failed.episode_id if is_episode_id(failed.episode_id) else "",
                "peer": failed.peer,
                "duration_ms": round(failed.seconds * 1000, 3),
                "not_logged": left_out or "",
                **(_origin(failure) if is_ours else {}),
                **(_users_origin(failure) if is_users else {}),
            },
        )
        _LOG.debug("call failed with this exception", exc_info=failure)

    def _left_out_before(self, method: str, code: str) -> int | None:
        """How many lines like this one were left out since the last that was written; None: leave this one out, too."""
        with self._lock:
            window = self._windows.setdefault((method, code), _Window(self._clock()))
            if self._clock() - window.began > WINDOW_S:
                window.began, window.written = self._clock(), 0
            if window.written >= MOST_LINES:
                window.left_out += 1
                return None
            left_out, window.left_out = window.left_out, 0
            window.written += 1
            return left_out


@dataclass
class _Window:
    """Lines of one method and code within a time."""

    began: float
    written: int = 0
    left_out: int = 0


class ItemFailures:
    """The failed items of one batch or stream. All are counted, and of each kind the first gets a line of the log.

    Args:
        method: name of the RPC.
        peer: says who called, where something failed: gRPC takes its time to tell.
        log: where they are counted and written.
    """

    def __init__(self, method: str, peer: Callable[[], str], log: FailureLog) -> None:
        self._method = method
        self._peer = peer
        self._log = log
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, str, str]] = Counter()

    def add(self, failure: BaseException, episode_id: str, seconds: float) -> None:
        """Note one."""
        error = _told(failure)
        kind = (error.code, error.reason, type(failure.__cause__ or failure).__name__)
        with self._lock:
            self._counts[kind] += 1
            is_first = self._counts[kind] == 1
        if is_first:
            self._log.write(failure, Failed(self._method, self._peer(), episode_id, seconds))
        else:
            self._log.telemetry.failed(self._method, error.reason)

    def close(self) -> None:
        """Say in one line a kind how many more there were."""
        for (code, reason, _), count in self._counts.items():
            if count > 1:
                _LOG.info(
                    "more items of this call failed",
                    extra={
                        "method": self._method,
                        "code": code,
                        "reason": reason,
                        "more": count - 1,
                        "peer": self._peer(),
                    },
                )


def _told(failure: BaseException) -> ChatEnvError:
    """What the caller is told of a failure: all of an exception of chatenv, and nothing of any other."""
    return failure if isinstance(failure, ChatEnvError) and failure.code in _CODES else _UNEXPECTED


def _clip(text: str, limit: int) -> str:
    encoded = text.encode(errors="replace")
    return text if len(encoded) <= limit else encoded[:limit].decode(errors="ignore") + "..."


def _origin(failure: BaseException) -> dict[str, str]:
    return {"exception": type(failure).__name__, "where": _where(traceback.extract_tb(failure.__traceback__))}


def _users_origin(failure: BaseException) -> dict[str, str]:
    """What the author of a task or transform wants to know: what was raised, and in which of their lines."""
    raised = failure.__cause__
    if raised is None:
        return {"problem": str(failure)}
    text = text_of(raised)
    frames = traceback.extract_tb(raised.__traceback__)
    theirs = [frame for frame in frames if not frame.filename.startswith(_NOT_THEIRS)]
    return {
        "problem": _clip(f"{failure} ({text})" if text else str(failure), MAX_MESSAGE_BYTES),
        "exception": type(raised).__name__,
        "where": _where(theirs or frames),
    }


def _where(frames: Sequence[traceback.FrameSummary]) -> str:
    return " < ".join(f"{frame.name} ({frame.filename}:{frame.lineno})" for frame in reversed(frames[-_MOST_FRAMES:]))
