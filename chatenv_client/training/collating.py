"""Rows side by side, padded to one length."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from chatenv_client.models import Sample
from chatenv_client.training.choosing import Chosen, LeftOut, TooLong, Unrewarded, choose, column_names
from chatenv_client.training.facts import (
    Framework,
    RowFacts,
    check_framework,
    columns_of,
    facts_of,
    group_numbers,
    of_framework,
    of_tokens,
)

PadSide = Literal["left", "right"]


@dataclass(frozen=True, eq=False)
class Batch(RowFacts):
    """N rows of length L. Arrays are numpy's or torch's, as was asked for."""

    input_ids: Any
    """(N, L) int64, `pad_id` where there is padding."""
    attention_mask: Any
    """(N, L) int64, 1 on the tokens of the row and 0 on padding."""
    position_ids: Any
    """(N, L) int64, from 0 on in each row; 0 on padding."""
    loss_mask: Any
    """(N, L) bool, true on the tokens to train on."""
    logprobs: Any
    """(N, L) float32, 0.0 where the loss mask is false; as given elsewhere, NaN where none was given."""
    token_rewards: Any
    """(N, L) float64, what each turn earned, on its last token to train on; 0.0 on padding, and NaN on all tokens of a
    row without a reward."""
    extras: dict[str, Any]
    """(N, L, ...) by name, the columns; 0 where a token has no row."""
    has_extras: dict[str, Any]
    """(N, L) bool by name, which tokens have a row."""
    left_out: tuple[LeftOut, ...]
    """Rows that were given and are not in the batch, and why."""


def collate(
    samples: Iterable[Sample],
    *,
    pad_to: int | None = None,
    pad_side: PadSide = "right",
    pad_id: int = 0,
    max_length: int | None = None,
    too_long: TooLong = "error",
    unrewarded: Unrewarded = "error",
    framework: Framework = "numpy",
) -> Batch:
    """Rows as one batch, padded to one length. Nothing is cut or left out that the caller did not say so of.

    Args:
        samples: the rows, such as `trajectory.samples()` of several episodes one after the other.
        pad_to: the length L; longer rows are too long. None: that of the longest row.
        pad_side: where padding goes.
        pad_id: token id of padding.
        max_length: tokens that a row may have; None: any number, up to `pad_to`.
        too_long: what becomes of longer rows. `error`: ValueError. `drop`: they are left out. `truncate`: their end is;
            those of which nothing to train on remains are left out. A reward stays whole.
        unrewarded: what becomes of rows without a reward, and of those of an episode that failed. `error`: ValueError.
            `drop`: they are left out. `mask`: nothing of them is trained on. `keep`: they are taken as they are, with
            NaN as their reward: for training without rewards.
        framework: `numpy` or `torch`.

    Raises:
        ValueError: see above; or two rows have columns of one name and of different types or shapes.
        ImportError: torch is asked for and not installed.
    """
    check_framework(framework)
    if pad_side not in ("left", "right"):
        raise ValueError(f"pad_side is 'left' or 'right', not {pad_side!r}")
    limits = [limit for limit in (pad_to, max_length) if limit is not None]
    rows, left_out = choose(samples, min(limits, default=None), too_long, unrewarded)
    length = max((len(one.sample.tokens) for one in rows), default=0) if pad_to is None else pad_to
    padded = _Padded(rows, length, pad_side)
    batch = Batch(
        **facts_of(rows, group_numbers(rows)),
        **padded.of_tokens(pad_id),
        **padded.columns(),
        left_out=left_out,
    )
    return of_framework(batch, framework)


class _Padded:
    """Arrays of rows that are padded to one length."""

    def __init__(self, rows: list[Chosen], length: int, side: PadSide) -> None:
        self._rows = rows
        self._shape = (len(rows), length)
        counts = [len(one.sample.tokens) for one in rows]
        self._places = [slice(length - count, length) if side == "left" else slice(0, count) for count in counts]

    def of_tokens(self, pad_id: int) -> dict[str, Any]:
        arrays: dict[str, Any] = {
            "input_ids": np.full(self._shape, pad_id, dtype=np.int64),
            "position_ids": np.zeros(self._shape, dtype=np.int64),
            "loss_mask": np.zeros(self._shape, dtype=np.bool_),
            "logprobs": np.zeros(self._shape, dtype=np.float32),
            "token_rewards": np.zeros(self._shape, dtype=np.float64),
            "attention_mask": np.zeros(self._shape, dtype=np.int64),
        }
        for number, (one, place) in enumerate(zip(self._rows, self._places, strict=True)):
            arrays["attention_mask"][number, place] = 1
            for name, values in of_tokens(one.sample).items():
                arrays[name][number, place] = values
        return arrays

    def columns(self) -> dict[str, Any]:
        starts = [number * self._shape[1] + place.start for number, place in enumerate(self._places)]
        return columns_of(self._rows, column_names(self._rows), starts, self._shape)
