"""What is known of the tokens of one span: which were sampled, by which weights, and with what logprobs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatenv_client import ChatAction, ChatEnv, InvalidRequestError, Trajectory
from chatenv_client.tokens import mask_of_runs, runs_of_mask
from chatenv_server import ChatEnvironment
from tests.engine.subjects import EMBEDDED, subject

END = 257
HELLO = {"role": "user", "content": "Hello!"}


@dataclass(frozen=True)
class Span:
    tokens: list[int]
    mask: list[bool] | None
    logprobs: list[float] | None
    versions: list[tuple[str, int]]

    def action(self) -> ChatAction:
        return ChatAction(
            tokens=self.tokens, mask=self.mask, logprobs=self.logprobs, model_version_runs=tuple(self.versions)
        )


@st.composite
def spans(draw: st.DrawFn) -> Span:
    tokens = [*draw(st.lists(st.integers(97, 122), min_size=1, max_size=9)), END]
    count = len(tokens)
    floats = st.floats(width=32) | st.sampled_from([float("nan"), float("-inf"), -0.0])
    cut = draw(st.integers(1, count))
    versions = [("v1", cut), ("v2", count - cut)] if cut < count else [("v1", count)]
    return Span(
        tokens,
        draw(st.none() | st.lists(st.booleans(), min_size=count, max_size=count)),
        draw(st.none() | st.lists(floats, min_size=count, max_size=count)),
        draw(st.sampled_from([[], versions])),
    )


def check(trajectory: Trajectory, starts: list[int], said: list[Span]) -> None:
    (segment,) = trajectory.segments
    mask, given_logprobs = np.zeros(len(segment.tokens), np.bool_), np.zeros(len(segment.tokens), np.bool_)
    for start, span in zip(starts, said, strict=True):
        stop = start + len(span.tokens)
        assert segment.tokens[start:stop].tolist() == span.tokens
        mask[start:stop] = True if span.mask is None else span.mask
        given_logprobs[start:stop] = span.logprobs is not None
        if span.logprobs is not None:
            expected = np.array(span.logprobs, np.float32)
            assert segment.logprobs[start:stop].tobytes() == expected.tobytes()
        turn = segment.turns[segment.turn[start]]
        assert turn.model_version_runs == tuple(span.versions)
        assert turn.model_version == (span.versions[-1][0] if span.versions else "")
    assert np.array_equal(segment.loss_mask, mask)
    assert np.array_equal(segment.has_logprob, given_logprobs)
    assert np.isnan(segment.logprobs[~given_logprobs]).all()


@pytest.mark.law(3)
@given(st.lists(spans(), min_size=1, max_size=3))
def test_forced_tokens_versions_and_logprobs_come_back_as_they_were_given(said: list[Span]) -> None:
    env = ChatEnvironment(subject(EMBEDDED).engine)
    observation = env.reset(messages=[HELLO], clock=0.0)
    starts = []
    for span in said:
        starts.append(len(observation.token_ids))
        read = env.step(span.action()).messages[-1]
        assert read["content"] == bytes(span.tokens[:-1]).decode()
        observation = env.step(HELLO)
    check(env.trajectory(), starts, said)
    assert np.array_equal(env.state.loss_mask, env.trajectory().loss_mask)


@pytest.mark.law(14)
def test_they_come_back_over_the_wire(channel: grpc.Channel) -> None:
    said = [
        Span([*b"So", END], [False, True, True], [float("nan"), float("-inf"), -0.5], [("v1", 1), ("v2", 2)]),
        Span([*b"it", END], [True, False, False], None, []),
        Span([*b"is", END], None, [-0.1, -0.2, -0.3], []),
    ]
    with ChatEnv(channel) as env:
        observation, starts = env.reset(messages=[HELLO]).observation, []
        for span in said:
            starts.append(len(observation.token_ids))
            env.step(span.action())
            observation = env.step(HELLO).observation
        check(env.trajectory(), starts, said)
        assert np.array_equal(env.state().loss_mask, env.trajectory().loss_mask)


@given(st.lists(st.booleans(), max_size=20))
def test_runs_say_what_a_mask_says(values: list[bool]) -> None:
    mask = np.array(values, np.bool_)
    runs = runs_of_mask(mask)
    assert mask_of_runs(runs).tolist() == values
    assert all(runs[1:])


def test_a_mask_of_another_length_is_refused() -> None:
    env = ChatEnvironment(subject(EMBEDDED).engine)
    env.reset(messages=[HELLO])
    with pytest.raises(InvalidRequestError, match="the mask has 1 values for 2 tokens"):
        env.step(ChatAction(tokens=[97, END], mask=[True]))
    for wrong in ([0.5, 1.0], ["a", "b"]):
        with pytest.raises(TypeError, match="True and False"):
            ChatAction(tokens=[97, END], mask=wrong)


def test_a_logprob_that_is_none_is_refused_by_its_place() -> None:
    with pytest.raises(ValueError, match=r"logprobs\[1\] is None"):
        ChatAction(tokens=[97, END], logprobs=[-0.5, None])


@pytest.mark.parametrize("wrong", [{"model_version": 1.7}, {"model_version_runs": [(1.7, 2)]}])
def test_a_version_that_is_neither_a_text_nor_a_number_is_refused_where_the_action_is_made(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"'step-17' or 17, not 1\.7"):
        ChatAction(tokens=[97, END], **wrong)


@pytest.mark.parametrize("wrong", [["v1"], [("v1", 1, 1)], {"v1": 2}])
def test_version_runs_that_are_no_pairs_are_refused_where_the_action_is_made(wrong: Any) -> None:
    with pytest.raises(TypeError, match="pairs of a version and a number of tokens"):
        ChatAction(tokens=[97, END], model_version_runs=wrong)
