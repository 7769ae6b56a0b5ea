"""Columns: what an engine knows of each sampled token beside its logprob, opaque to chatenv.

An action carries them as arrays of a row a token, a segment gives them back with the tokens that they belong to.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from chatenv_client.tokens import Int32Array, as_numpy

Rows = npt.NDArray[Any]
"""(n, ...) of any number type: a row a token."""

DTYPES: Final = frozenset(
    {
        "bool",
        *("int8", "int16", "int32", "int64"),
        *("uint8", "uint16", "uint32", "uint64"),
        *("float16", "float32", "float64"),
    }
)
"""Types of a column's values."""


NO_COLUMNS: Final[Mapping[str, Rows]] = {}


class ColumnRows(NamedTuple):
    """Rows of one column for consecutive tokens of a segment. Later ones replace earlier ones of the same tokens."""

    name: str
    start: int
    """First token."""
    rows: Rows


@dataclass(frozen=True, eq=False)
class Column:
    """One column of a segment."""

    positions: Int32Array
    """(k,) int32, the tokens that have a row, ascending."""
    rows: Rows
    """(k, ...), their rows, bit for bit as given."""

    def first(self, length: int) -> Column:
        """The column of the first `length` tokens."""
        count = int(np.searchsorted(self.positions, length))
        return self if count == len(self.positions) else Column(self.positions[:count], self.rows[:count])

    def spread(self, length: int, fill: Any = 0) -> Rows:
        """(length, ...): a row for each token, of `fill` where none was given."""
        spread = np.full((length, *self.rows.shape[1:]), fill, dtype=self.rows.dtype)
        spread[self.positions] = self.rows
        return spread


def as_rows(values: Any) -> Rows:
    """An array of rows (tensor, array or list) as one of its own, little-endian.

    Raises:
        TypeError: the values are no numbers, or of a type that has no name on the wire.
        ValueError: it is a single value.
    """
    array = as_numpy(values)
    if array.ndim == 0:
        raise ValueError("a column is an array with a row for each token")
    if array.dtype.name not in DTYPES:
        raise TypeError(f"a column holds numbers ({', '.join(sorted(DTYPES))}), not {array.dtype}")
    return np.array(array, dtype=array.dtype.newbyteorder("<"), order="C", copy=True)


def as_columns(columns: Mapping[str, Any]) -> dict[str, Rows]:
    """Columns by name, each as `as_rows` makes it."""
    return {name: as_rows(values) for name, values in columns.items()}


def as_single_rows(rows: Mapping[str, Any]) -> dict[str, Rows]:
    """Rows of one token by name, each as `as_rows` makes it."""
    return {name: as_rows(as_numpy(row)[None])[0, ...] for name, row in rows.items()}


def columns_of(entries: Iterable[ColumnRows]) -> dict[str, Column]:
    """The columns of a segment, of their rows in the order in which they came."""
    by_name: dict[str, list[ColumnRows]] = {}
    for entry in entries:
        by_name.setdefault(entry.name, []).append(entry)
    return {name: _joined(rows) for name, rows in by_name.items()}


def _joined(entries: list[ColumnRows]) -> Column:
    positions = np.concatenate([np.arange(one.start, one.start + len(one.rows)) for one in entries])
    rows = np.concatenate([one.rows for one in entries])
    # The last row of each token counts: of equal positions, `unique` finds the first, here of the reversed.
    ascending, places = np.unique(positions[::-1], return_index=True)
    return Column(ascending.astype(np.int32), rows[::-1][places])
