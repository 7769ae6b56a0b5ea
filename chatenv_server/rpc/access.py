"""Decides who may call: the bearer token."""

from __future__ import annotations

import hmac
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from chatenv_client.bearer import checked_token
from chatenv_client.errors import AccessError

_SCHEME: Final = "bearer "

_LOG: Final = logging.getLogger(__name__)


class BearerToken:
    """The token that calls must carry. One from a file is read again when the file changes.

    Raises:
        ValueError: the token is empty, or no header can carry it.
        OSError: the file cannot be read.
    """

    def __init__(self, token: str = "", file: str = "") -> None:
        self._file = Path(file) if file else None
        self._read_at = None if self._file is None else _identity(self._file)
        self._token = token if self._file is None else _read(self._file)
        if not checked_token(self._token):
            raise ValueError("the bearer token is empty")

    def check(self, metadata: Sequence[tuple[str, str | bytes]]) -> None:
        """Raise AccessError unless a call's metadata carries the token."""
        self._refresh()
        given = str(dict(metadata).get("authorization", ""))
        is_bearer = given[: len(_SCHEME)].lower() == _SCHEME
        if not (is_bearer and hmac.compare_digest(given[len(_SCHEME) :].encode(), self._token.encode())):
            raise AccessError(
                "this server asks for `authorization: Bearer TOKEN`, and the call has none or another; "
                "give the client token="
            )

    def _refresh(self) -> None:
        if self._file is None:
            return
        try:
            identity = _identity(self._file)
        except OSError:
            return  # gone for a moment, while it is being replaced: the token read last stays valid
        if identity == self._read_at:
            return
        self._read_at = identity
        try:
            self._token = checked_token(_read(self._file)) or self._token
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            _LOG.warning("bearer token kept: its file holds none that works", extra={"reason": reason})


def _read(file: Path) -> str:
    return file.read_text(encoding="ascii", errors="replace").strip()


def _identity(file: Path) -> tuple[int, int, int]:
    """Something that changes with the contents."""
    status = file.stat()
    return status.st_mtime_ns, status.st_size, status.st_ino
