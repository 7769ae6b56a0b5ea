"""Rewards, failures and rows arrive as they were given, and what is none of these is refused by its field."""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatenv_client import Failure, FailureKind, InvalidRequestError, Row, StepReward
from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client.models import RewardChange
from chatenv_client.wire import (
    RowPage,
    fail_from_proto,
    fail_to_proto,
    failure_from_proto,
    failure_to_proto,
    late_reward_from_proto,
    late_reward_to_proto,
    named_rewards_to_proto,
    rewards_from_proto,
    row_page_from_proto,
    row_page_to_proto,
    rows_to_proto,
    set_reward_from_proto,
    set_reward_to_proto,
    step_reward_from_proto,
    step_reward_to_proto,
)

numbers = st.floats(allow_nan=False, allow_infinity=False)
names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=64).filter(str.isprintable)
named = st.dictionaries(names, numbers, min_size=1, max_size=4)
texts = st.text(st.characters(codec="utf-8"), max_size=9)


@st.composite
def changes(draw: st.DrawFn) -> RewardChange:
    rewards = draw(st.just({}) | named)
    weighted = draw(st.lists(st.sampled_from(sorted(rewards)), unique=True)) if rewards else []
    reward = draw(numbers if not rewards else st.none() | numbers)
    return RewardChange(reward, rewards, {name: draw(numbers) for name in weighted})


# Rewards by name.


@given(changes())
def test_rewards_by_name_arrive_with_the_weights_that_they_have(change: RewardChange) -> None:
    encoded = named_rewards_to_proto(change.rewards, change.weights)
    sent = pb.SetRewardResponse(rewards=encoded).SerializeToString()
    assert rewards_from_proto(pb.SetRewardResponse.FromString(sent).rewards) == (change.rewards, change.weights)


ONE = pb.NamedReward(name="one", value=1.0)


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        (pb.NamedReward(value=1.0), "rewards[1].name"),
        (pb.NamedReward(name="n" * 65), "rewards[1].name"),
        (pb.NamedReward(name="a\nb"), "rewards[1].name"),
        (pb.NamedReward(name="one"), "rewards[1].name"),
        (pb.NamedReward(name="two", value=math.nan), "rewards[1].value"),
        (pb.NamedReward(name="two", value=-math.inf), "rewards[1].value"),
        (pb.NamedReward(name="two", weight=math.inf), "rewards[1].weight"),
        (pb.NamedReward(name="two", weight=math.nan), "rewards[1].weight"),
    ],
)
def test_a_reward_that_is_none_is_refused_by_its_field(wrong: pb.NamedReward, field: str) -> None:
    reads: list[tuple[Callable[[], Any], str]] = [
        (lambda: rewards_from_proto([ONE, wrong]), ""),
        (lambda: set_reward_from_proto(pb.SetRewardRequest(step=1, rewards=[ONE, wrong])), ""),
        (lambda: late_reward_from_proto(pb.LateReward(step=1, rewards=[ONE, wrong]), "late[0]"), "late[0]."),
    ]
    for read, prefix in reads:
        with pytest.raises(InvalidRequestError) as caught:
            read()
        assert (caught.value.reason, caught.value.field) == ("BAD_REWARD", prefix + field)


@pytest.mark.parametrize(
    ("rewards", "weights", "field"),
    [
        ({"": 1.0}, None, "rewards"),
        ({"n" * 65: 1.0}, None, "rewards"),
        ({"\ud800": 1.0}, None, "rewards"),
        ({"one": math.nan}, None, "rewards"),
        ({"one": 10**400}, None, "rewards"),
        ({"one": 1.0}, {"one": math.inf}, "weights"),
        ({"one": 1.0}, {"another": 1.0}, "weights"),
    ],
)
def test_a_reward_that_is_none_is_not_sent(rewards: Any, weights: Any, field: str) -> None:
    for write in (named_rewards_to_proto, RewardChange.of):
        with pytest.raises(InvalidRequestError) as caught:
            write(rewards, weights)
        assert (caught.value.reason, caught.value.field) == ("BAD_REWARD", field)


# What a caller may give as a reward.


@pytest.mark.parametrize(
    "number",
    [1, True, 0.5, Decimal("0.5"), np.float32(0.5), np.int64(3), np.bool_(True), np.array(0.5), np.float64(-0.25)],
    ids=repr,
)
def test_a_number_of_any_kind_becomes_a_float(number: Any) -> None:
    for change in (RewardChange.of(number), RewardChange.of({"a": number}, {"a": number})):
        values = [value for value in (change.reward, *change.rewards.values(), *change.weights.values()) if value]
        assert values
        assert {type(value) for value in values} == {float}
        assert set(values) == {float(number)}


@pytest.mark.parametrize(
    "number", ["1.0", b"1", None, [1.0], np.array([1.0]), object(), 1j], ids=lambda one: type(one).__name__
)
def test_what_is_no_number_is_a_type_error(number: Any) -> None:
    for rewards in (number, {"a": number}):
        with pytest.raises(TypeError, match="a reward is a number"):
            RewardChange.of(rewards)


@pytest.mark.parametrize("number", [math.nan, math.inf, np.float32("nan"), 10**400], ids=lambda one: repr(one)[:9])
def test_a_number_that_is_not_finite_is_refused(number: Any) -> None:
    for rewards in (number, {"a": number}):
        with pytest.raises(InvalidRequestError, match="finite"):
            RewardChange.of(rewards)


def test_no_reward_at_all_and_a_weight_of_nothing_are_refused() -> None:
    with pytest.raises(InvalidRequestError, match="no reward to set"):
        RewardChange.of({})
    with pytest.raises(InvalidRequestError, match="by name"):
        RewardChange.of(1.0, {"a": 1.0})


# Requests and answers.


@given(changes(), st.integers(0, 2**32 - 1), st.booleans())
def test_the_rewards_that_are_set_arrive_with_what_they_are_of(
    change: RewardChange, number: int, of_step: bool
) -> None:
    of = {"step": number} if of_step else {"turn": number}
    sent = set_reward_to_proto("e", change, **of).SerializeToString()
    request = pb.SetRewardRequest.FromString(sent)
    assert request.episode_id == "e"
    assert set_reward_from_proto(request) == (change, of.get("step"), of.get("turn"))
    late = pb.LateReward.FromString(late_reward_to_proto(number, change).SerializeToString())
    assert late_reward_from_proto(late) == (number, change)


@pytest.mark.parametrize(
    ("of", "field"), [({}, "step"), ({"step": 1, "turn": 0}, "turn"), ({"step": -1}, "step"), ({"turn": 2**32}, "turn")]
)
def test_a_reward_is_of_one_step_or_of_one_turn(of: dict[str, int], field: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        set_reward_to_proto("e", RewardChange(1.0), **of)
    assert (caught.value.reason, caught.value.field) == ("BAD_REWARD", field)


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.SetRewardRequest(reward=1.0), "step"),
        (pb.SetRewardRequest(step=1), "rewards"),
        (pb.SetRewardRequest(step=1, reward=math.nan), "reward"),
        (pb.SetRewardRequest(turn=0, reward=math.inf), "reward"),
    ],
)
def test_a_request_without_a_step_or_a_reward_is_refused(request_: pb.SetRewardRequest, field: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        set_reward_from_proto(request_)
    assert (caught.value.reason, caught.value.field) == ("BAD_REWARD", field)


@given(st.integers(0, 9), numbers, st.just({}) | named)
def test_the_rewards_on_record_arrive_as_they_are(step: int, reward: float, rewards: dict[str, float]) -> None:
    sent = step_reward_to_proto(StepReward(step, reward, rewards)).SerializeToString()
    assert step_reward_from_proto(pb.SetRewardResponse.FromString(sent)) == StepReward(step, reward, rewards)


# Failures.


@given(st.sampled_from(FailureKind), texts)
def test_a_failure_arrives_as_it_was(kind: FailureKind, reason: str) -> None:
    failure = Failure.of(kind.value, reason)
    assert failure == Failure(kind, reason)
    assert failure_from_proto(pb.Failure.FromString(failure_to_proto(failure).SerializeToString())) == failure
    request = pb.FailEpisodeRequest.FromString(fail_to_proto("e", failure).SerializeToString())
    assert (request.episode_id, fail_from_proto(request)) == ("e", failure)


@pytest.mark.parametrize(
    ("encoded", "reason", "field"),
    [
        (pb.Failure(), "BAD_FAILURE", "failure.kind"),
        (pb.Failure(kind=7), "BAD_ENUM", "failure.kind"),  # type: ignore[arg-type]
        (pb.Failure(kind=pb.FAILURE_KIND_TOOL, reason="x" * 4097), "BAD_FAILURE", "failure.reason"),
    ],
)
def test_a_failure_that_is_none_is_refused_by_its_field(encoded: pb.Failure, reason: str, field: str) -> None:
    reads: list[Callable[[], Any]] = [
        lambda: failure_from_proto(encoded),
        lambda: fail_from_proto(pb.FailEpisodeRequest(failure=encoded)),
    ]
    for read in reads:
        with pytest.raises(InvalidRequestError) as caught:
            read()
        assert (caught.value.reason, caught.value.field) == (reason, field)


def test_a_failure_may_be_left_out_of_no_request() -> None:
    with pytest.raises(InvalidRequestError, match="kind"):
        fail_from_proto(pb.FailEpisodeRequest(episode_id="e"))


@pytest.mark.parametrize(
    ("kind", "reason", "field"),
    [("crash", "", "kind"), ("tool", "x" * 4097, "reason"), ("tool", "half a \ud800 pair", "reason")],
)
def test_a_failure_that_is_none_is_not_sent(kind: str, reason: str, field: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        Failure.of(kind, reason)
    assert (caught.value.reason, caught.value.field) == ("BAD_FAILURE", field)


def test_a_reason_that_is_no_text_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="text"):
        Failure.of(FailureKind.TASK, ValueError("the exception itself"))  # type: ignore[arg-type]


# Rows.


rows = st.builds(Row, st.integers(0, 2**32 - 1), texts, st.dictionaries(texts, st.integers(-5, 5), max_size=3))


@given(st.lists(rows, max_size=4), texts, st.integers(0, 2**32 - 1))
def test_a_page_of_rows_arrives_as_it_was(some: list[Row], token: str, count: int) -> None:
    sent = row_page_to_proto(RowPage(some, token, count)).SerializeToString()
    assert row_page_from_proto(pb.ListRowsResponse.FromString(sent)) == RowPage(some, token, count)


def test_a_page_of_no_size_is_refused() -> None:
    assert rows_to_proto("gsm", "train", 7, "next") == pb.ListRowsRequest(
        task="gsm", split="train", page_size=7, page_token="next"
    )
    with pytest.raises(InvalidRequestError) as caught:
        rows_to_proto("", "", -1, "")
    assert (caught.value.reason, caught.value.field) == ("BAD_PAGE", "page_size")
