"""Reads the value of one setting from text. Each reader raises ValueError saying what would be right."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

MAX_UNIX_PATH_BYTES: Final = 107
"""What Linux keeps for the path of a socket, less the closing zero."""

_TRUE: Final = frozenset({"1", "true", "yes", "on"})
_FALSE: Final = frozenset({"0", "false", "no", "off"})


def text(text: str) -> str:
    """Any text."""
    return text


def switch(text: str) -> bool:
    """True or false, in the usual words."""
    word = text.lower()
    if word not in _TRUE | _FALSE:
        raise ValueError("must be true or false")
    return word in _TRUE


def whole(low: int, high: int = 2**31 - 1) -> Callable[[str], int]:
    """A whole number within bounds."""

    def parse(text: str) -> int:
        if not (text.isascii() and text.isdecimal() and low <= int(text) <= high):
            raise ValueError(f"must be a whole number from {low} to {high}")
        return int(text)

    return parse


def seconds(low: float) -> Callable[[str], float]:
    """A finite number of seconds."""

    def parse(text: str) -> float:
        try:
            seconds = float(text)
        except ValueError:
            seconds = math.nan
        if not low <= seconds < math.inf:
            raise ValueError(f"must be a number of seconds, at least {low:g}")
        return seconds

    return parse


def choice(*values: str) -> Callable[[str], str]:
    """One of some words."""

    def parse(text: str) -> str:
        if text not in values:
            raise ValueError(f"must be one of {', '.join(values)}")
        return text

    return parse


def mode(text: str) -> int:
    """A file mode in octal digits."""
    try:
        mode = int(text, base=8)
    except ValueError:
        mode = -1
    if not 0 <= mode <= 0o777:
        raise ValueError("must be an octal file mode such as 600 or 660")
    return mode


def file(text: str) -> str:
    """The path of a file that can be read."""
    if not os.access(text, os.R_OK) or Path(text).is_dir():
        raise ValueError(f"must be a file that the server may read; {text!r} is none")
    return text


def texts(text: str) -> tuple[str, ...]:
    """Texts separated by commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def addresses(text: str) -> tuple[str, ...]:
    """Addresses separated by commas."""
    return tuple(address(part.strip()) for part in text.split(",") if part.strip())


def tcp_address(text: str) -> str:
    """HOST:PORT or [IPV6]:PORT."""
    if text.startswith("unix:"):
        raise ValueError(f"must be HOST:PORT, not {text!r}")
    return address(text)


def address(text: str) -> str:
    """HOST:PORT, [IPV6]:PORT or unix:///PATH."""
    if text.startswith("unix://"):
        path = text.removeprefix("unix://")
        if not path.startswith("/") or len(os.fsencode(path)) > MAX_UNIX_PATH_BYTES:
            raise ValueError(f"must be unix:///PATH with a path of up to {MAX_UNIX_PATH_BYTES} bytes, not {text!r}")
        return text
    host, colon, port = text.rpartition(":")
    bare_ipv6 = ":" in host and not (host.startswith("[") and host.endswith("]"))
    if not (colon and host and port.isdecimal() and int(port) <= 65535) or bare_ipv6:
        raise ValueError(f"must be HOST:PORT, [IPV6]:PORT or unix:///PATH, not {text!r}")
    return text
