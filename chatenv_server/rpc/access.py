"""Decides who may call: the bearer token."""

from __future__ import annotations

import hmac
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NoReturn

from chatenv_client.bearer import MAX_TOKEN_CHARACTERS, checked_token
from chatenv_client.errors import AccessError

GRACE_S: Final = 10.0
"""Seconds that a token outlives its file."""

_MOST_BYTES: Final = 2 * MAX_TOKEN_CHARACTERS
"""That are read of a file; one without an end would be read for ever."""

_SCHEME: Final = "bearer "

_LOG: Final = logging.getLogger(__name__)


class BearerToken:
    """The token that calls must carry. One from a file is read again when the file changes.

    A file that is gone, or holds no token that works, keeps its last one for GRACE_S, as long as it may take to replace
    a file. After that nobody is let in until it holds one again: whoever empties it means to shut callers out.

    Args:
        token: the token itself.
        file: where it stands, in the place of that.
        clock: seconds.

    Raises:
        ValueError: the token is empty, or no header can carry it.
        OSError: the file cannot be read.
    """

    def __init__(self, token: str = "", file: str = "", clock: Callable[[], float] = time.monotonic) -> None:
        self._file = Path(file) if file else None
        self._clock = clock
        self._lock = threading.Lock()
        self._read_at = None if self._file is None else _identity(self._file)
        self._unusable_since: float | None = None
        self._token: str | None = token if self._file is None else _read(self._file)
        """None: nobody is let in."""
        if not checked_token(self._token or ""):
            raise ValueError("the bearer token is empty")

    def opens(self, metadata: Sequence[tuple[str, str | bytes]]) -> bool:
        """Whether a call's metadata carries the token."""
        self.refresh()
        given = str(dict(metadata).get("authorization", ""))
        if self._token is None or given[: len(_SCHEME)].lower() != _SCHEME:
            return False
        return hmac.compare_digest(given[len(_SCHEME) :].encode(), self._token.encode())

    def refresh(self) -> None:
        """Look whether the file has changed. Servers do so all the time, and not only when somebody calls."""
        if self._file is not None:
            with self._lock:
                self._read_again(self._file)

    def _read_again(self, file: Path) -> None:
        try:
            identity = _identity(file)
            if identity != self._read_at:
                self._token = checked_token(_read(file, waits=False)) or _fail("it is empty")
                self._read_at = identity
                self._unusable_since = None
        except (OSError, ValueError) as error:
            self._read_at = None
            self._go_on_without(error.strerror if isinstance(error, OSError) else str(error))

    def _go_on_without(self, reason: str | None) -> None:
        now = self._clock()
        if self._unusable_since is None:
            self._unusable_since = now
            _LOG.warning("bearer token kept for a while: its file holds none that works", extra={"reason": reason})
        elif self._token is not None and now - self._unusable_since > GRACE_S:
            self._token = None
            _LOG.warning("nobody is let in: the file of the bearer token holds none that works")


def _fail(reason: str) -> NoReturn:
    raise ValueError(reason)


def _read(file: Path, *, waits: bool = True) -> str:
    """The token in a file. From a pipe it comes when its writer writes; `waits` says whether to wait for that."""
    flags = 0 if waits else os.O_NONBLOCK
    with os.fdopen(os.open(file, os.O_RDONLY | flags), "rb") as opened:
        return (opened.read(_MOST_BYTES) or b"").decode("ascii", errors="replace").strip()


def _identity(file: Path) -> tuple[int, int, int]:
    """Something that changes with the contents."""
    status = file.stat()
    return status.st_mtime_ns, status.st_size, status.st_ino


def refusal() -> AccessError:
    """The error for a call without the token."""
    return AccessError(
        "this server asks for `authorization: Bearer TOKEN`, and the call has none or another; give the client token="
    )
