"""Which rows go into a batch, and what becomes of those that can't: nothing is cut or left out in silence."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from chatenv_client.models import Column, Sample

TooLong = Literal["error", "drop", "truncate"]
"""What becomes of a row that is too long: an error, it is left out, or its end is."""

Unrewarded = Literal["error", "drop", "mask", "keep"]
"""What becomes of a row that has no reward, or whose episode failed: an error, it is left out, nothing of it is trained
on, or it is taken as it is, its reward NaN."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """A row of a batch."""

    index: int
    """Which of those given it is."""
    sample: Sample
    """The row as it goes into the batch."""
    is_truncated: bool = False


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A row that is not in the batch."""

    index: int
    """Which of those given it is."""
    episode_id: str
    segment: int
    reason: str
    """Why, for a person."""


def choose(
    samples: Iterable[Sample], most: int | None, too_long: TooLong, unrewarded: Unrewarded
) -> tuple[list[Chosen], tuple[LeftOut, ...]]:
    """The rows that go into a batch, and those that don't.

    Args:
        samples: the rows.
        most: tokens that a row may have; None: any number.
        too_long: what becomes of a row with more.
        unrewarded: what becomes of a row without a reward.

    Raises:
        ValueError: there is no such choice, or a row is one that the caller has not said what to do with.
    """
    for name, choice, choices in (("too_long", too_long, TooLong), ("unrewarded", unrewarded, Unrewarded)):
        if choice not in get_args(choices):
            raise ValueError(f"{name} is one of {', '.join(map(repr, get_args(choices)))}, not {choice!r}")
    if most is not None and most < 1:
        raise ValueError(f"a row has room for at least one token, not for {most}")
    chosen: list[Chosen] = []
    left_out: list[LeftOut] = []
    for index, sample in enumerate(samples):
        row, why = _as_rewarded(sample, unrewarded)
        one = Chosen(index, row)
        if not why and most is not None and len(row.tokens) > most:
            one, why = _as_long_as(one, most, too_long)
        if why:
            left_out.append(LeftOut(index, sample.episode_id, sample.segment, why))
        else:
            chosen.append(one)
    return chosen, tuple(left_out)


def _as_rewarded(sample: Sample, unrewarded: Unrewarded) -> tuple[Sample, str]:
    """A row as the caller wants one without a reward, and why it is left out; empty: it is not."""
    if sample.reward is not None and sample.failure is None:
        return sample, ""
    why = "no reward was given"
    if sample.failure is not None:
        why = f"failed ({sample.failure.kind}): {sample.failure.reason}"
    if unrewarded == "error":
        raise _refusal(sample, why, "unrewarded='drop', 'mask' or 'keep'")
    if unrewarded == "drop":
        return sample, why
    row = replace(sample, reward=None, rewards={}, token_rewards=None)
    return (replace(row, loss_mask=np.zeros_like(row.loss_mask)) if unrewarded == "mask" else row), ""


def _as_long_as(one: Chosen, most: int, too_long: TooLong) -> tuple[Chosen, str]:
    """A row with no more tokens than that, and why it is left out; empty: it is not."""
    sample = one.sample
    why = f"too long: {len(sample.tokens)} tokens, and there is room for {most}"
    if too_long == "error":
        raise _refusal(sample, why, "too_long='drop' or 'truncate'")
    if too_long == "drop":
        return one, why
    cut = _first(sample, most)
    if sample.loss_mask.any() and not cut.loss_mask.any():
        return one, f"{why}; its first {most} hold nothing to train on"
    return Chosen(one.index, cut, is_truncated=True), ""


def _refusal(sample: Sample, why: str, choices: str) -> ValueError:
    what = f"row {sample.segment} of episode {sample.episode_id!r} cannot be trained on as it is: {why}"
    return ValueError(f"{what}; say what to do with such rows: {choices}")


def _first(sample: Sample, count: int) -> Sample:
    return replace(
        sample,
        tokens=sample.tokens[:count],
        loss_mask=sample.loss_mask[:count],
        logprobs=sample.logprobs[:count],
        token_rewards=None if sample.token_rewards is None else sample.token_rewards[:count],
        extras={name: column.first(count) for name, column in sample.extras.items()},
    )


def column_names(rows: Sequence[Chosen]) -> dict[str, Column]:
    """The columns that any row has, each with one of those of its name.

    Raises:
        ValueError: two rows have columns of one name and of different types or shapes.
    """
    found: dict[str, Column] = {}
    for one in rows:
        for name, column in one.sample.extras.items():
            known = found.setdefault(name, column).rows
            if (known.dtype, known.shape[1:]) != (column.rows.dtype, column.rows.shape[1:]):
                what = f"column {name!r} holds {known.dtype} of shape {known.shape[1:]} in one row"
                raise ValueError(f"{what}, and {column.rows.dtype} of shape {column.rows.shape[1:]} in another")
    return found
