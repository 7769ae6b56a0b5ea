"""Trajectories as JSON Lines: a JSON object a line, with the columns of docs/training.md."""

from __future__ import annotations

import base64
import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import IO, Any, Final

import numpy as np
import numpy.typing as npt

from chatenv_client.exports.records import record_of, trajectory_of
from chatenv_client.models import Trajectory
from chatenv_client.tokens import Float32Array, as_token_ids

_NAN: Final = np.float32(np.nan)
_ARRAYS: Final = ("tokens", "loss_mask", "logprobs")
"""Of a segment, with a value a token."""
_AT_ONCE: Final = 4096
"""Values made text of at a time: `json` lets no other thread work meanwhile."""


def write_lines(
    file: IO[bytes], trajectories: Iterable[Trajectory], line: Callable[[Trajectory], bytes] | None = None
) -> int:
    """Write a line for each, as `line_of` or another function makes it; how many they are."""
    make, count = line or line_of, 0
    for count, trajectory in enumerate(trajectories, 1):  # noqa: B007 - the last number is the answer
        file.write(make(trajectory))
    return count


def plain_line(value: Any) -> bytes:
    """A value as a line, its end included."""
    return _dump(value).encode() + b"\n"


def line_of(trajectory: Trajectory) -> bytes:
    """A trajectory as a line, its end included."""
    record = record_of(trajectory)
    segments = ",".join(map(_segment_text, record.pop("segments")))
    texts = {name: _dump(value) for name, value in record.items()}
    return _object_text({**texts, "segments": f"[{segments}]"}).encode() + b"\n"


def _segment_text(segment: dict[str, Any]) -> str:
    """A segment in JSON's types. JSON has no NaN: null stands for a logprob that was not given."""
    logprobs: Float32Array = segment["logprobs"]
    encoded = None if _is_told_by_numbers(logprobs) else _text_of(logprobs.astype("<f4").tobytes())
    extras = [{**entry, "data": _text_of(entry["data"])} for entry in segment["extras"]]
    fields = {**segment, "logprobs_base64": encoded, "extras": extras}
    return _object_text(
        {name: _array_text(value) if name in _ARRAYS else _dump(value) for name, value in fields.items()}
    )


def _is_told_by_numbers(logprobs: Float32Array) -> bool:
    """Whether each is a number, or the NaN that null is read as."""
    return bool((np.isfinite(logprobs) | (logprobs.view(np.uint32) == _NAN.view(np.uint32))).all())


def _array_text(values: npt.NDArray[Any]) -> str:
    pieces = (values[start : start + _AT_ONCE] for start in range(0, len(values), _AT_ONCE))
    return "[" + ",".join(_dump(_plain(piece))[1:-1] for piece in pieces) + "]"


def _plain(values: npt.NDArray[Any]) -> list[Any]:
    numbers: list[Any] = values.tolist()
    if values.dtype != np.float32:
        return numbers
    return [number if is_one else None for number, is_one in zip(numbers, np.isfinite(values).tolist(), strict=True)]


def _object_text(fields: Mapping[str, str]) -> str:
    return "{" + ",".join(f'"{name}":{text}' for name, text in fields.items()) + "}"


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _as_floats(values: list[float | None]) -> Float32Array:
    return np.array([_NAN if value is None else value for value in values], dtype=np.float32)


def _bits(encoded: str) -> Float32Array:
    return np.frombuffer(base64.b64decode(encoded), "<f4").astype(np.float32)


def _text_of(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def read_lines(file: IO[bytes]) -> Iterator[Trajectory]:
    """The trajectories of a file, one by one.

    A last line without an end that is no JSON was cut off while it was written: it is left out, with a warning.

    Raises:
        ValueError: a line is no record of one; the message says which.
    """
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            record = _loaded(line)
            if record is None:
                place = f"{getattr(file, 'name', 'a stream')}: line {number}"
                warnings.warn(f"{place} is cut off at the end of the file, and is left out", stacklevel=2)
                return
            if not isinstance(record, dict):
                raise ValueError("it is no JSON object")  # noqa: TRY004, TRY301 - of the file, not of an argument
            yield _trajectory(record)
        except ValueError as error:
            raise ValueError(f"line {number} cannot be read: {error}") from error


def _loaded(line: bytes) -> Any:
    """What a line says; None: it is cut off."""
    try:
        return json.loads(line)
    except ValueError:
        if line.endswith(b"\n"):
            raise
        return None


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
