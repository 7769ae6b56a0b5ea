"""The checksum of a journal's entry: tells an entry that was altered, or stands in another place than it was put."""

from __future__ import annotations

import zlib


def checksum(run: str, version: int, entry: bytes) -> int:
    """Of the entry that stands in a run after `version` others: 32 bits."""
    return zlib.crc32(entry, zlib.crc32(f"{run} {version} ".encode()))
