"""The bearer token: client and server check here that a header can carry it."""

from __future__ import annotations

from typing import Final

MAX_TOKEN_CHARACTERS: Final = 4096
"""All headers of a call together may take 8 KiB."""


def checked_token(token: str) -> str:
    """The token as given.

    Raises:
        TypeError: it is no text.
        ValueError: no header can carry it. The message does not quote it.
    """
    if not isinstance(token, str):
        raise TypeError(f"a bearer token is a str, not {type(token).__name__}")
    if not (token.isascii() and token.isprintable()):
        raise ValueError("a bearer token is made of printable ASCII characters; this one has others")
    if len(token) > MAX_TOKEN_CHARACTERS:
        raise ValueError(f"a bearer token has up to {MAX_TOKEN_CHARACTERS} characters, and this one {len(token)}")
    return token
