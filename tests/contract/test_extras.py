"""Columns of sampled tokens, which chatenv keeps and does not look into."""

from __future__ import annotations

import dataclasses
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatenv_client import ChatAction, ChatEnv, Column, InvalidRequestError
from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client._generated.chatenv_pb2_grpc import ChatEnvServiceStub
from chatenv_client.calls import error_from_rpc
from chatenv_client.models.columns import DTYPES, ColumnRows
from chatenv_client.wire import trajectory_from_proto, trajectory_to_proto
from chatenv_server import ChatEnvironment
from tests.engine.subjects import EMBEDDED, subject

END = 257
HELLO = {"role": "user", "content": "Hello!"}

dtypes = st.sampled_from(sorted(DTYPES))
shapes = st.sampled_from([(), (1,), (3,), (2, 3), (16, 8)])


def rows(draw: Any, dtype: str, shape: tuple[int, ...], count: int) -> Any:
    size = count * int(np.prod(shape)) * np.dtype(dtype).itemsize
    data = np.random.default_rng(draw(st.integers(0, 2**32))).bytes(size)
    values = np.frombuffer(data, np.uint8) % 2 if dtype == "bool" else np.frombuffer(data, dtype)
    return values.astype(dtype).reshape(count, *shape)


def opened(**options: Any) -> ChatEnvironment:
    env = ChatEnvironment(subject(EMBEDDED).engine, **options)
    env.reset(messages=[HELLO], clock=0.0)
    return env


def bits(column: Column) -> tuple[list[int], str, tuple[int, ...], bytes]:
    return column.positions.tolist(), column.rows.dtype.name, column.rows.shape[1:], column.rows.tobytes()


@given(st.data(), st.lists(st.tuples(dtypes, shapes), min_size=1, max_size=2), st.integers(1, 3))
def test_columns_come_back_bit_for_bit_with_the_tokens_that_they_were_given_for(
    data: st.DataObject, kinds: list[tuple[str, tuple[int, ...]]], turns: int
) -> None:
    env = opened()
    expected: dict[str, tuple[list[int], list[bytes]]] = {f"c{i}": ([], []) for i in range(len(kinds))}
    for _ in range(turns):
        tokens = [*b"abc"[: data.draw(st.integers(0, 3))], END]
        start, extras = len(env.state.token_ids), {}
        for i, (dtype, shape) in enumerate(kinds):
            if data.draw(st.booleans()):
                extras[f"c{i}"] = rows(data.draw, dtype, shape, len(tokens))
                positions, parts = expected[f"c{i}"]
                positions += range(start, start + len(tokens))
                parts.append(extras[f"c{i}"].tobytes())
        env.step(ChatAction(tokens=tokens, extras=extras))
        env.step(HELLO)
    trajectory = env.trajectory()
    over_the_wire = trajectory_from_proto(trajectory_to_proto(trajectory))
    for read in (trajectory, over_the_wire):
        (segment,) = read.segments
        assert segment.extras.keys() == {name for name, (positions, _) in expected.items() if positions}
        for name, column in segment.extras.items():
            positions, parts = expected[name]
            dtype, shape = kinds[int(name[1:])]
            assert bits(column) == (positions, dtype, shape, b"".join(parts))
    (row,) = trajectory.samples()
    assert row.extras.keys() == trajectory.segments[0].extras.keys()


def test_the_last_row_of_the_span_before_can_be_amended_by_the_next_span() -> None:
    env = opened()
    env.step(ChatAction(tokens=[*b"a", END], extras={"experts": np.array([[1, 2], [0, 0]], np.uint8)}))
    env.step(HELLO)
    env.step(
        ChatAction(
            tokens=[END],
            extras={"experts": np.array([[5, 6]], np.uint8)},
            amended_extras={"experts": np.array([3, 4], np.uint8)},
        )
    )
    (segment,) = env.trajectory().segments
    column = segment.extras["experts"]
    assert column.rows.tolist() == [[1, 2], [3, 4], [5, 6]]
    assert column.positions.tolist() == np.flatnonzero(segment.loss_mask).tolist()
    spread = column.spread(len(segment.tokens), fill=255)
    assert spread[segment.loss_mask].tolist() == column.rows.tolist()
    assert (spread[~segment.loss_mask] == 255).all()


@pytest.mark.parametrize("messages", [(), (HELLO,)])
def test_a_span_without_tokens_has_no_row_to_amend(messages: tuple[Any, ...]) -> None:
    env = ChatEnvironment(subject(EMBEDDED).engine, add_generation_prompt=False)
    env.reset(messages=messages)
    env.step(ChatAction(tokens=[], stop_reason="abort"))
    with pytest.raises(InvalidRequestError, match="or it has no tokens"):
        env.step(ChatAction(tokens=[*b"a", END], amended_extras={"entropy": np.float32(1)}))


def test_an_action_that_is_made_of_another_one_amends_the_same_row() -> None:
    amends = ChatAction(tokens=[END], amended_extras={"experts": np.array([3, 4], np.uint8), "entropy": 0.5})
    copied = dataclasses.replace(dataclasses.replace(amends, stop_reason="stop"), model_version="v1")
    env = opened()
    env.step(ChatAction(tokens=[END], extras={"experts": np.zeros((1, 2), np.uint8)}))
    env.step(HELLO)
    env.step(copied)
    extras = env.trajectory().segments[0].extras
    assert extras["experts"].rows.tolist() == [[3, 4]]
    assert extras["entropy"].rows.tolist() == [0.5]


def test_an_amended_row_of_another_shape_is_refused_by_its_name() -> None:
    env = opened()
    env.step(ChatAction(tokens=[END], extras={"experts": np.zeros((1, 2), np.uint8)}))
    env.step(HELLO)
    for wrong in (np.zeros((1, 2), np.uint8), np.zeros(2, np.int64)):
        with pytest.raises(InvalidRequestError, match=r"shape \(2,\) of uint8") as caught:
            env.step(ChatAction(tokens=[END], amended_extras={"experts": wrong}))
        assert caught.value.field == "amended_extras"


def test_columns_of_sealed_segments_stay_and_are_not_amended() -> None:
    env = opened()
    env.step(ChatAction(tokens=[*b"a", END], extras={"entropy": np.array([0.5, 0.25], np.float32)}))
    env.step({"role": "user", "content": "Another one."}, replace_from=0)
    with pytest.raises(InvalidRequestError, match="no span before"):
        env.step(ChatAction(tokens=[END], amended_extras={"entropy": np.float32(1)}))
    env.step(ChatAction(tokens=[END], extras={"entropy": np.array([0.125], np.float64)}))
    first, second = env.trajectory().segments
    assert first.extras["entropy"].rows.tolist() == [0.5, 0.25]
    assert second.extras["entropy"].rows.dtype == np.float64


def test_a_step_that_is_taken_back_leaves_no_column() -> None:
    def refuse(_observation: Any) -> Any:
        raise RuntimeError("no")

    env = opened(transform=refuse)
    with pytest.raises(Exception, match="taken back"):
        env.step(ChatAction(tokens=[END], extras={"x": np.array([1], np.uint8)}))
    assert env.trajectory().segments[0].extras == {}
    assert env.held_tokens == env.token_count


@pytest.mark.parametrize(
    ("extras", "match"),
    [
        ({"x": np.array([1], np.uint8)}, "1 rows for 2 tokens"),
        ({"x": np.zeros((2, 5000), np.uint8)}, "5000 bytes a token"),
        ({"": np.array([1, 2], np.uint8)}, "name"),
        ({"known": np.array([1, 2], np.uint8)}, "shape \\(2,\\) of uint8"),
    ],
)
def test_columns_that_do_not_fit_are_refused(extras: Any, match: str) -> None:
    env = opened()
    env.step(ChatAction(tokens=[END], extras={"known": np.array([[1, 2]], np.uint8)}))
    env.step(HELLO)
    with pytest.raises(InvalidRequestError, match=match) as caught:
        env.step(ChatAction(tokens=[*b"a", END], extras=extras))
    assert caught.value.reason == "BAD_EXTRAS"
    assert env.step_count == 2


class Counted(list[ColumnRows]):
    """A list that counts how many of its items are read."""

    reads = 0

    def __getitem__(self, index: Any) -> Any:
        found = super().__getitem__(index)
        self.reads += len(found) if isinstance(index, slice) else 1
        return found


def test_a_step_reads_no_more_of_the_columns_before_it_at_turn_100_than_at_turn_10() -> None:
    env, reads = opened(), []
    columns = env._episode.log.head.records.columns = Counted()  # type: ignore[union-attr]
    for _ in range(100):
        env.step(ChatAction(tokens=[END], extras={"x": np.zeros((1, 2), np.uint8), "y": np.zeros(1)}))
        reads.append(columns.reads)
        columns.reads = 0
        env.step(HELLO)
    assert 0 < reads[99] == reads[9]


@pytest.mark.parametrize("wrong", [{"x": ["a"]}, {"x": [None]}, {"x": np.array([1 + 2j])}])
def test_what_is_no_number_is_refused_where_the_action_is_made(wrong: Any) -> None:
    with pytest.raises(TypeError, match="numbers"):
        ChatAction(tokens=[END], extras=wrong)


def test_columns_travel_and_count_against_the_budget(channel: grpc.Channel) -> None:
    with ChatEnv(channel) as env:
        env.reset(messages=[HELLO])
        before = env.server_info().live_tokens
        experts = np.arange(2 * 48 * 8).astype(np.uint8).reshape(2, 48, 8)
        env.step(ChatAction(tokens=[*b"a", END], extras={"routed_experts": experts}))
        assert env.server_info().live_tokens == before + 2 + experts.nbytes // 4
        env.step(HELLO)
        env.step(ChatAction(tokens=[END], amended_extras={"routed_experts": experts[0]}))
        column = env.trajectory().segments[0].extras["routed_experts"]
        assert column.rows.tobytes() == experts[[0, 0]].tobytes()
        assert [one.rows.tobytes() for one in env.state().column_rows] == [experts.tobytes(), experts[0].tobytes()]


@pytest.mark.parametrize(
    ("column", "match"),
    [
        (pb.Column(name="x", dtype="uint8", data=b"1"), "take 2"),
        (pb.Column(name="x", dtype="complex64", data=b"12"), "no dtype"),
        (pb.Column(name="x", dtype="uint8", row_shape=[2**32 - 1] * 4, data=b"12"), "take"),
    ],
)
def test_bytes_that_are_no_column_are_refused(channel: grpc.Channel, column: pb.Column, match: str) -> None:
    with ChatEnv(channel) as env:
        env.reset(messages=[HELLO])
        request = pb.StepRequest(episode_id=env.episode_id, tokens=[97, END], extras=[column])
        with pytest.raises(grpc.RpcError) as caught:
            ChatEnvServiceStub(channel).Step(request)
        error = error_from_rpc(caught.value)
        assert isinstance(error, InvalidRequestError)
        assert (error.reason, error.field) == ("BAD_EXTRAS", "extras[0]")
        assert match in str(error)
