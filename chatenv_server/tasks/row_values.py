"""Rows as JSON: of Parquet, and of lists that are given in-process.

Owns what becomes of values that JSON does not have. What has no form here is refused by its row and key.
"""

from __future__ import annotations

import base64
import datetime as dt
import decimal
import json
import math
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np

_Written = tuple[type | tuple[type, ...], Callable[[Any], Any]]


def text_of_row(row: Any, place: int) -> str:
    """The JSON text of a row.

    Raises:
        ValueError: it is no mapping, or a value in it can be no JSON.
    """
    if not isinstance(row, Mapping):
        raise ValueError(f"row {place} is a {type(row).__name__}, and no mapping")  # noqa: TRY004 - told as every fault of rows
    try:
        return json.dumps({_key(key): _of_column(key, value) for key, value in row.items()})
    except _NoJsonError as error:
        raise ValueError(f"row {place}: {error}") from error


class _NoJsonError(Exception):
    """A value that can be no JSON. Says why."""


def _of_column(name: str, value: Any) -> Any:
    try:
        return _plain(value)
    except _NoJsonError as error:
        raise _NoJsonError(f"{name!r} holds {error}") from error
    except RecursionError as error:
        raise _NoJsonError(f"{name!r} is nested too deeply") from error


def _plain(value: Any) -> Any:
    """A value as JSON has it. Raises _NoJsonError."""
    if value is None or isinstance(value, str | int):  # a bool is an int
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise _NoJsonError(f"{float(value)}, which is not JSON")
        return float(value)
    if isinstance(value, Mapping):
        return {_key(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    for kind, written in _WRITTEN:
        if isinstance(value, kind):
            return written(value)
    raise _NoJsonError(f"a {type(value).__name__}, which is not JSON")


def _key(key: Any) -> str:
    if not isinstance(key, str):
        raise _NoJsonError(f"the key {key!r} is a {type(key).__name__}, and no text")
    return key


def _of_array(array: np.ndarray[Any, Any]) -> Any:
    if array.dtype.kind not in "biufUO":  # dates of numpy become bare numbers
        raise _NoJsonError(f"an array of {array.dtype}, which is not JSON")
    return _plain(array.tolist())


_WRITTEN: Final[tuple[_Written, ...]] = (
    ((dt.date, dt.time), lambda value: value.isoformat()),  # a datetime is a date
    ((decimal.Decimal, uuid.UUID), str),
    ((bytes, bytearray, memoryview), lambda value: base64.b64encode(value).decode()),
    ((np.bool_, np.integer, np.floating), lambda value: _plain(value.item())),
    (np.ndarray, _of_array),
)
"""What becomes of the values of other types."""
