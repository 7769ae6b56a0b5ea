"""What a batch says of each of its rows and of each of their tokens, padded or packed."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

import numpy as np

from chatenv_client.models import Column, Failure, Sample
from chatenv_client.training.choosing import Chosen

Framework = Literal["numpy", "torch"]
"""Whose arrays a batch has."""

FactsT = TypeVar("FactsT", bound="RowFacts")


@dataclass(frozen=True, eq=False)
class RowFacts:
    """What is known of N rows. Arrays are numpy's or torch's, as was asked for."""

    rewards: Any
    """(N,) float64, of the whole episode; NaN where there is none."""
    rewards_by_name: dict[str, Any]
    """(N,) float64 by name, the components; NaN where a row has none of that name."""
    group_ids: Any
    """(N,) int64, the same number for rows of one group, from 0 on in order of appearance."""
    row_counts: Any
    """(N,) int64, rows of the episode: what to divide by where episodes are to weigh alike."""
    segments: Any
    """(N,) int64, number of the segment in its episode."""
    indices: Any
    """(N,) int64, which of the given rows each one is."""
    truncated: Any
    """(N,) bool, whether the end of the row was cut off to fit."""
    groups: tuple[str, ...]
    """Name of each row's group; of one that has none, the id of its episode."""
    episode_ids: tuple[str, ...]
    failures: tuple[Failure | None, ...]
    """Why the episode of each row ended that something broke in."""


def group_numbers(rows: Iterable[Chosen]) -> dict[str, int]:
    """A number for each group, from 0 on in order of appearance."""
    return {name: number for number, name in enumerate(dict.fromkeys(group_of(one.sample) for one in rows))}


def group_of(sample: Sample) -> str:
    """Name of a row's group: where it has none, it is in that of its episode's id, as its forks are."""
    return sample.group or sample.episode_id


def facts_of(rows: Sequence[Chosen], groups: Mapping[str, int]) -> dict[str, Any]:
    """The fields of `RowFacts`."""
    samples = [one.sample for one in rows]
    names = sorted({name for sample in samples for name in sample.rewards})
    by_name = {name: _floats(sample.rewards.get(name) for sample in samples) for name in names}
    return {
        "rewards": _floats(sample.reward for sample in samples),
        "rewards_by_name": by_name,
        "group_ids": np.array([groups[group_of(sample)] for sample in samples], dtype=np.int64),
        "row_counts": np.array([sample.row_count for sample in samples], dtype=np.int64),
        "segments": np.array([sample.segment for sample in samples], dtype=np.int64),
        "indices": np.array([one.index for one in rows], dtype=np.int64),
        "truncated": np.array([one.is_truncated for one in rows], dtype=np.bool_),
        "groups": tuple(map(group_of, samples)),
        "episode_ids": tuple(sample.episode_id for sample in samples),
        "failures": tuple(sample.failure for sample in samples),
    }


def _floats(values: Iterable[float | None]) -> Any:
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def of_tokens(sample: Sample) -> dict[str, Any]:
    """What is known of each token of a row, by name of the array in a batch. Where there is no loss, no logprob is."""
    return {
        "input_ids": sample.tokens.astype(np.int64),
        "position_ids": np.arange(len(sample.tokens), dtype=np.int64),
        "loss_mask": sample.loss_mask,
        "logprobs": np.where(sample.loss_mask, sample.logprobs, np.float32(0)),
        "token_rewards": np.full(len(sample.tokens), np.nan) if sample.token_rewards is None else sample.token_rewards,
    }


def columns_of(
    rows: Sequence[Chosen], known: Mapping[str, Column], starts: Sequence[int], shape: tuple[int, ...]
) -> dict[str, Any]:
    """The columns of rows, and which tokens have a row of them: the fields `extras` and `has_extras` of a batch.

    Args:
        rows: the rows.
        known: one column of each name.
        starts: where each row begins, counted through all of `shape`.
        shape: of the tokens' arrays.
    """
    size = math.prod(shape)
    extras: dict[str, Any] = {}
    has_extras: dict[str, Any] = {}
    for name, like in known.items():
        values = np.zeros((size, *like.rows.shape[1:]), dtype=like.rows.dtype)
        has = np.zeros(size, dtype=np.bool_)
        for start, one in zip(starts, rows, strict=True):
            if (column := one.sample.extras.get(name)) is not None:
                values[start + column.positions] = column.rows
                has[start + column.positions] = True
        extras[name], has_extras[name] = values.reshape(*shape, *like.rows.shape[1:]), has.reshape(shape)
    return {"extras": extras, "has_extras": has_extras}


def check_framework(framework: str) -> None:
    """Raise ValueError unless it is one whose arrays a batch may have."""
    if framework not in get_args(Framework):
        raise ValueError(f"framework is one of {', '.join(map(repr, get_args(Framework)))}, not {framework!r}")


def of_framework(facts: FactsT, framework: Framework) -> FactsT:
    """The same with arrays of a framework; of torch's they share the memory.

    Raises:
        ImportError: torch is not installed.
    """
    if framework == "numpy":
        return facts
    try:
        import torch
    except ImportError as error:
        raise ImportError("framework='torch' needs torch; framework='numpy' gives the same as numpy") from error

    def tensors(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: tensors(item) for name, item in value.items()}
        return torch.from_numpy(value) if isinstance(value, np.ndarray) else value

    return dataclasses.replace(
        facts, **{field.name: tensors(getattr(facts, field.name)) for field in dataclasses.fields(facts)}
    )
