"""Decides who may call: the bearer token."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from chatenv_client.errors import AccessError

_SCHEME: Final = "bearer "


class BearerToken:
    """The token that calls must carry. One from a file is read again when the file changes.

    Raises:
        ValueError: the token is empty.
        OSError: the file cannot be read.
    """

    def __init__(self, token: str = "", file: str = "") -> None:
        self._file = Path(file) if file else None
        self._read_at: Any = None
        self._token = token.encode()
        self._refresh()
        if not self._token:
            raise ValueError("the bearer token is empty")

    def check(self, metadata: Sequence[tuple[str, str | bytes]]) -> None:
        """Raise AccessError unless a call's metadata carries the token."""
        self._refresh()
        given = str(dict(metadata).get("authorization", ""))
        is_bearer = given[: len(_SCHEME)].lower() == _SCHEME
        if not (is_bearer and hmac.compare_digest(given[len(_SCHEME) :].encode(), self._token)):
            raise AccessError(
                "this server asks for `authorization: Bearer TOKEN`, and the call has none or another; "
                "give the client token="
            )

    def _refresh(self) -> None:
        if self._file is None:
            return
        try:
            status = self._file.stat()
            seen = (status.st_mtime_ns, status.st_size, status.st_ino)
            if seen != self._read_at:
                self._token = self._file.read_bytes().strip() or self._token
                self._read_at = seen
        except OSError:
            if self._read_at is None:
                raise
            # A file that is being replaced may be gone for a moment: the token read last stays valid.
