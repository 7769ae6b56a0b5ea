"""JSON text in protobuf fields: strict both ways, with errors that name the field.

What was read is never longer when it is written again: numbers keep the spelling that they came with.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import numpy as np

from chatenv_client.errors import InvalidRequestError
from chatenv_client.reasons import Reason
from chatenv_client.tokens import as_numpy

MAX_JSON_DEPTH: Final = 64
"""Deeper values would overflow the stack of whoever renders or writes them."""

MAX_JSON_CHARACTERS: Final = 2**20
"""Of one field. As Python objects a text takes many times its size, and metadata goes along with every answer."""


class Bounds(NamedTuple):
    """What a JSON text is held to."""

    depth: int
    characters: float


_FIELD: Final = Bounds(MAX_JSON_DEPTH, MAX_JSON_CHARACTERS)
OF_FILES: Final = Bounds(2 * MAX_JSON_DEPTH, math.inf)
"""Of a text in a file. A message there is whole, with fields as deep as they may be and a content of any length."""


class SpelledFloat(float):
    """A number that a JSON text spelled otherwise than Python: `1e15`, `1.50`. It is written as it was spelled."""

    __slots__ = ("spelling",)

    spelling: str

    @classmethod
    def of(cls, text: str) -> float:
        """The number of a JSON text, as a plain float where Python spells it so, too.

        Raises:
            ValueError: it is beyond the range of a float.
        """
        number = cls(text)
        if not math.isfinite(number):
            raise ValueError("a number is beyond the range of a float")
        if float.__repr__(number) == text:
            return float(number)
        number.spelling = text
        return number

    def __deepcopy__(self, memo: dict[int, Any]) -> SpelledFloat:
        return self

    def __reduce__(self) -> tuple[type[float], tuple[float]]:
        return float, (float(self),)


def plain(value: Any) -> Any:
    """A value with Python's numbers and lists in the place of numpy's and torch's. Its mappings and lists are copied.

    What is deeper than JSON may be stays as it is: it is refused where it is written.
    """
    return _plain(value, 0, {})


def _plain(value: Any, depth: int, known: dict[int, Any]) -> Any:
    if isinstance(value, np.generic):  # numpy's float64 is a Python float, too
        return value.item()
    if value is None or isinstance(value, str | bool | int | float) or depth > MAX_JSON_DEPTH:
        return value
    if id(value) not in known:  # one that stands in many places is copied once
        known[id(value)] = _copied(value, depth + 1, known)
    return known[id(value)]


def _copied(value: Any, depth: int, known: dict[int, Any]) -> Any:
    if isinstance(value, Mapping):
        return {
            key.item() if isinstance(key, np.generic) else key: _plain(item, depth, known)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_plain(item, depth, known) for item in value]
    if isinstance(value, np.ndarray) or hasattr(value, "detach"):
        return as_numpy(value).tolist()
    return value


def plain_json(value: Any, field: str, reason: Reason) -> Any:
    """A value as JSON can be made of it: itself, or a copy with Python's numbers where it has some of numpy's.

    Raises:
        InvalidRequestError: see `dump_json`.
    """
    try:
        dump_json(value, field, reason)
    except InvalidRequestError:
        value = plain(value)
        dump_json(value, field, reason)
    return value


def dump_json(value: Any, field: str, reason: Reason, *, what: str = "", bounds: Bounds = _FIELD) -> str:
    """JSON text of a value. Errors speak of `what` where that says more than the field, which is logged.

    Raises:
        InvalidRequestError: the value is not JSON (NaN, Infinity and half a surrogate pair are not), too deep or too
            long.
    """
    try:
        is_spelled = _check_depth(value, bounds)
        return _checked_text(_written(value) if is_spelled else _dumps(value), bounds)
    except (TypeError, ValueError) as error:
        message = f"{what or field} cannot be written as JSON: {error}"
        raise InvalidRequestError(message, reason=reason, field=field) from error


def check_keys(value: Any, field: str, reason: Reason) -> None:
    """See that all keys in a value that can be written are texts: Python writes a number as a text, and so changes it.

    Raises:
        InvalidRequestError: one is none.
    """
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                message = f"{field} cannot be written as JSON: keys are texts, and {key!r} is a {type(key).__name__}"
                raise InvalidRequestError(message, reason=reason, field=field)
            check_keys(item, field, reason)
    elif isinstance(value, list | tuple):
        for item in value:
            check_keys(item, field, reason)


def _written(value: Any) -> str:
    """As `_dumps`, but with numbers as they were spelled; slower."""
    if isinstance(value, SpelledFloat):
        return value.spelling
    if isinstance(value, dict):
        return "{" + ",".join(_dumps({key: None})[1:-5] + _written(item) for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_written, value)) + "]"
    return _dumps(value)


def _dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def load_json(text: str, field: str, reason: Reason, *, bounds: Bounds = _FIELD) -> Any:
    """The value of a JSON text.

    Raises:
        InvalidRequestError: the text is not JSON (NaN and Infinity are not), too deep or too long.
    """
    try:
        value = _DECODER.decode(_checked_length(text, bounds))
        _check_depth(value, bounds)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()  # refuses halves of surrogate pairs
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError(f"{field} is not valid JSON: {error}", reason=reason, field=field) from error
    return value


def load_object(text: str, field: str, reason: Reason, *, bounds: Bounds = _FIELD) -> dict[str, Any]:
    """The object of a JSON text; an empty text is an empty object.

    Raises:
        InvalidRequestError: the text is not a JSON object.
    """
    value = load_json(text, field, reason, bounds=bounds) if text else {}
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


def _checked_length(text: str, bounds: Bounds) -> str:
    if len(text) > bounds.characters:
        raise _too_long(bounds)
    return text


def _checked_text(text: str, bounds: Bounds) -> str:
    if not text.isascii():
        text.encode()  # refuses halves of surrogate pairs
    return _checked_length(text, bounds)


def _too_long(bounds: Bounds) -> ValueError:
    return ValueError(f"longer than {bounds.characters} characters")


def _check_depth(value: Any, bounds: Bounds) -> bool:
    """Whether a number in the value has a spelling of its own.

    Raises:
        ValueError: the value is too deep, or surely too long.
    """
    level, depth, count, is_spelled = [value], 0, 0, False
    while level:
        depth += 1
        if depth > bounds.depth:
            raise ValueError(f"deeper than {bounds.depth} levels")
        count += len(level)  # each is written as a character or more, a value that stands in many places in each
        if count > bounds.characters:
            raise _too_long(bounds)
        is_spelled = is_spelled or any(isinstance(item, SpelledFloat) for item in level)
        level = [child for item in level for child in _children(item)]
    return is_spelled


def _children(value: Any) -> list[Any]:
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return [child for child in children if isinstance(child, dict | list | tuple | SpelledFloat)]


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_DECODER: Final = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=SpelledFloat.of)
