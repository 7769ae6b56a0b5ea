"""Rows one after the other, in as few packs as they fit into, for attention over sequences of different lengths."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np

from chatenv_client.models import Column, Sample
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


@dataclass(frozen=True, eq=False)
class Pack(RowFacts):
    """N rows one after the other, T tokens together. Arrays are numpy's or torch's, as was asked for.

    What is said of rows is said of those of this pack; numbers of groups are the same in all packs.
    """

    input_ids: Any
    """(T,) int64."""
    position_ids: Any
    """(T,) int64, from 0 on in each row."""
    cu_seqlens: Any
    """(N + 1,) int32, where each row begins, and T: as FlashAttention's variable-length functions take it."""
    max_seqlen: int
    """Length of the longest row."""
    loss_mask: Any
    """(T,) bool, true on the tokens to train on."""
    logprobs: Any
    """(T,) float32, 0.0 where the loss mask is false; as given elsewhere, NaN where none was given."""
    token_rewards: Any
    """(T,) float64, what each turn earned, on its last token to train on; NaN on all of a row without a reward."""
    extras: dict[str, Any]
    """(T, ...) by name, the columns; 0 where a token has no row."""
    has_extras: dict[str, Any]
    """(T,) bool by name, which tokens have a row."""


class Packed(NamedTuple):
    """All packs."""

    packs: tuple[Pack, ...]
    left_out: tuple[LeftOut, ...]
    """Rows that were given and are in no pack, and why."""


def pack(
    samples: Iterable[Sample],
    *,
    max_tokens: int,
    too_long: TooLong = "error",
    unrewarded: Unrewarded = "error",
    framework: Framework = "numpy",
) -> Packed:
    """Rows one after the other, each whole, in packs of at most so many tokens.

    The longest go first, each into the fullest pack that has room for it. In a pack they stand in the order given.

    Args:
        samples: the rows.
        max_tokens: of one pack.
        too_long: what becomes of rows with more tokens; see `collate`.
        unrewarded: what becomes of rows without a reward; see `collate`.
        framework: `numpy` or `torch`.

    Raises:
        ValueError, ImportError: as of `collate`.
    """
    check_framework(framework)
    rows, left_out = choose(samples, max_tokens, too_long, unrewarded)
    groups, columns = group_numbers(rows), column_names(rows)
    packs = [
        Pack(**facts_of(some, groups), **_of_tokens(some), **_columns(some, columns))
        for some in _fitted(rows, max_tokens)
    ]
    return Packed(tuple(of_framework(one, framework) for one in packs), left_out)


def _fitted(rows: Sequence[Chosen], max_tokens: int) -> list[list[Chosen]]:
    """The rows of each pack (best fit, the longest first)."""
    packs: list[list[Chosen]] = []
    room: list[tuple[int, int]] = []
    """(tokens that a pack has room for, its number), ascending."""
    for one in sorted(rows, key=lambda row: -len(row.sample.tokens)):
        length = len(one.sample.tokens)
        place = bisect_left(room, (length, -1))
        if place == len(room):
            left, number = max_tokens, len(packs)
            packs.append([])
        else:
            left, number = room.pop(place)
        packs[number].append(one)
        insort(room, (left - length, number))
    for some in packs:
        some.sort(key=lambda row: row.index)
    return sorted(packs, key=lambda some: some[0].index)


def _of_tokens(rows: Sequence[Chosen]) -> dict[str, Any]:
    of_rows = [of_tokens(one.sample) for one in rows]
    lengths = [len(one.sample.tokens) for one in rows]
    return {
        **{name: np.concatenate([arrays[name] for arrays in of_rows]) for name in of_rows[0]},
        "cu_seqlens": np.cumsum([0, *lengths], dtype=np.int32),
        "max_seqlen": max(lengths),
    }


def _columns(rows: Sequence[Chosen], known: Mapping[str, Column]) -> dict[str, Any]:
    *starts, size = accumulate((len(one.sample.tokens) for one in rows), initial=0)
    return columns_of(rows, known, starts, (size,))
