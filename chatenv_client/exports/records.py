"""A trajectory as a record of named values, and back bit for bit: what is alike in every kind of file.

Arrays stay numpy's here; the kinds of files write them in their own ways.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from chatenv_client.models import (
    ColumnRows,
    Failure,
    FidelityKind,
    FidelityReport,
    Message,
    Origin,
    Segment,
    StopReason,
    Trajectory,
    Turn,
    segment_of,
)
from chatenv_client.models.columns import DTYPES
from chatenv_client.reasons import Reason
from chatenv_client.wire.json_fields import OF_FILES, dump_json, load_object

FORMAT: Final = 1
"""Version of the records, and the highest that this release reads."""


def record_of(trajectory: Trajectory) -> dict[str, Any]:
    """The record of a trajectory.

    Raises:
        InvalidRequestError: a message or the metadata is no JSON; of what a server gives, none is.
    """
    failure = trajectory.failure
    # What a failed episode has earned stands on its turns; as its reward somebody would train on it.
    reward, rewards = (trajectory.reward, trajectory.rewards) if failure is None else (None, {})
    return {
        "format": FORMAT,
        "episode_id": trajectory.episode_id,
        "group": trajectory.group,
        "seed": trajectory.seed,
        "reward": reward,
        "rewards": _named(rewards),
        "terminated": trajectory.terminated,
        "truncated": trajectory.truncated,
        "failure": failure and failure.as_json(),
        "metadata_json": dump_json(trajectory.metadata, "metadata", Reason.BAD_METADATA),
        "messages": [_told(message) for message in trajectory.messages],
        "messages_json": [_message_text(message) for message in trajectory.messages],
        "segments": [_segment_record(segment) for segment in trajectory.segments],
        "given_assistants": None
        if trajectory.given_assistants is None
        else [{"start": start, "stop": stop} for start, stop in trajectory.given_assistants],
    }


def _message_text(message: Message) -> str:
    return dump_json(message, "messages", Reason.BAD_MESSAGE, bounds=OF_FILES)


def _message_of(text: str) -> Message:
    return load_object(text, "messages", Reason.BAD_MESSAGE, bounds=OF_FILES)  # type: ignore[return-value]


def _told(message: Message) -> dict[str, Any]:
    """A message as people and trainers read it: its role and its text."""
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(str(part.get("text", "")) for part in content)
    return {"role": message["role"], "content": content}


def _named(rewards: Mapping[str, float]) -> list[dict[str, Any]]:
    return [{"name": name, "value": value} for name, value in rewards.items()]


def _segment_record(segment: Segment) -> dict[str, Any]:
    return {
        "tokens": segment.tokens,
        "loss_mask": segment.loss_mask,
        "logprobs": segment.logprobs,
        "turns": [_turn_record(turn) for turn in segment.turns],
        "fidelity": [
            {
                "kind": report.kind.value,
                "detail": report.detail,
                "token_index": report.token_index,
                "message_index": report.message_index,
            }
            for report in segment.fidelity
        ],
        "shared_length": segment.shared_length,
        "extras": [
            {
                "name": entry.name,
                "start": entry.start,
                "dtype": entry.rows.dtype.name,
                "shape": list(entry.rows.shape),
                "data": entry.rows.tobytes(),
            }
            for entry in segment.column_rows
        ],
    }


def _turn_record(turn: Turn) -> dict[str, Any]:
    return {
        "origin": turn.origin.value,
        "start": turn.start,
        "length": turn.length,
        "step": turn.step,
        "first_message": turn.first_message,
        "message_count": turn.message_count,
        "stop_reason": None if turn.stop_reason is None else turn.stop_reason.value,
        "model_version": turn.model_version,
        "reward": turn.reward,
        "rewards": _named(turn.rewards),
        "has_logprobs": turn.has_logprobs,
        "sampled_runs": list(turn.sampled_runs),
        "model_version_runs": [{"version": version, "length": length} for version, length in turn.model_version_runs],
        "at_ms": turn.at_ms,
    }


def trajectory_of(record: Mapping[str, Any]) -> Trajectory:
    """The trajectory of a record.

    Raises:
        ValueError: it is none that this release reads: of a newer release, or altered so that its parts do not fit.
    """
    if record.get("format") != FORMAT:
        raise ValueError(f"the record is of format {record.get('format')}, and this release reads format {FORMAT}")
    try:
        return _trajectory_of(record)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"the record of episode {record.get('episode_id')!r} lacks or misspells {error}") from error


def _trajectory_of(record: Mapping[str, Any]) -> Trajectory:
    failure, given = record["failure"], record["given_assistants"]
    return Trajectory(
        record["episode_id"],
        tuple(_segment_of(one) for one in record["segments"]),
        record["terminated"],
        record["truncated"],
        None if failure is None else Failure.of(failure["kind"], failure["reason"]),
        tuple(map(_message_of, record["messages_json"])),
        load_object(record["metadata_json"], "metadata", Reason.BAD_METADATA),
        record["seed"],
        record["group"],
        None if given is None else tuple((span["start"], span["stop"]) for span in given),
    )


def _segment_of(record: Mapping[str, Any]) -> Segment:
    tokens, logprobs = record["tokens"], record["logprobs"]
    turns = [_turn_of(one) for one in record["turns"]]
    if len(tokens) != len(logprobs) or sum(turn.length for turn in turns) != len(tokens):
        raise ValueError("a segment has other numbers of tokens, logprobs and tokens of turns")
    given = [logprobs[turn.start : turn.stop] for turn in turns if turn.has_logprobs]
    segment = segment_of(
        tokens,
        turns,
        np.concatenate(given) if given else np.empty(0, dtype=np.float32),
        [_report_of(one) for one in record["fidelity"]],
        shared_length=record["shared_length"],
        column_rows=[_rows_of(one) for one in record["extras"]],
    )
    if not np.array_equal(segment.loss_mask, record["loss_mask"]):
        raise ValueError("a segment has another loss mask than its turns; they were altered apart")
    return segment


def _turn_of(record: Mapping[str, Any]) -> Turn:
    return Turn(
        Origin(record["origin"]),
        record["start"],
        record["length"],
        record["step"],
        record["first_message"],
        record["message_count"],
        None if record["stop_reason"] is None else StopReason(record["stop_reason"]),
        record["model_version"],
        record["reward"],
        record["has_logprobs"],
        tuple(record["sampled_runs"]),
        tuple((run["version"], run["length"]) for run in record["model_version_runs"]),
        {reward["name"]: reward["value"] for reward in record["rewards"]},
        record["at_ms"],
    )


def _report_of(record: Mapping[str, Any]) -> FidelityReport:
    return FidelityReport(
        FidelityKind(record["kind"]), record["detail"], record["token_index"], record["message_index"]
    )


def _rows_of(record: Mapping[str, Any]) -> ColumnRows:
    if record["dtype"] not in DTYPES:
        raise ValueError(f"a column holds {record['dtype']!r}, which is no type of one")
    dtype = np.dtype(record["dtype"]).newbyteorder("<")
    shape: Sequence[int] = record["shape"]
    return ColumnRows(record["name"], record["start"], np.frombuffer(record["data"], dtype=dtype).reshape(shape))
