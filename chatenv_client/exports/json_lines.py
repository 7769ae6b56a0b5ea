"""Trajectories as JSON Lines: a JSON object a line, with the columns of docs/training.md."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import IO, Any

import numpy as np

from chatenv_client.exports.records import record_of, trajectory_of
from chatenv_client.models import Trajectory
from chatenv_client.tokens import Float32Array, as_token_ids


def write_lines(file: IO[bytes], trajectories: Iterable[Trajectory]) -> int:
    """Write a line for each; how many they are."""
    count = 0
    for count, trajectory in enumerate(trajectories, 1):  # noqa: B007 - the last number is the answer
        record = record_of(trajectory)
        record["segments"] = [_plain(segment) for segment in record["segments"]]
        file.write(json.dumps(record, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode() + b"\n")
    return count


def _plain(segment: dict[str, Any]) -> dict[str, Any]:
    """A segment in JSON's types. JSON has no NaN: null stands for a logprob that was not given."""
    logprobs: Float32Array = segment["logprobs"]
    is_number = np.isfinite(logprobs)
    values = [value if is_one else None for value, is_one in zip(logprobs.tolist(), is_number.tolist(), strict=True)]
    return {
        **segment,
        "tokens": segment["tokens"].tolist(),
        "loss_mask": segment["loss_mask"].tolist(),
        "logprobs": values,
        "logprobs_base64": None if _is_told_by(values, logprobs) else _text_of(logprobs.astype("<f4").tobytes()),
        "extras": [{**entry, "data": _text_of(entry["data"])} for entry in segment["extras"]],
    }


def _is_told_by(values: list[float | None], logprobs: Float32Array) -> bool:
    return _as_floats(values).tobytes() == logprobs.tobytes()


def _as_floats(values: list[float | None]) -> Float32Array:
    return np.array([np.nan if value is None else value for value in values], dtype=np.float32)


def _bits(encoded: str) -> Float32Array:
    return np.frombuffer(base64.b64decode(encoded), "<f4").astype(np.float32)


def _text_of(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def read_lines(file: IO[bytes]) -> Iterator[Trajectory]:
    """The trajectories of a file, one by one.

    Raises:
        ValueError: a line is no record of one; the message says which.
    """
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            if not isinstance(record, dict):
                raise ValueError("it is no JSON object")  # noqa: TRY004, TRY301 - of the file, not of an argument
            yield _trajectory(record)
        except ValueError as error:
            raise ValueError(f"line {number} cannot be read: {error}") from error


def _trajectory(record: dict[str, Any]) -> Trajectory:
    segments = [_arrays(segment) for segment in record.get("segments") or ()]
    return trajectory_of({**record, "segments": segments})


def _arrays(segment: Mapping[str, Any]) -> dict[str, Any]:
    encoded = segment.get("logprobs_base64")
    return {
        **segment,
        "tokens": as_token_ids(segment["tokens"]),
        "loss_mask": np.array(segment["loss_mask"], dtype=np.bool_),
        "logprobs": _as_floats(segment["logprobs"]) if encoded is None else _bits(encoded),
        "extras": [{**entry, "data": base64.b64decode(entry["data"])} for entry in segment["extras"]],
    }
