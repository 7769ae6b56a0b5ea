"""What a tool returned, as the text that the model reads."""

from __future__ import annotations

import json
from typing import Any

from chatenv_server.user_objects import text_of as text_of_error


class BadResultError(Exception):
    """A tool returned what is neither a text nor JSON."""


def text_of(result: Any) -> str:
    """A text as it is; anything else as JSON.

    Raises:
        BadResultError: it is no text and no JSON.
    """
    if isinstance(result, str):
        return result
    try:
        return json.dumps(result, ensure_ascii=False, allow_nan=False)
    except RecursionError as error:
        raise BadResultError(f"it returned a {type(result).__name__} that is nested too deeply for JSON") from error
    except Exception as error:
        raise BadResultError(f"it returned a {type(result).__name__} that cannot be written as JSON") from error


def cut(text: str, most: int) -> str:
    """The beginning of a text, `most` characters of it, and then how many were cut off.

    Half of a surrogate pair, which no message could carry, becomes a question mark.
    """
    begun = text[:most].encode("utf-8", "replace").decode("utf-8")
    if len(text) <= most:
        return begun
    return f"{begun}\n[{len(text) - most:,} of {len(text):,} characters cut off]"


def error_text(error: BaseException) -> str:
    """What an exception says, in one line."""
    said = " ".join(text_of_error(error).split())
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
