"""Columns of sampled tokens: packed bytes with a name, a type and a shape of rows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np

from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client.errors import InvalidRequestError, ProtocolError
from chatenv_client.models.columns import DTYPES, ColumnRows, Rows
from chatenv_client.reasons import Reason


def write_columns(encoded: Iterable[pb.Column], columns: Mapping[str, Rows]) -> None:
    """Add columns to a repeated field."""
    for name, rows in columns.items():
        _write(encoded.add(), name, rows)  # type: ignore[attr-defined]


def _write(encoded: pb.Column, name: str, rows: Rows) -> None:
    encoded.name = name
    encoded.dtype = rows.dtype.name
    encoded.row_shape.extend(rows.shape[1:])
    encoded.data = rows.tobytes()


def columns_from_request(encoded: Iterable[pb.Column], tokens: int, field: str) -> dict[str, Rows]:
    """Columns of a request, each with a row for each of `tokens`.

    Raises:
        InvalidRequestError: one has another number of bytes, no known type, or the name of another one.
    """
    columns: dict[str, Rows] = {}
    for index, column in enumerate(encoded):
        if column.name in columns:
            raise _refusal(f"there are two columns named {column.name!r}", f"{field}[{index}].name")
        if (wrong := _why_wrong(column, tokens)) is not None:
            raise _refusal(wrong, f"{field}[{index}]")
        columns[column.name] = _rows(column, tokens)
    return columns


def _refusal(what: str, field: str) -> InvalidRequestError:
    return InvalidRequestError(what, reason=Reason.BAD_EXTRAS, field=field)


def _why_wrong(column: pb.Column, tokens: int) -> str | None:
    if column.dtype not in DTYPES:
        return f"a column has no dtype {column.dtype!r}; there are {', '.join(sorted(DTYPES))}"
    expected = tokens * math.prod(column.row_shape) * np.dtype(column.dtype).itemsize
    if len(column.data) != expected:
        return (
            f"column {column.name!r} has {len(column.data)} bytes; {tokens} tokens with rows of shape "
            f"{tuple(column.row_shape)} of {column.dtype} take {expected}"
        )
    return None


def _rows(column: pb.Column, tokens: int) -> Rows:
    dtype = np.dtype(column.dtype).newbyteorder("<")
    return np.frombuffer(column.data, dtype=dtype).reshape(tokens, *column.row_shape)


def column_rows_to_proto(entry: ColumnRows) -> pb.ColumnRows:
    """Rows of one column."""
    encoded = pb.ColumnRows(start=entry.start)
    _write(encoded.column, entry.name, entry.rows)
    return encoded


def column_rows_from_proto(encoded: Iterable[pb.ColumnRows], length: int) -> tuple[ColumnRows, ...]:
    """What was given of a segment's columns.

    Raises:
        ProtocolError: rows do not fit a segment of `length` tokens, or a type is unknown.
    """
    return tuple(_entry(one, length) for one in encoded)


def _entry(encoded: pb.ColumnRows, length: int) -> ColumnRows:
    column = encoded.column
    row_bytes = math.prod(column.row_shape) * np.dtype(column.dtype).itemsize if column.dtype in DTYPES else 0
    count = len(column.data) // row_bytes if row_bytes else 0
    if encoded.start + count > length or _why_wrong(column, count) is not None:
        raise ProtocolError(f"the column {column.name!r} of the server's answer does not fit its tokens")
    return ColumnRows(column.name, encoded.start, _rows(column, count))
