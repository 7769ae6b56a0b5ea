"""Rows made into batches: padded or packed, they come out as they went in, and none is cut or left out in silence."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatenv_client import Column, Failure, FailureKind, Sample, collate, pack

FAILED = Failure(FailureKind.TOOL, "the sandbox is gone")

floats = st.integers(0, 2**32 - 1).map(lambda bits: np.array(bits, np.uint32).view(np.float32)[()])
"""Any 32 bits."""


@st.composite
def samples(draw: st.DrawFn, rewarded: bool | None = None) -> Sample:
    length = draw(st.integers(1, 12))
    mask = [*draw(st.lists(st.booleans(), min_size=length - 1, max_size=length - 1)), True]
    has_reward = draw(st.booleans()) if rewarded is None else rewarded
    extras = {}
    if draw(st.booleans()):
        positions = sorted(draw(st.sets(st.integers(0, length - 1))))
        rows = np.arange(2 * len(positions), dtype=np.int16).reshape(-1, 2) + draw(st.integers(1, 9))
        extras["experts"] = Column(np.array(positions, np.int32), rows.astype(np.int16))
    return Sample(
        draw(st.sampled_from(["a", "b", "c"])),
        draw(st.integers(0, 3)),
        np.array(draw(st.lists(st.integers(0, 2**31 - 1), min_size=length, max_size=length)), np.int32),
        np.array(mask, np.bool_),
        np.array(draw(st.lists(floats, min_size=length, max_size=length)), np.float32),
        draw(st.floats(allow_nan=False, allow_infinity=False)) if has_reward else None,
        extras,
        draw(st.dictionaries(st.sampled_from(["x", "y"]), st.integers(-3, 3).map(float))) if has_reward else {},
        np.linspace(-1, 1, length) if has_reward else None,
        draw(st.sampled_from(["", "", "g", "a"])),
        draw(st.integers(1, 4)),
        draw(st.sampled_from([None, FAILED])) if not has_reward else None,
    )


def bits(array: Any) -> bytes:
    return np.ascontiguousarray(array).tobytes()


def check_tokens(batch: Any, place: Callable[[Any], Any], sample: Sample) -> None:
    """That a stretch of a batch is a row, bit for bit."""
    assert place(batch.input_ids).tolist() == sample.tokens.tolist()
    assert place(batch.position_ids).tolist() == list(range(len(sample.tokens)))
    mask = place(batch.loss_mask)
    assert mask.tolist() == sample.loss_mask.tolist()
    assert bits(place(batch.logprobs)[mask]) == bits(sample.logprobs[mask])
    assert not place(batch.logprobs)[~mask].any()
    earned = np.full(len(sample.tokens), np.nan) if sample.token_rewards is None else sample.token_rewards
    assert bits(place(batch.token_rewards)) == bits(earned)
    for name in batch.extras:
        column = sample.extras.get(name)
        has = place(batch.has_extras[name])
        assert np.flatnonzero(has).tolist() == ([] if column is None else column.positions.tolist())
        if column is not None:
            assert place(batch.extras[name]).dtype == column.rows.dtype
            assert bits(place(batch.extras[name])[has]) == bits(column.rows)
        assert not place(batch.extras[name])[~has].any()


def check_facts(batch: Any, number: int, sample: Sample) -> None:
    """That a batch says of a row what the row says."""
    reward = np.nan if sample.reward is None else sample.reward
    assert bits(batch.rewards[number]) == bits(np.float64(reward))
    assert batch.groups[number] == (sample.group or sample.episode_id)
    assert (batch.episode_ids[number], batch.segments[number]) == (sample.episode_id, sample.segment)
    assert (batch.row_counts[number], batch.failures[number]) == (sample.row_count, sample.failure)
    for name, values in batch.rewards_by_name.items():
        assert bits(values[number]) == bits(np.float64(sample.rewards.get(name, np.nan)))


@given(st.lists(samples(), max_size=5), st.sampled_from(["left", "right"]), st.sampled_from([None, 12, 20]))
def test_a_padded_batch_without_its_padding_is_the_rows(rows: list[Sample], side: Any, pad_to: int | None) -> None:
    batch = collate(rows, pad_to=pad_to, pad_side=side, pad_id=7, unrewarded="keep")
    length = max((len(row.tokens) for row in rows), default=0) if pad_to is None else pad_to
    assert batch.input_ids.shape == (len(rows), length)
    assert batch.left_out == ()
    for number, row in enumerate(rows):
        is_token = batch.attention_mask[number] == 1
        edge = is_token[-len(row.tokens) :] if side == "left" else is_token[: len(row.tokens)]
        assert edge.all()
        assert is_token.sum() == len(row.tokens)
        check_tokens(batch, lambda array, at=(number, is_token): array[at[0]][at[1]], row)  # type: ignore[misc]
        check_facts(batch, number, row)
        assert (batch.input_ids[number][~is_token] == 7).all()
        for array in (batch.loss_mask, batch.logprobs, batch.token_rewards, batch.position_ids):
            assert not array[number][~is_token].any()
    check_groups([batch])


@given(st.lists(samples(), max_size=8), st.integers(12, 30))
def test_packs_taken_apart_are_the_rows(rows: list[Sample], max_tokens: int) -> None:
    packs, left_out = pack(rows, max_tokens=max_tokens, unrewarded="keep")
    assert left_out == ()
    assert sorted(index for one in packs for index in one.indices.tolist()) == list(range(len(rows)))
    for one in packs:
        assert one.cu_seqlens.dtype == np.int32
        assert one.cu_seqlens[0] == 0
        assert one.cu_seqlens[-1] == len(one.input_ids) <= max_tokens
        assert one.max_seqlen == np.diff(one.cu_seqlens).max()
        assert one.indices.tolist() == sorted(one.indices.tolist())
        for number, index in enumerate(one.indices.tolist()):
            place = slice(one.cu_seqlens[number], one.cu_seqlens[number + 1])
            check_tokens(one, lambda array, place=place: array[place], rows[index])  # type: ignore[misc]
            check_facts(one, number, rows[index])
    check_groups(packs)
    lengths = [int(one.cu_seqlens[-1]) for one in packs]
    assert all(one + other > max_tokens for n, one in enumerate(lengths) for other in lengths[:n])


def check_groups(batches: Any) -> None:
    """That rows have the same number exactly where they have the same group."""
    pairs = {(name, int(i)) for one in batches for name, i in zip(one.groups, one.group_ids, strict=True)}
    assert len(pairs) == len({name for name, _ in pairs}) == len({number for _, number in pairs})
    assert {number for _, number in pairs} == set(range(len(pairs)))


def row(length: int = 4, **fields: Any) -> Sample:
    mask = np.zeros(length, np.bool_)
    mask[length // 2 :] = True
    return replace(Sample("e", 1, np.arange(length, dtype=np.int32), mask, np.zeros(length, np.float32), 1.0), **fields)


@pytest.mark.parametrize("make", [partial(collate, max_length=8), partial(pack, max_tokens=8)])
def test_a_row_that_is_too_long_is_what_the_caller_chose(make: Any) -> None:
    rows = [row(4), row(9), row(17)]
    with pytest.raises(ValueError, match=r"row 1 of episode 'e'.*9 tokens.*room for 8.*too_long='drop' or 'truncate'"):
        make(rows)
    dropped = make(rows, too_long="drop").left_out
    assert [(one.index, one.episode_id, one.segment) for one in dropped] == [(1, "e", 1), (2, "e", 1)]
    assert "17 tokens" in dropped[1].reason
    (nothing_left,) = make(rows, too_long="truncate").left_out
    assert nothing_left.index == 2
    assert "nothing to train on" in nothing_left.reason


def test_what_is_truncated_keeps_its_beginning_with_mask_and_columns_and_says_so() -> None:
    column = Column(np.array([3, 5, 7], np.int32), np.array([[1], [2], [3]], np.uint8))
    whole = row(8, extras={"x": column}, token_rewards=np.arange(8.0))
    batch = collate([row(3), whole], pad_to=6, too_long="truncate")
    assert batch.truncated.tolist() == [False, True]
    assert batch.input_ids[1].tolist() == [0, 1, 2, 3, 4, 5]
    assert batch.loss_mask[1].tolist() == [False] * 4 + [True] * 2
    assert batch.token_rewards[1].tolist() == [0, 1, 2, 3, 4, 5]
    assert np.flatnonzero(batch.has_extras["x"][1]).tolist() == [3, 5]
    assert batch.rewards.tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("bad", "told"),
    [(row(reward=None), "no reward was given"), (row(failure=FAILED, reward=None), r"failed \(tool\): the sandbox")],
    ids=["unrewarded", "failed"],
)
def test_a_row_without_a_reward_is_refused_unless_the_caller_says_what_to_do(bad: Sample, told: str) -> None:
    with pytest.raises(ValueError, match=f"{told}.*unrewarded='drop', 'mask' or 'keep'"):
        collate([row(), bad])
    with pytest.raises(ValueError, match=told):
        pack([row(), bad], max_tokens=8)
    dropped = collate([row(), bad], unrewarded="drop")
    assert len(dropped.rewards) == 1
    assert [one.index for one in dropped.left_out] == [1]
    masked = collate([row(), bad], unrewarded="mask")
    assert masked.loss_mask.any(axis=1).tolist() == [True, False]
    kept = collate([row(), bad], unrewarded="keep")
    assert kept.loss_mask.any(axis=1).tolist() == [True, True]
    for batch in (masked, kept):
        assert np.isnan(batch.rewards).tolist() == [False, True]
        assert np.isnan(batch.token_rewards[1]).all()


def test_a_failed_row_is_refused_also_where_somebody_gave_it_a_reward() -> None:
    with pytest.raises(ValueError, match="failed"):
        collate([row(failure=FAILED, reward=1.0)])
    assert np.isnan(collate([row(failure=FAILED, reward=1.0)], unrewarded="keep").rewards).all()


@pytest.mark.parametrize(
    "wrong", [{"too_long": "cut"}, {"unrewarded": "zero"}, {"framework": "jax"}, {"pad_side": "top"}, {"max_length": 0}]
)
def test_a_choice_that_is_not_there_is_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
        collate([row()], **wrong)


def test_columns_of_one_name_are_alike() -> None:
    def having(rows: Any) -> Sample:
        return row(extras={"x": Column(np.array([1], np.int32), rows)})

    with pytest.raises(ValueError, match="'x' holds int8"):
        collate([having(np.ones((1, 2), np.int8)), having(np.ones((1, 3), np.int8))])


def test_torch_has_the_same_numbers() -> None:
    torch = pytest.importorskip("torch")
    rows = [row(4, extras={"x": Column(np.array([2], np.int32), np.ones((1, 2), np.float16))}), row(6)]
    expected, got = collate(rows), collate(rows, framework="torch")
    for name in ("input_ids", "attention_mask", "loss_mask", "logprobs", "rewards", "group_ids", "token_rewards"):
        array = getattr(got, name)
        assert isinstance(array, torch.Tensor)
        assert bits(array.numpy()) == bits(getattr(expected, name))
    assert torch.equal(got.extras["x"], torch.from_numpy(expected.extras["x"]))
    ((one,), _) = pack(rows, max_tokens=10, framework="torch")
    assert one.cu_seqlens.dtype == torch.int32
    assert torch.nn.functional.one_hot(one.input_ids).shape == (10, 6)


def test_torch_is_imported_only_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_torch(name: str, *values: Any) -> Any:
        if name == "torch":
            raise ImportError(name)
        return real(name, *values)

    monkeypatch.setattr(builtins, "__import__", without_torch)
    collate([row()])
    with pytest.raises(ImportError, match="framework='numpy'"):
        collate([row()], framework="torch")
