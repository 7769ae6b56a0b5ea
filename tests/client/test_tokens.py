"""Laws of token buffers, fingerprints and packing."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client.tokens import (
    EMPTY_TOKENS,
    Fingerprint,
    Float32Array,
    GrowingArray,
    HashedPrefix,
    Int32Array,
    TokenSnapshot,
    as_logprobs,
    as_token_ids,
    fingerprint_of,
    pack_logprobs,
    pack_tokens,
    unpack_logprobs,
    unpack_tokens,
)

token_arrays = arrays.arrays(np.int32, st.integers(0, 200))
logprob_arrays = arrays.arrays(np.float32, st.integers(0, 200), elements=st.floats(width=32, allow_nan=False))


def over_the_wire(tokens: Int32Array) -> Int32Array:
    request = pb.StepRequest(episode_id="e", step_index=3)
    pack_tokens(request, tokens)
    return unpack_tokens(pb.StepRequest.FromString(request.SerializeToString()).tokens)


@given(token_arrays)
def test_tokens_survive_the_wire_bit_for_bit(tokens: Int32Array) -> None:
    received = over_the_wire(tokens)
    assert received.dtype == np.int32
    assert received.tobytes() == tokens.tobytes()


@pytest.mark.parametrize(
    "tokens",
    [
        np.empty(0, np.int32),
        np.array([0], np.int32),
        np.array([2**31 - 1, 0, -1, -(2**31)], np.int32),
        np.random.default_rng(7).integers(0, 2**31, 1 << 20, dtype=np.int64).astype(np.int32),
    ],
    ids=["empty", "zero", "extremes", "a million"],
)
def test_these_tokens_survive_the_wire_bit_for_bit(tokens: Int32Array) -> None:
    assert np.array_equal(over_the_wire(tokens), tokens)


@given(logprob_arrays)
def test_logprobs_survive_the_wire_bit_for_bit(logprobs: Float32Array) -> None:
    request = pb.StepRequest()
    pack_logprobs(request, logprobs)
    received = unpack_logprobs(pb.StepRequest.FromString(request.SerializeToString()).logprobs)
    assert received.dtype == np.float32
    assert received.tobytes() == logprobs.tobytes()


@given(token_arrays)
def test_packing_gives_the_message_that_a_list_would_give(tokens: Int32Array) -> None:
    packed = pb.StepRequest()
    pack_tokens(packed, tokens)
    assert packed == pb.StepRequest(tokens=tokens.tolist())


def test_a_view_of_any_stride_packs_as_its_values() -> None:
    every_other = np.arange(10, dtype=np.int32)[::2]
    assert over_the_wire(every_other).tolist() == [0, 2, 4, 6, 8]


def test_unpacked_tokens_are_the_callers_own() -> None:
    request = pb.StepRequest(tokens=[1, 2, 3])
    unpack_tokens(request.tokens)[0] = 9
    assert list(request.tokens) == [1, 2, 3]


@pytest.mark.parametrize(
    "tokens", [[1, 2], (1, 2), [[1, 2]], np.array([[[1, 2]]]), np.array([1, 2], np.uint8)], ids=repr
)
def test_one_row_of_any_shape_is_taken(tokens: Any) -> None:
    assert as_token_ids(tokens).tolist() == [1, 2]


@pytest.mark.parametrize("tokens", [[], [[]], np.empty((1, 0)), ()], ids=repr)
def test_no_tokens_are_an_empty_int32_array(tokens: Any) -> None:
    assert as_token_ids(tokens).dtype == np.int32
    assert as_token_ids(tokens).shape == (0,)


@pytest.mark.parametrize(
    "tokens", [[[1, 2], [3, 4]], [[1], [2]], [2**31], [-(2**31) - 1], [2**70], [1, -(10**30)]], ids=repr
)
def test_several_rows_and_ids_beyond_int32_are_refused(tokens: Any) -> None:
    with pytest.raises(ValueError, match=r"one row|32-bit"):
        as_token_ids(tokens)


@pytest.mark.parametrize("tokens", [[1.5], ["a"], [True], [None, 2**70], [True, 2**70]], ids=repr)
def test_what_is_no_integer_is_refused(tokens: Any) -> None:
    with pytest.raises(TypeError, match="must be integers"):
        as_token_ids(tokens)


def test_token_ids_do_not_share_memory_with_what_was_given() -> None:
    given_array = np.array([1, 2], np.int32)
    taken = as_token_ids(given_array)
    given_array[0] = 9
    assert taken.tolist() == [1, 2]


def test_tensors_of_any_integer_type_are_taken() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    assert as_token_ids(torch.tensor([[5, 6]], dtype=torch.int64)).tolist() == [5, 6]
    assert as_logprobs(torch.tensor([-0.5], dtype=torch.bfloat16, requires_grad=True)).tolist() == [-0.5]


@given(st.lists(token_arrays, max_size=8))
def test_a_growing_array_holds_all_that_was_appended(parts: list[Int32Array]) -> None:
    growing = GrowingArray()
    for part in parts:
        growing.extend(part)
    assert np.array_equal(growing.view(), np.concatenate([np.empty(0, np.int32), *parts]))


def test_a_view_stays_as_it_was_while_the_array_grows() -> None:
    growing = GrowingArray()
    growing.extend(np.arange(5, dtype=np.int32))
    view = growing.view()
    for _ in range(100):
        growing.extend(np.full(7, -1, np.int32))
    assert view.tolist() == [0, 1, 2, 3, 4]


def test_a_view_cannot_be_written() -> None:
    growing = GrowingArray()
    growing.extend(np.arange(5, dtype=np.int32))
    with pytest.raises(ValueError, match="read-only"):
        growing.view()[0] = 1


@given(token_arrays, token_arrays, st.integers(0, 500))
def test_a_snapshot_from_any_offset_is_the_end_of_the_stream(
    committed: Int32Array, tail: Int32Array, offset: int
) -> None:
    snapshot = TokenSnapshot(committed, tail)
    assert np.array_equal(snapshot.since(offset), snapshot.token_ids[offset:])


@given(st.lists(token_arrays, max_size=5), token_arrays)
def test_a_fingerprint_kept_incrementally_is_the_fingerprint_of_the_whole(
    parts: list[Int32Array], tail: Int32Array
) -> None:
    fingerprint = Fingerprint()
    for part in parts:
        fingerprint = fingerprint.extended(part)
    assert fingerprint.with_tail(tail) == fingerprint_of(np.concatenate([*parts, tail]))


def test_a_fingerprint_is_blake2b_128_of_the_little_endian_bytes() -> None:
    expected = hashlib.blake2b(b"\x01\x00\x00\x00\xff\xff\xff\x7f", digest_size=16).hexdigest()
    assert fingerprint_of(np.array([1, 2**31 - 1], np.int32)) == expected


def test_each_token_of_a_stream_is_hashed_once_when_somebody_asks() -> None:
    stream, hashed = GrowingArray(np.int32), HashedPrefix()
    stream.extend(np.arange(5, dtype=np.int32))
    early, tail = TokenSnapshot(stream.view(), EMPTY_TOKENS, hashed), np.array([7], np.int32)
    assert len(hashed) == 0
    stream.extend(np.arange(6, dtype=np.int32))
    late = TokenSnapshot(stream.view(), tail, hashed)
    assert late.fingerprint() == fingerprint_of(late.token_ids)
    assert len(hashed) == 11
    assert early.fingerprint() == fingerprint_of(early.token_ids)
    assert len(hashed) == 11


def test_a_moment_that_is_asked_for_again_is_told_apart_from_others_like_it() -> None:
    committed, hashed = np.arange(9, dtype=np.int32), HashedPrefix()
    tails = [EMPTY_TOKENS, np.array([7], np.int32), np.array([8], np.int32)]
    moments = [(count, tail) for count in (5, 6, 5) for tail in tails for _ in range(2)]
    for count, tail in moments:
        expected = fingerprint_of(np.concatenate([committed[:count], tail]))
        assert hashed.fingerprint(committed[:count], tail) == expected


def test_extending_into_a_new_fingerprint_leaves_the_old_one_as_it_was() -> None:
    fingerprint = Fingerprint()
    fingerprint.extended(np.array([1], np.int32))
    assert fingerprint.with_tail(np.empty(0, np.int32)) == fingerprint_of(np.empty(0, np.int32))
