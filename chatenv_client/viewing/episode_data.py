"""What the page of an episode holds: its trajectory as JSON, arrays as base64, each text of a token once.

30,000 tokens take some 0.5 MB.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from chatenv_client.models import Column, FidelityReport, ForkOrigin, Segment, Trajectory, Turn
from chatenv_client.models.token_text import TokenText
from chatenv_client.viewing.findings import findings_of
from chatenv_client.viewing.meanings import MEANINGS


class Relative(NamedTuple):
    """Another episode of the same group, for the map."""

    episode_id: str
    shared_length: int
    """Leading tokens that both have in their first segments."""
    length: int
    """Tokens of its first segment."""
    reward: float | None
    failed: bool
    href: str = ""
    """Its page; empty: none."""


@dataclass(frozen=True)
class View:
    """What a page shows beside the trajectory."""

    index_href: str = ""
    """The page of all episodes; empty: none."""
    relatives: Sequence[Relative] = ()
    forked_from: ForkOrigin | None = None
    task: str = ""
    tokenizer_name: str = ""
    is_gone: bool = False
    """Whether a server has it no more: it is as it was last seen."""
    data_href: str = ""
    """Where a page that follows a live episode finds its data anew; empty: it stays as it is."""


def episode_data(trajectory: Trajectory, texts: Mapping[int, TokenText], view: View) -> dict[str, Any]:
    """What the script of an episode's page reads."""
    failure = trajectory.failure
    kinds = dict.fromkeys(report.kind for report in trajectory.fidelity)
    return {
        "episode_id": trajectory.episode_id,
        "group": trajectory.group,
        "seed": None if trajectory.seed is None else str(trajectory.seed),
        "terminated": trajectory.terminated,
        "truncated": trajectory.truncated,
        "failure": failure and failure.as_json(),
        "reward": trajectory.reward,
        "rewards": trajectory.rewards,
        "metadata": trajectory.metadata,
        "messages": trajectory.messages,
        "segments": [_segment(segment) for segment in trajectory.segments],
        "given": trajectory.given_assistants or (),
        "meanings": {kind.value: MEANINGS[kind]._asdict() for kind in kinds},
        "findings": [finding._asdict() for finding in findings_of(trajectory)],
        **_texts(texts),
        "view": {
            **{name: value for name, value in asdict(view).items() if name not in ("relatives", "forked_from")},
            "relatives": [relative._asdict() for relative in view.relatives],
            "forked_from": view.forked_from and view.forked_from._asdict(),
        },
    }


def _segment(segment: Segment) -> dict[str, Any]:
    scalars = {name: column for name, column in segment.extras.items() if _is_scalar(column)}
    others = {name: column for name, column in segment.extras.items() if name not in scalars}
    has_logprobs = any(turn.has_logprobs for turn in segment.turns)
    return {
        "shared": segment.shared_length,
        "tokens": _base64(segment.tokens[segment.shared_length :], "<i4"),
        "logprobs": _base64(segment.logprobs, "<f4") if has_logprobs else "",
        "turns": [_turn(turn) for turn in segment.turns],
        "reports": [_report(report) for report in segment.fidelity],
        "columns": [
            {"name": name, "values": _base64(_spread(column, len(segment.tokens)), "<f4")}
            for name, column in scalars.items()
        ],
        "others": [
            {"name": name, "dtype": column.rows.dtype.name, "shape": column.rows.shape[1:], "rows": len(column.rows)}
            for name, column in others.items()
        ],
    }


def _is_scalar(column: Column) -> bool:
    return bool(np.prod(column.rows.shape[1:], dtype=int) == 1)


def _spread(column: Column, length: int) -> npt.NDArray[Any]:
    """(length,) float32, NaN where there is no row."""
    values = np.full(length, np.nan, dtype=np.float32)
    with np.errstate(over="ignore"):
        values[column.positions] = column.rows.reshape(len(column.rows))
    return values


def _turn(turn: Turn) -> dict[str, Any]:
    """A turn without what it has not."""
    told = {
        "origin": turn.origin.value,
        "length": turn.length,
        "step": turn.step,
        "first": turn.first_message,
        "count": turn.message_count,
        "reason": turn.stop_reason and turn.stop_reason.value,
        "version": turn.model_version,
        "reward": turn.reward,
        "rewards": dict(turn.rewards),
        "runs": turn.sampled_runs,
        "versions": turn.model_version_runs,
        "at_ms": turn.at_ms,
    }
    return {name: value for name, value in told.items() if value not in (None, "", (), {})}


def _report(report: FidelityReport) -> dict[str, Any]:
    return {
        "kind": report.kind.value,
        "detail": report.detail,
        "token": report.token_index,
        "message": report.message_index,
    }


def _texts(texts: Mapping[int, TokenText]) -> dict[str, Any]:
    """Each token's text; of those that are no text by themselves, their bytes in hexadecimal digits."""
    readable = {token_id: _readable(text.text) for token_id, text in texts.items()}
    return {
        "texts": {token_id: text for token_id, text in readable.items() if text is not None},
        "bytes": {token_id: texts[token_id].text.hex() for token_id, text in readable.items() if text is None},
        "controls": sorted(token_id for token_id, text in texts.items() if text.is_control),
    }


def _readable(text: bytes) -> str | None:
    try:
        return text.decode()
    except UnicodeDecodeError:
        return None


def _base64(values: npt.NDArray[Any], dtype: str) -> str:
    return base64.b64encode(values.astype(dtype).tobytes()).decode("ascii")
