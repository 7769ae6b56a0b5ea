"""What a command writes to its standard error: read, so that it never blocks, and forgotten but for the end."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, TextIO

KEPT_BYTES: Final = 4096


class LastWords(asyncio.Protocol):
    """The end of what was written."""

    def __init__(self) -> None:
        self._end = b""

    def data_received(self, data: bytes) -> None:
        """Keep the end. Called by asyncio."""
        self._end = (self._end + data)[-KEPT_BYTES:]

    @property
    def line(self) -> str:
        """The last line with anything in it, which of a Python command is the exception that ended it."""
        lines = self._end.decode("utf-8", "replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    @asynccontextmanager
    async def file(self) -> AsyncIterator[TextIO]:
        """A file for a command to write to."""
        reading, writing = os.pipe()
        loop = asyncio.get_running_loop()
        with os.fdopen(writing, "w") as file:
            transport, _ = await loop.connect_read_pipe(lambda: self, os.fdopen(reading, "rb", 0))
            try:
                yield file
            finally:
                transport.close()
