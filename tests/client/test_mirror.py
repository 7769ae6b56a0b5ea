"""The mirror holds what the server holds, whatever the answers leave out, and its observations never change."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatenv_client import ChatObservation, ChatState, Failure, FailureKind, Message, Origin, ProtocolError, Turn
from chatenv_client.mirror import Mirror
from chatenv_client.tokens import as_token_ids, fingerprint_of
from chatenv_client.wire import ObservationDelta

tokens = st.lists(st.integers(0, 99), max_size=6)
sampled_tokens = st.lists(st.integers(0, 99), min_size=1, max_size=6)


class Step(NamedTuple):
    """What a step did, and how much of what the caller holds is sent again."""

    sampled: list[int]
    """Nothing: a message was given."""
    tail: list[int]
    """Behind what was sampled; or of a new segment all after `kept`."""
    answers: int
    """Messages that a task appended in the same step."""
    kept: int | None
    """A segment begins, with so many tokens of what the caller holds, the sampled ones included; None: none does."""
    again: int
    messages_again: int


steps = st.lists(
    st.builds(
        Step,
        st.just([]) | sampled_tokens,
        tokens,
        st.integers(0, 2),
        st.none() | st.integers(0, 40),
        st.integers(0, 8),
        st.integers(0, 2),
    ),
    max_size=8,
)


class Plain:
    """An episode as plain lists: what the mirror has to agree with."""

    def __init__(self, opening: list[int]) -> None:
        self.frozen: list[int] = []
        self.tail = opening
        self.messages: list[Message] = []
        self.step_count = 0
        self.segment = 0

    def delta(self, tokens_offset: int, messages_offset: int) -> ObservationDelta:
        stream = as_token_ids([*self.frozen, *self.tail])
        observation = ChatObservation(
            episode_id="e",
            step_count=self.step_count,
            prompt_fingerprint=fingerprint_of(stream),
            held_tokens=tokens_offset,
            held_messages=messages_offset,
            segment=self.segment,
        )
        return ObservationDelta(observation, stream[tokens_offset:], self.messages[messages_offset:])

    def step(self, sampled: list[int], tail: list[int], answers: int = 0, kept: int | None = None) -> None:
        if kept is not None:
            self.tail = [*[*self.frozen, *self.tail, *sampled][:kept], *tail]
            self.frozen, self.segment = [], self.segment + 1
        else:
            self.frozen += [*self.tail, *sampled] if sampled else []
            self.tail = tail
        self.step_count += 1
        said = [f"{self.step_count}.{number}" for number in range(1 + answers)]
        appended: list[Message] = [{"role": "user", "content": content} for content in said]
        self.messages = [*self.messages, *appended]


def common(left: list[int], right: list[int]) -> int:
    pairs = zip(left, right, strict=False)
    return next((index for index, (a, b) in enumerate(pairs) if a != b), min(len(left), len(right)))


def shown(observation: ChatObservation) -> tuple[Any, ...]:
    return observation.token_ids.tolist(), observation.messages, observation.fingerprint()


@given(tokens, steps)
def test_the_mirror_shows_what_the_server_holds_and_earlier_observations_stay(
    opening: list[int], script: list[Step]
) -> None:
    plain, mirror = Plain(opening), Mirror("e")
    kept = [mirror.absorb(plain.delta(0, 0))]
    expected = [shown(kept[0])]
    for sampled, tail, answers, segment, again, messages_again in script:
        held, before = [*plain.frozen, *plain.tail, *sampled], len(plain.messages)
        plain.step(sampled, tail, answers, segment)
        stream = [*plain.frozen, *plain.tail]
        offset = max(0, common(held, stream) - again)
        given_messages = () if sampled else (plain.messages[before],)
        messages_offset = max(0, before + len(given_messages) - messages_again)
        kept.append(mirror.absorb(plain.delta(offset, messages_offset), as_token_ids(sampled), given_messages))
        expected.append((stream, plain.messages, fingerprint_of(as_token_ids(stream))))
        assert mirror.token_count == len(stream)
        assert mirror.prompt_fingerprint == expected[-1][2]
    assert [shown(observation) for observation in kept] == expected


@pytest.mark.parametrize(
    "wrong",
    [
        {"step_count": 2},
        {"step_count": 0},
        {"episode_id": "another"},
        {"held_tokens": 9},
        {"held_tokens": 1},
        {"held_messages": 5},
        {"prompt_fingerprint": "0" * 32},
        {"tokens": as_token_ids([1, 2, 4])},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_an_answer_that_does_not_follow_is_refused_and_changes_nothing(wrong: dict[str, Any]) -> None:
    plain, mirror = Plain([1]), Mirror("e")
    before = mirror.absorb(plain.delta(0, 0))
    plain.step([2], [3])
    right, misled = plain.delta(0, 0), plain.delta(0, 0)
    for name, value in wrong.items():
        if name == "tokens":
            misled = misled._replace(tokens=value)
        else:
            setattr(misled.observation, name, value)
    with pytest.raises(ProtocolError):
        mirror.absorb(misled, as_token_ids([2]))
    assert (mirror.step_count, mirror.token_count) == (0, 1)
    assert shown(before) == ([1], [], fingerprint_of(np.array([1], np.int32)))
    assert shown(mirror.absorb(right, as_token_ids([2])))[0] == [1, 2, 3]


def test_a_segment_may_begin_within_what_was_sampled_in_the_same_step() -> None:
    plain, mirror = Plain([1, 2]), Mirror("e")
    early = mirror.absorb(plain.delta(0, 0))
    plain.step([3, 4, 5], [8, 9], answers=1, kept=3)
    late = mirror.absorb(plain.delta(3, 0), as_token_ids([3, 4, 5]))
    assert (early.token_ids.tolist(), late.token_ids.tolist()) == ([1, 2], [1, 2, 3, 8, 9])
    assert (early.messages, late.messages) == ([], plain.messages)
    plain.step([6], [], kept=7)
    with pytest.raises(ProtocolError, match="missing"):
        mirror.absorb(plain.delta(7, 2), as_token_ids([6]))


def test_a_message_that_an_answer_replaces_stays_in_earlier_observations() -> None:
    plain, mirror = Plain([1]), Mirror("e")
    plain.messages = [{"role": "assistant", "content": "half a"}]
    early = mirror.absorb(plain.delta(0, 0))
    plain.step([2], [])
    plain.messages = [{"role": "assistant", "content": "half a word"}]
    late = mirror.absorb(plain.delta(2, 0), as_token_ids([2]))
    assert early.messages == [{"role": "assistant", "content": "half a"}]
    assert late.messages == plain.messages


def test_an_episode_that_is_taken_up_shows_what_a_task_said_of_its_last_step() -> None:
    stream = as_token_ids([1, 2, 3, 4])
    state = ChatState(
        episode_id="e",
        step_count=1,
        history_messages=[{"role": "assistant", "content": "7"}, {"role": "user", "content": "higher"}],
        message_spans=((0, 3), (3, 4)),
        token_ids=stream,
        turns=(
            Turn(Origin.TEMPLATE, 0, 1, 0, 0, 0),
            Turn(Origin.SAMPLED, 1, 2, 1, 0, 1, reward=0.5, rewards={"close": 1.0}),
            Turn(Origin.TEMPLATE, 3, 1, 1, 1, 1),
        ),
        fidelity=(),
        prompt_fingerprint=fingerprint_of(stream),
        turns_left=2,
        tokens_left=7,
        turn_open=True,
        failure=Failure(FailureKind.JUDGE, "it was down"),
    )
    told = Mirror.of_state(state).observation(state)
    assert (told.reward, told.rewards, told.turn_open) == (0.5, {"close": 1.0}, True)
    assert (told.turns_left, told.tokens_left) == (2, 7)
    assert (told.failure, told.done) == (state.failure, True)


def test_an_observation_is_the_callers_own() -> None:
    mirror = Mirror("e")
    plain = Plain([1, 2])
    plain.messages = [{"role": "user", "content": "a"}]
    observation = mirror.absorb(plain.delta(0, 0))
    observation.token_ids[0] = 99
    observation.messages[0]["content"] = "changed"
    plain.step([3], [])
    later = mirror.absorb(plain.delta(3, 1), as_token_ids([3]))
    assert later.token_ids.tolist() == [1, 2, 3]
    assert later.messages[0]["content"] == "a"
