"""JSON text in protobuf fields: strict both ways, with errors that name the field."""

from __future__ import annotations

import json
import math
from typing import Any, Final

from chatenv_client.errors import InvalidRequestError
from chatenv_client.reasons import Reason

MAX_JSON_DEPTH: Final = 64
"""Deeper values would overflow the stack of whoever renders or writes them."""

MAX_JSON_CHARACTERS: Final = 2**20
"""Of one field. As Python objects a text takes many times its size, and metadata goes along with every answer."""


def dump_json(value: Any, field: str, reason: Reason) -> str:
    """JSON text of a value.

    Raises:
        InvalidRequestError: the value is not JSON (NaN and Infinity are not), too deep or too long.
    """
    try:
        _check_depth(value)
        return _checked_length(json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")))
    except (TypeError, ValueError) as error:
        raise InvalidRequestError(f"{field} cannot be written as JSON: {error}", reason=reason, field=field) from error


def load_json(text: str, field: str, reason: Reason) -> Any:
    """The value of a JSON text.

    Raises:
        InvalidRequestError: the text is not JSON (NaN and Infinity are not), too deep or too long.
    """
    try:
        value = _DECODER.decode(_checked_length(text))
        _check_depth(value)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()  # refuses halves of surrogate pairs
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError(f"{field} is not valid JSON: {error}", reason=reason, field=field) from error
    return value


def load_object(text: str, field: str, reason: Reason) -> dict[str, Any]:
    """The object of a JSON text; an empty text is an empty object.

    Raises:
        InvalidRequestError: the text is not a JSON object.
    """
    value = load_json(text, field, reason) if text else {}
    if not isinstance(value, dict):
        raise InvalidRequestError(f"{field} must be a JSON object", reason=reason, field=field)
    return value


def load_objects(text: str, field: str, reason: Reason) -> list[dict[str, Any]]:
    """The array of objects of a JSON text.

    Raises:
        InvalidRequestError: the text is not a JSON array of objects.
    """
    value = load_json(text, field, reason)
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise InvalidRequestError(f"{field} must be a JSON array of objects", reason=reason, field=field)
    return value


def _checked_length(text: str) -> str:
    if len(text) > MAX_JSON_CHARACTERS:
        raise ValueError(f"longer than {MAX_JSON_CHARACTERS} characters")
    return text


def _check_depth(value: Any) -> None:
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > MAX_JSON_DEPTH:
            raise ValueError(f"deeper than {MAX_JSON_DEPTH} levels")
        level = [child for item in level for child in _children(item)]


def _children(value: Any) -> list[Any]:
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return [child for child in children if isinstance(child, dict | list | tuple)]


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is beyond the range of a number")
    return number


_DECODER: Final = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite)
