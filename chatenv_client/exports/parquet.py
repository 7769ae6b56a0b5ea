"""Trajectories as Parquet, with the columns of docs/training.md. Needs pyarrow, the extra `parquet`.

Token arrays go into Arrow's as they are: no Python number is made of a token.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from chatenv_client.exports.records import record_of, trajectory_of
from chatenv_client.models import Trajectory

EPISODES_OF_A_GROUP: Final = 500
"""In a row group of the file: as many as are in memory at once."""

_NAMED: Final = pa.list_(pa.struct([("name", pa.string()), ("value", pa.float64())]))
_TURN: Final = pa.struct(
    [
        ("origin", pa.string()),
        ("start", pa.int32()),
        ("length", pa.int32()),
        ("step", pa.int32()),
        ("first_message", pa.int32()),
        ("message_count", pa.int32()),
        ("stop_reason", pa.string()),
        ("model_version", pa.string()),
        ("reward", pa.float64()),
        ("rewards", _NAMED),
        ("has_logprobs", pa.bool_()),
        ("sampled_runs", pa.list_(pa.int32())),
        ("model_version_runs", pa.list_(pa.struct([("version", pa.string()), ("length", pa.int32())]))),
        ("at_ms", pa.int32()),
    ]
)
_REPORT: Final = pa.struct(
    [("kind", pa.string()), ("detail", pa.string()), ("token_index", pa.int32()), ("message_index", pa.int32())]
)
_COLUMN: Final = pa.struct(
    [
        ("name", pa.string()),
        ("start", pa.int32()),
        ("dtype", pa.string()),
        ("shape", pa.list_(pa.int64())),
        ("data", pa.binary()),
    ]
)
_ARRAYS: Final = {"tokens": pa.int32(), "loss_mask": pa.bool_(), "logprobs": pa.float32()}
"""Of a segment, with a value a token."""
_SEGMENT: Final = pa.struct(
    [
        *((name, pa.list_(kind)) for name, kind in _ARRAYS.items()),
        ("turns", pa.list_(_TURN)),
        ("fidelity", pa.list_(_REPORT)),
        ("shared_length", pa.int32()),
        ("extras", pa.list_(_COLUMN)),
    ]
)
SCHEMA: Final = pa.schema(
    [
        ("format", pa.int32()),
        ("episode_id", pa.string()),
        ("group", pa.string()),
        ("seed", pa.int64()),
        ("reward", pa.float64()),
        ("rewards", _NAMED),
        ("terminated", pa.bool_()),
        ("truncated", pa.bool_()),
        ("failure", pa.struct([("kind", pa.string()), ("reason", pa.string())])),
        ("metadata_json", pa.string()),
        ("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
        ("messages_json", pa.list_(pa.string())),
        ("segments", pa.list_(_SEGMENT)),
        ("given_assistants", pa.list_(pa.struct([("start", pa.int32()), ("stop", pa.int32())]))),
    ]
)
"""The columns of a file."""


def write_parquet(path: Path, trajectories: Iterable[Trajectory]) -> int:
    """Write a row for each, group by group; how many they are."""
    count, coming = 0, iter(trajectories)
    # A dictionary of floats would take all NaN for one.
    with pq.ParquetWriter(path, SCHEMA, compression="zstd", use_dictionary=["group", "episode_id"]) as writer:
        while group := list(islice(coming, EPISODES_OF_A_GROUP)):
            writer.write_batch(_batch([record_of(trajectory) for trajectory in group]))
            count += len(group)
    return count


def _batch(records: Sequence[dict[str, Any]]) -> pa.RecordBatch:
    columns = [
        _segments([record["segments"] for record in records])
        if field.name == "segments"
        else pa.array([record[field.name] for record in records], field.type)
        for field in SCHEMA
    ]
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


def _segments(of_episodes: Sequence[Sequence[dict[str, Any]]]) -> pa.ListArray:
    segments = [segment for episode in of_episodes for segment in episode]
    fields = [
        _flat([segment[field.name] for segment in segments], _ARRAYS[field.name])
        if field.name in _ARRAYS
        else pa.array([segment[field.name] for segment in segments], field.type)
        for field in _SEGMENT
    ]
    return pa.ListArray.from_arrays(_offsets(of_episodes), pa.StructArray.from_arrays(fields, fields=list(_SEGMENT)))


def _flat(arrays: Sequence[Any], kind: pa.DataType) -> pa.ListArray:
    """Arrays as lists, without a Python number for any value."""
    values = np.concatenate(arrays) if arrays else np.empty(0, dtype=kind.to_pandas_dtype())
    return pa.ListArray.from_arrays(_offsets(arrays), pa.array(values, kind, from_pandas=False))


def _offsets(parts: Sequence[Any]) -> pa.Array:
    return pa.array(np.cumsum([0, *map(len, parts)]), pa.int32())


def read_parquet(path: Path) -> Iterator[Trajectory]:
    """The trajectories of a file, one by one.

    Raises:
        ValueError: it is no file of them.
    """
    with pq.ParquetFile(path) as file:
        if missing := {field.name for field in SCHEMA} - set(file.schema_arrow.names):
            raise ValueError(f"the file has no column {min(missing)!r}, so it holds no trajectories")
        for batch in file.iter_batches(EPISODES_OF_A_GROUP, columns=SCHEMA.names):
            yield from map(trajectory_of, _records(batch.cast(SCHEMA)))


def _records(batch: pa.RecordBatch) -> Iterator[dict[str, Any]]:
    others = {name: batch.column(name).to_pylist() for name in SCHEMA.names if name != "segments"}
    segments = _read_segments(batch.column("segments"))
    for number in range(len(batch)):
        yield {**{name: values[number] for name, values in others.items()}, "segments": segments[number]}


def _read_segments(column: pa.ListArray) -> list[list[dict[str, Any]]]:
    flat = column.flatten()
    fields = {
        field.name: _read_flat(flat.field(field.name)) if field.name in _ARRAYS else flat.field(field.name).to_pylist()
        for field in _SEGMENT
    }
    each = [{name: values[number] for name, values in fields.items()} for number in range(len(flat))]
    lengths = column.value_lengths().to_pylist()
    ends = np.cumsum([0, *lengths]).tolist()
    return [each[start:stop] for start, stop in pairwise(ends)]


def _read_flat(lists: pa.ListArray) -> list[Any]:
    values = lists.flatten().to_numpy(zero_copy_only=False)
    ends = np.cumsum([0, *lists.value_lengths().to_pylist()]).tolist()
    return [values[start:stop].copy() for start, stop in pairwise(ends)]
