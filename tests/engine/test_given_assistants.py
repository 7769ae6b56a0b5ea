"""What supervised training trains on: what a model would have had to sample of the turns that were given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest

from chatenv_client import ChatAction, ChatEnvError, InvalidRequestError
from chatenv_client.tokens import Int32Array
from chatenv_server import ChatEnvironment
from tests.engine.episodes import CLOCK, Plan, Said, canonical_span, dialogues
from tests.engine.small_tokenizers import user
from tests.engine.subjects import EMBEDDED, Subject, subject
from tests.engine.test_laws import law

seen: dict[str, int] = {}
"""Episodes that were compared, by tokenizer."""


def _played(tested: Subject, plan: Plan, *, samples: bool) -> ChatEnvironment | None:
    """The episode with its assistants' turns sampled, or given as messages; None where it cannot be played."""
    env = ChatEnvironment(tested.engine)
    history: list[Mapping[str, Any]] = list(plan.opening)
    try:
        env.reset(messages=history, clock=CLOCK, **plan.options)
        for step, following in zip(plan.steps, [*plan.steps[1:], []], strict=True):
            if not isinstance(step, Said):
                history += step
                env.step(step)
                continue
            ids = canonical_span(tested, history, step.message, following, plan.options.get("tools")) if samples else []
            if ids is None:
                return None
            env.step(ChatAction(tokens=ids) if samples else step.message)
            history.append(step.message)
    except ChatEnvError:
        return None
    return env


@law(dialogues(), generated=True)
def test_a_given_turn_is_trained_on_exactly_where_it_would_have_been_sampled(subject: Subject, plan: Plan) -> None:
    sampled, given = (_played(subject, plan, samples=samples) for samples in (True, False))
    if sampled is None or given is None:
        return
    expected, got = sampled.trajectory(assistants=True), given.trajectory(assistants=True)
    if len(expected.segments) > 1 or expected.tokens.tolist() != got.tokens.tolist():
        return
    assert not got.mask("sampled").any()
    assert got.mask("assistant").tolist() == expected.mask("sampled").tolist()
    assert expected.mask("assistant").tolist() == expected.mask("sampled").tolist()
    if subject.chat_format.profile.role_closes["assistant"]:  # else the stop token is the next turn's first, if given
        assert given.state.message_spans == sampled.state.message_spans
    seen[subject.name] = seen.get(subject.name, 0) + 1


def test_the_law_compares_what_it_draws() -> None:
    if EMBEDDED not in seen:
        pytest.skip("the law was not tried in this process")
    assert seen[EMBEDDED] > 10


def _outcome(render: Callable[[], Int32Array]) -> Any:
    try:
        return render().tolist()
    except ChatEnvError as error:
        return type(error)


_beginnings = st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=2, max_size=6)


@law(dialogues(), _beginnings, generated=True)
def test_of_beginnings_that_share_a_part_each_is_encoded_as_it_is_alone(
    subject: Subject, plan: Plan, asked: list[tuple[int, bool]]
) -> None:
    env = _played(subject, plan, samples=False)
    if env is None:
        return
    renderer = env._current().log.renderer
    messages = [renderer.in_form(message) for message in env.state.history_messages]
    tokens = renderer.beginnings(messages)
    for count, prompt in asked:
        alone = _outcome(lambda: renderer.whole_tokens(messages[:count], prompt))  # noqa: B023 - called at once
        assert _outcome(lambda: tokens(count, prompt)) == alone  # noqa: B023


def test_what_a_prefill_begins_with_is_no_turn_of_its_own() -> None:
    env = ChatEnvironment(subject(EMBEDDED).engine)
    env.reset(messages=[user("Why?"), {"role": "assistant", "content": "Be"}], continue_final_message=True)
    env.step(ChatAction(tokens=[*b"cause.", 257]))
    trajectory = env.trajectory(assistants=True)
    assert np.array_equal(trajectory.mask("assistant"), trajectory.mask("sampled"))
    assert trajectory.given_assistants == ()


def test_an_assistant_that_opens_the_conversation_is_found_too() -> None:
    env = ChatEnvironment(subject(EMBEDDED).engine)
    env.reset(messages=[{"role": "assistant", "content": "Hello."}, user("Hi.")])
    trajectory = env.trajectory(assistants=True)
    assert bytes(trajectory.tokens[trajectory.mask("assistant")][:-1].tolist()) == b"Hello."
    assert trajectory.tokens[trajectory.mask("assistant")][-1] == 257


def test_more_given_turns_than_can_be_looked_for_are_refused_and_the_rest_can_be_read() -> None:
    env = ChatEnvironment(subject(EMBEDDED).engine)
    env.reset(messages=[{"role": ("user", "assistant")[i % 2], "content": "x"} for i in range(1500)])
    with pytest.raises(InvalidRequestError, match="750 assistant messages were given") as refused:
        env.trajectory(assistants=True)
    assert refused.value.reason == "TOO_MANY_MESSAGES"
    assert env.trajectory().given_assistants is None
