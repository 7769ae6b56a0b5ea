"""Lines appended to files in a folder: each process to its own, whole lines only, and tails of the dead cut off.

What a line says, `archive.py` knows.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import tempfile
import uuid
from datetime import datetime, timezone
from pathlib import Path
from typing import Final

PREFIX: Final = "episodes-"
_READ_BYTES: Final = 2**20

_LOG: Final = logging.getLogger(__name__)


class ArchiveFiles:
    """Appends lines to the newest file of this process. Not safe for threads.

    A file is locked for as long as its process appends to it, so that nobody takes a line under way for one cut off.

    Args:
        folder: is made where there is none. What processes that were killed have left half is cut off.
        max_bytes: at which a file is full, and another one begun.

    Raises:
        OSError: nobody can write there.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder = folder
        self._max_bytes = max_bytes
        self._name = uuid.uuid4().hex[:8]
        self._file: int | None = None
        self._length = 0
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        for path in sorted(folder.glob(f"{PREFIX}*.jsonl")):
            _repair(path)

    def append(self, line: bytes) -> None:
        """Append a line, which ends with a line feed.

        Raises:
            OSError: it cannot be written; nothing of it is in a file.
        """
        file = self._open()
        try:
            left = memoryview(line)
            while left:
                left = left[os.write(file, left) :]
        except OSError:
            self._take_back(file)
            raise
        self._length += len(line)
        if self._length >= self._max_bytes:
            self.close()

    def close(self) -> None:
        """Have what was appended reach the disk; the next line begins another file."""
        if self._file is None:
            return
        file, self._file = self._file, None
        try:
            os.fsync(file)
        finally:
            os.close(file)

    def _open(self) -> int:
        """The newest file, unless somebody has removed it."""
        if self._file is not None and not os.fstat(self._file).st_nlink:
            self._give_up()
        if self._file is None:
            moment = f"{datetime.now(timezone.utc):%Y%m%dT%H%M%S.%fZ}"
            path = self.folder / f"{PREFIX}{moment}-{self._name}.jsonl"
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o666)
            self._length = 0
            with contextlib.suppress(OSError):  # not every file system has locks
                fcntl.flock(self._file, fcntl.LOCK_EX)
        return self._file

    def _take_back(self, file: int) -> None:
        """Cut off a line that was not written whole; else nothing more goes into this file."""
        try:
            os.ftruncate(file, self._length)
        except OSError:
            self._give_up()

    def _give_up(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _repair(path: Path) -> None:
    """Cut off a last line without an end, unless a process still writes it."""
    try:
        with path.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            length = file.seek(0, os.SEEK_END)
            whole = _whole_length(file.fileno(), length)
            if whole < length:
                file.truncate(whole)
                _LOG.warning("archive repaired", extra={"file": path.name, "bytes_cut_off": length - whole})
    except OSError:
        pass  # another process writes it, or it is not ours to write; who reads it leaves such a line out


def _whole_length(file: int, length: int) -> int:
    """Through the last end of a line."""
    while length:
        start = max(0, length - _READ_BYTES)
        found = os.pread(file, length - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        length = start
    return 0
