"""Rows of an episode: prompt and response, what each token earned, and what is no example."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatenv_client import Failure, FailureKind, Origin, Segment, Trajectory, Turn
from chatenv_client.models import segment_of
from chatenv_client.tokens import runs_of_mask

TEMPLATE, SAMPLED = Origin.TEMPLATE, Origin.SAMPLED


def segment(*parts: tuple[Origin, Sequence[bool], float | None], step: int = 0) -> Segment:
    """Of each turn who wrote it, which of its tokens count as sampled, and its reward. Tokens are numbered."""
    turns: list[Turn] = []
    start = 0
    for number, (origin, sampled, reward) in enumerate(parts):
        runs = runs_of_mask(np.array(sampled, dtype=np.bool_)) if origin is SAMPLED and not all(sampled) else ()
        named = {} if reward is None else {"right": reward / 2, "short": reward / 2}
        has = origin is SAMPLED and bool(sampled)
        length = len(sampled)
        turns.append(
            Turn(
                origin, start, length, step + number, 0, 0, reward=reward, has_logprobs=has, sampled_runs=runs,
                rewards=named,
            )
        )  # fmt: skip
        start += length
    given = np.array([-(1.0 + i) for i in range(sum(turn.length for turn in turns if turn.has_logprobs))], np.float32)
    return segment_of(np.arange(start, dtype=np.int32), turns, given, ())


def test_a_split_ends_with_the_last_sampled_token_and_begins_after_the_prompt() -> None:
    one = segment(
        (TEMPLATE, [False] * 3, None),
        (SAMPLED, [True, True], 1.0),
        (TEMPLATE, [False] * 2, None),
        (SAMPLED, [True, False, True], 0.5),
        (TEMPLATE, [False] * 4, None),
    )
    trajectory = Trajectory("e", (one,))
    split = trajectory.split()
    assert split.prompt_ids.tolist() == [0, 1, 2]
    assert split.response_ids.tolist() == [3, 4, 5, 6, 7, 8, 9]
    assert split.response_mask.tolist() == [True, True, False, False, True, False, True]
    assert split.response_logprobs.tolist() == [-1.0, -2.0, 0.0, 0.0, -3.0, 0.0, -5.0]
    assert split.response_rewards is not None
    assert split.response_rewards.tolist() == [0, 1.0, 0, 0, 0, 0, 0.5]
    assert trajectory.prompt_length == 3
    assert (trajectory.reward, trajectory.rewards) == (1.5, {"right": 0.75, "short": 0.75})


def test_where_nothing_was_sampled_there_is_no_split_and_no_row_and_it_is_said() -> None:
    trajectory = Trajectory("e", (segment((TEMPLATE, [False] * 3, None)),))
    with pytest.raises(ValueError, match="nothing was sampled in episode 'e'"):
        trajectory.split()
    assert trajectory.samples() == []
    assert trajectory.prompt_length == 3


def test_where_no_logprob_was_given_there_is_nan_on_sampled_tokens_alone() -> None:
    turns = [Turn(TEMPLATE, 0, 1, 0, 0, 1), Turn(SAMPLED, 1, 3, 1, 1, 1, sampled_runs=(0, 1, 1, 1))]
    one = segment_of(np.arange(4, dtype=np.int32), turns, np.empty(0, np.float32), ())
    assert np.isnan(Trajectory("e", (one,)).split().response_logprobs).tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("rewarded", "failure"), [(False, None), (True, Failure(FailureKind.TOOL, "gone")), (False, Failure.of("other"))]
)
def test_an_episode_that_failed_or_has_no_reward_has_none_and_never_zero(
    rewarded: bool, failure: Failure | None
) -> None:
    one = segment((TEMPLATE, [False], None), (SAMPLED, [True], 1.0 if rewarded else None))
    trajectory = Trajectory("e", (one,), failure=failure)
    (row,) = trajectory.samples()
    assert (row.reward, row.rewards, row.token_rewards, row.failure) == (None, {}, None, failure)
    assert trajectory.split().response_rewards is None


def test_a_reward_of_zero_is_a_reward() -> None:
    (row,) = Trajectory("e", (segment((SAMPLED, [True], 0.0)),)).samples()
    assert row.reward == 0.0
    assert row.token_rewards is not None


def test_all_rows_of_an_episode_say_the_same_of_it() -> None:
    segments = [segment((TEMPLATE, [False], None), (SAMPLED, [True], 1.0), step=2 * k) for k in range(3)]
    rows = Trajectory("e", (*segments, segment((TEMPLATE, [False], None))), group="g").samples()
    assert [(row.episode_id, row.group, row.reward, row.row_count) for row in rows] == [("e", "g", 3.0, 3)] * 3
    assert [row.segment for row in rows] == [0, 1, 2]


def test_several_segments_have_no_one_split() -> None:
    several = Trajectory("e", (segment((SAMPLED, [True], None)), segment((SAMPLED, [True], None))))
    for read in (several.split, several.mask, lambda: several.prompt_length, lambda: several.samples("assistant")):
        with pytest.raises(ValueError, match="segments"):
            read()


def test_given_assistants_are_trained_on_where_they_were_read_and_asked_for() -> None:
    one = segment((TEMPLATE, [False] * 5, None), (SAMPLED, [True], None), (TEMPLATE, [False], None))
    with pytest.raises(ValueError, match="assistants=True"):
        Trajectory("e", (one,)).mask("assistant")
    trajectory = Trajectory("e", (one,), given_assistants=((1, 3),))
    assert trajectory.mask().tolist() == [False] * 5 + [True, False]
    assert trajectory.mask("assistant").tolist() == [False, True, True, False, False, True, False]
    (row,) = trajectory.samples("assistant")
    assert (row.prompt_length, len(row.tokens)) == (1, 6)
    with pytest.raises(ValueError, match="'everything'"):
        trajectory.mask("everything")  # type: ignore[arg-type]


rewards = st.none() | st.integers(-8, 8).map(float)
turns = st.tuples(st.sampled_from([TEMPLATE, SAMPLED]), st.lists(st.booleans(), max_size=3), rewards).map(
    lambda turn: (turn[0], turn[1] if turn[0] is SAMPLED else [False] * len(turn[1]), turn[2])
)


@given(st.lists(st.lists(turns, max_size=4), min_size=1, max_size=3))
def test_what_tokens_earned_adds_up_to_the_reward_and_stands_on_tokens_to_train_on(parts: Any) -> None:
    trajectory = Trajectory("e", tuple(segment(*each) for each in parts))
    rows = trajectory.samples()
    if not rows or trajectory.reward is None:
        assert all(row.token_rewards is None for row in rows)
        return
    earned = [row.token_rewards for row in rows if row.token_rewards is not None]
    assert math.fsum(each.sum() for each in earned) == trajectory.reward
    assert not any(each[~row.loss_mask].any() for row, each in zip(rows, earned, strict=True))


@given(st.lists(turns, max_size=6))
def test_prompt_and_response_are_the_row_and_the_row_begins_the_stream(parts: Any) -> None:
    trajectory = Trajectory("e", (segment(*parts),))
    for row in trajectory.samples():
        split = row.split()
        assert [*split.prompt_ids, *split.response_ids] == row.tokens.tolist()
        assert row.tokens.tolist() == trajectory.tokens[: len(row.tokens)].tolist()
        assert split.response_mask[[0, -1]].all()
        assert len(split.prompt_ids) == row.prompt_length == trajectory.prompt_length
        assert not split.response_logprobs[~split.response_mask].any()
        assert split.response_mask.sum() == trajectory.loss_mask.sum()
