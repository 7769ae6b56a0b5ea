"""Reads files of rows: JSONL and Parquet."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

from chatenv_client.distribution import needing
from chatenv_server.tasks.row_values import text_of_row
from chatenv_server.tasks.rows import Split
from chatenv_server.user_objects import text_of


def split_of(path: Path) -> Split:
    """The rows of a file: of Parquet where its name says so, else a JSON object a line.

    Raises:
        OSError: it cannot be read.
        ValueError: it holds no rows.
    """
    if path.suffix == ".parquet":
        return Split(_texts_of_parquet(path))
    lines = dict(_lines_of(path))
    return Split(list(lines.values()), list(lines))


def _lines_of(path: Path) -> Iterator[tuple[int, str]]:
    """The lines that are not empty, by their numbers from 1."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(f"line {number} is not UTF-8; give JSONL, or Parquet as *.parquet") from error
            if text.strip():
                yield number, text


def _texts_of_parquet(path: Path) -> list[str]:
    with needing("parquet", "rows of a Parquet file"):
        import pyarrow as pa
        from pyarrow import parquet

    try:
        table = parquet.read_table(path)
    except pa.ArrowException as error:
        raise ValueError(f"it is no Parquet that can be read ({error})") from error
    names = table.column_names
    if len(set(names)) < len(names):
        raise ValueError("two of its columns have one name")
    columns = [_values(column, name) for name, column in zip(names, table.columns, strict=True)]
    rows = (dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True))
    return list(map(text_of_row, rows, count()))


def _values(column: Any, name: str) -> list[Any]:
    values: list[Any] = []
    try:
        values.extend(value.as_py() for value in column)
    except Exception as error:  # of many kinds: nanoseconds, years beyond 9999, time zones that are not there
        what = f"row {len(values)}: {name!r} holds what Python cannot hold: {text_of(error)}"
        raise ValueError(what) from error
    return values
