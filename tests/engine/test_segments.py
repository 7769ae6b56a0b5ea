"""Laws of segments, over random episodes whose history is changed on the way, on every tokenizer at hand."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from chatenv_client import ChatAction, ChatEnvError, ChatObservation, FidelityKind, Message, Origin
from chatenv_client.tokens import Int32Array, fingerprint_of
from chatenv_server import ChatEnvironment
from tests.engine.episodes import (
    TOOL,
    Plan,
    Said,
    Span,
    canonical_span,
    dialogues,
    messages,
    plans,
    spans,
    start,
    state_bytes,
    steps,
    words,
)
from tests.engine.learning import render_every_time
from tests.engine.small_tokenizers import byte_level, user
from tests.engine.subjects import EMBEDDED, NAMES, Subject, subject
from tests.engine.test_laws import Meter, law


@dataclass(frozen=True)
class Rewrite:
    """Messages in the place of all from some index on."""

    at: int
    """Stands for an index: taken modulo one more than there are messages."""
    messages: Sequence[Mapping[str, Any]] = ()

    def index(self, env: ChatEnvironment) -> int:
        return self.at % (env.message_count + 1)


rewrites = st.builds(Rewrite, st.integers(0, 50), st.lists(messages(("user", "user", "tool", "assistant")), max_size=2))
_policies = st.fixed_dictionaries(
    {"history_policy": st.sampled_from(["segment", "segment", "append", "strict"])},
    optional={"tools": st.just([TOOL]), "system_prompt": words, "control_token_policy": st.just("reject")},
)
edited = st.builds(
    lambda plan, more, options: replace(plan, steps=more, options=options),
    plans,
    st.lists(st.one_of(steps, spans, rewrites), min_size=2, max_size=8),
    _policies,
)
"""Episodes in which history is changed now and then."""


@dataclass(frozen=True)
class Sampled:
    """A span as it was sent: its segment, and the prompt that it was sampled from."""

    segment: int
    prompt: Int32Array
    tokens: list[int]
    fingerprint: str


def take(env: ChatEnvironment, subject: Subject, step: Any) -> ChatObservation:
    if isinstance(step, Rewrite):
        return env.step(list(step.messages), replace_from=step.index(env))
    return env.step(step.action(subject) if isinstance(step, Span) else step)


def play(subject: Subject, plan: Plan) -> Iterator[tuple[ChatEnvironment, Any, ChatObservation, list[Sampled]]]:
    """Take the plan's steps; after each that is not refused: the episode, the step, its answer, all spans so far."""
    lists = [step for step in (plan.opening, *plan.steps) if isinstance(step, list)]
    given = [str(message.get("content")) for messages in lists for message in messages]
    # Mistral's looks for the last user message by what it says, and takes an earlier one like it for the last.
    assume(subject.name != "mistral_7b_v0_3" or len(set(given)) == len(given))
    env = start(subject, plan)
    assume(env is not None)
    assert env is not None
    sampled: list[Sampled] = []
    for step in plan.steps:
        before = env.state
        try:
            observation = take(env, subject, step)
        except ChatEnvError:
            assert env.state.token_ids.tolist() == before.token_ids.tolist()
            continue
        if isinstance(step, Span):
            fingerprint = before.prompt_fingerprint
            sampled.append(Sampled(before.segment, before.token_ids, step.ids(subject), fingerprint))
        yield env, step, observation, sampled


# -- 15, 16: what was sampled stays in its segment -----------------------------------------------------


@pytest.mark.law(15)
@law(edited)
def test_15_a_sampled_token_is_trained_on_in_one_segment_alone(subject: Subject, plan: Plan) -> None:
    for env, _, _, sampled in play(subject, plan):
        trajectory = env.trajectory()
        for number, segment in enumerate(trajectory.segments):
            expected = np.zeros(len(segment.tokens), dtype=np.bool_)
            for one in sampled:
                if one.segment == number:
                    expected[len(one.prompt) : len(one.prompt) + len(one.tokens)] = True
            assert np.array_equal(segment.loss_mask, expected)
        assert [row.segment for row in trajectory.samples()] == sorted({one.segment for one in sampled})
        assert all(row.loss_mask[-1] for row in trajectory.samples())


@pytest.mark.law(16)
@law(edited)
def test_16_the_prompt_of_a_span_is_a_prefix_of_its_segment_for_ever(subject: Subject, plan: Plan) -> None:
    for env, _, _, sampled in play(subject, plan):
        segments = env.trajectory().segments
        for one in sampled:
            stream, start_of_span = segments[one.segment].tokens, len(one.prompt)
            assert fingerprint_of(stream[:start_of_span]) == one.fingerprint
            assert stream[start_of_span : start_of_span + len(one.tokens)].tolist() == one.tokens
        for before, after in itertools.pairwise(segments):
            assert after.tokens[: after.shared_length].tolist() == before.tokens[: after.shared_length].tolist()
            assert before.loss_mask[-1]


@pytest.mark.law(16)
@law(edited)
def test_16_a_sealed_segment_never_changes(subject: Subject, plan: Plan) -> None:
    seen: list[Any] = []
    for env, _, _, _ in play(subject, plan):
        sealed = [
            (one.tokens.tolist(), one.turns, one.logprobs.tobytes(), one.fidelity, one.shared_length)
            for one in env.trajectory().segments[:-1]
        ]
        assert sealed[: len(seen)] == seen
        assert [end.token_count for end in env.state.sealed] == [len(tokens) for tokens, *_ in sealed]
        seen = sealed


# -- 17, 18: segments and the template's own rendering -------------------------------------------------


def full(subject: Subject, history: Sequence[Message], tools: Any, *, spelt: bool = False) -> list[list[int]]:
    """The tokenizer's own tokens of a conversation; two where a model sampled control tokens, as such and as text.

    None where it gives none, and where it cannot tell control tokens that a model sampled from texts that spell some:
    it keeps all strings from becoming control tokens, or none. `spelt` says whether a model spelt some.
    """
    said = [message for message in history if message["role"] == "assistant"]
    given = [message for message in history if message["role"] != "assistant"]
    occurs = subject.chat_format.controls.occur_in
    if (occurs(said) and (spelt or occurs(given))) or (occurs(given) and not subject.sanitizes):
        return []
    with_ids = list(map(_with_ids, history)) if subject.chat_format.profile.needs_call_ids else history
    try:
        ways = (True, False) if occurs(said) else (True,)
        return [subject.full(with_ids, tools=tools, sanitized=sanitized) for sanitized in ways]
    except Exception:  # noqa: BLE001 - each tokenizer has an exception of its own for this
        return []


def _with_ids(message: Message) -> Any:
    calls = [{"id": "call00001", **call} for call in message.get("tool_calls") or ()]
    return {**message, "tool_calls": calls} if calls else message


def _has_given_assistant(plan: Plan) -> bool:
    messages = [*plan.opening, *(one for step in plan.steps if not isinstance(step, Span) for one in _messages(step))]
    return any(message.get("role") == "assistant" for message in messages)


def _messages(step: Any) -> Sequence[Mapping[str, Any]]:
    messages: Sequence[Mapping[str, Any]] = step.messages if isinstance(step, Rewrite) else step
    return messages


@pytest.mark.law(17)
@law(edited)
def test_17_a_segment_opens_with_the_full_rendering_of_the_conversation(subject: Subject, plan: Plan) -> None:
    segment = 0
    for env, _, observation, sampled in play(subject, plan):
        if observation.segment > segment and observation.messages:
            spelt = any(subject.spells_controls(one.tokens) for one in sampled) or _has_given_assistant(plan)
            expected = full(subject, observation.messages, plan.options.get("tools"), spelt=spelt)
            if expected:
                assert observation.token_ids.tolist() in expected
                turn = env.state.turns[0]
                assert (turn.origin, turn.length, turn.message_count) == (
                    Origin.TEMPLATE,
                    len(observation.token_ids),
                    len(observation.messages),
                )
        segment = observation.segment


_SIDE_BY_SIDE = (
    "{% for m in messages %}[{{ m.content }}{% if m.role == 'assistant' %}<|im_end|>{% endif %}]{% endfor %}"
    "{% if add_generation_prompt %}[{% endif %}"
)
_edge_texts = st.text("[]a\n", min_size=1, max_size=3)


@pytest.mark.law(17)
@given(st.lists(_edge_texts, min_size=2, max_size=4), _edge_texts, st.integers(0, 4))
def test_17_a_token_that_reaches_over_two_messages_is_written_once(opening: list[str], other: str, at: int) -> None:
    env, tokenizer = ChatEnvironment(_reaching_over()), _reaching_over()
    env.reset(messages=list(map(user, opening)), clock=0.0)
    for number in range(2):
        env.step(ChatAction(tokens=[*tokenizer.encode("Fine"), tokenizer.convert_tokens_to_ids("<|im_end|>")]))
        observation = env.step(user(other + "a" * number), replace_from=at % len(opening))
        expected = tokenizer.apply_chat_template(observation.messages, add_generation_prompt=True, return_dict=False)
        assert observation.token_ids.tolist() == expected


@functools.cache
def _reaching_over() -> Any:
    """A tokenizer with tokens for the end of one message and the beginning of the next."""
    return byte_level(_SIDE_BY_SIDE, merges=[("]", "["), ("[", "["), ("][", "["), ("a", "]"), ("a]", "["), ("]", "]")])


@pytest.mark.law(18)
@law(dialogues())
def test_18_under_segment_every_prompt_is_the_full_rendering(subject: Subject, plan: Plan) -> None:
    plan = replace(plan, options={**plan.options, "history_policy": "segment"})
    env = start(subject, plan)
    assume(env is not None)
    assert env is not None
    tools = plan.options.get("tools")
    history: list[Any] = list(plan.opening)
    for said, following in zip(plan.steps[::2], plan.steps[1::2], strict=False):
        assert isinstance(said, Said)
        ids = canonical_span(subject, history, said.message, following, tools)
        if ids is None:
            return
        env.step(ChatAction(tokens=ids))
        try:
            observation = env.step(following)
        except ChatEnvError:
            return
        history += [said.message, *following]
        kinds = {report.kind for report in env.trajectory().fidelity}
        expected = full(subject, observation.messages, tools)
        assert not expected or observation.token_ids.tolist() in expected
        assert FidelityKind.HISTORY_REWRITTEN not in kinds


def _second_segment(tested: Subject, said: Sequence[int]) -> list[int]:
    """The opening of a segment in whose history a model said these tokens."""
    end = Span(("x",)).ids(tested)[-1:]
    env = ChatEnvironment(tested.engine)
    env.reset(messages=[user("Say it, please.")], clock=0.0)
    for answer in (said, tested.encode("Good")):
        env.step(ChatAction(tokens=[*tested.encode("So"), *answer, *tested.encode("so"), *end]))
        env.step(user("Thank you so much."))
    observation = env.step(user("And once more?"), replace_from=2)
    assert observation.segment >= 1
    return list(observation.token_ids.tolist())


@pytest.mark.law(8)
@pytest.mark.parametrize("name", NAMES)
def test_08_control_tokens_that_a_model_spells_stay_text_in_every_segment(name: str) -> None:
    tested = subject(name)
    controls = [text for text in tested.control_texts if len(text) > 1]
    plain = _second_segment(tested, tested.encode(" yes "))
    for text in controls[:6]:
        spelt = [*tested.encode(text[:1]), *tested.encode(text[1:])]
        if tested.spells_controls(spelt):  # else only the token itself spells it
            ids = _second_segment(tested, spelt)
            assert [i for i in ids if i in tested.control_ids] == [i for i in plain if i in tested.control_ids]


@pytest.mark.law(8)
def test_08_control_tokens_in_a_message_that_a_caller_read_stay_text_in_every_segment() -> None:
    tested = subject(EMBEDDED)
    said: Message = {"role": "assistant", "content": "<|im_start|>system"}
    env = ChatEnvironment(tested.engine)
    env.reset(messages=[user("Say it, please.")], clock=0.0)
    env.step(ChatAction(tokens=[*b"So", 257], message=said))
    env.step(user("Thank you so much."))
    env.step(Span(("Fine",)).action(tested))
    ids = env.step(user("And once more?"), replace_from=2).token_ids.tolist()
    assert ids.count(256) == 4  # of two users, an answer and the prompt
    assert env.state.history_messages[1] == said


# -- 19: what is no change -----------------------------------------------------------------------------


@pytest.mark.law(19)
@law(edited, st.integers(0, 50))
def test_19_a_rewrite_that_changes_nothing_begins_no_segment(subject: Subject, plan: Plan, at: int) -> None:
    for env, _, _, _ in play(subject, plan):
        before, index = env.state, at % (env.message_count + 1)
        try:
            observation = env.step(before.history_messages[index:], replace_from=index)
        except ChatEnvError as error:
            pytest.fail(f"the same messages again were refused: {error}")
        assert observation.segment == before.segment
        assert observation.token_ids.tolist() == before.token_ids.tolist()
        assert observation.fidelity == ()


@pytest.mark.law(19)
@law(words, spans, st.lists(messages(("user", "tool")), min_size=1, max_size=3), words)
def test_19_other_messages_after_the_last_sampled_one_begin_no_segment(
    subject: Subject, opening: str, span: Span, after: Sequence[Message], text: str
) -> None:
    other = {"role": "user", "content": text}
    env, direct = (ChatEnvironment(subject.engine) for _ in range(2))
    for each in (env, direct):
        each.reset(messages=[{"role": "user", "content": opening}], episode_id="e", clock=0.0)
        each.step(span.action(subject))
    try:
        env.step(after)
        expected = direct.step(other)
    except ChatEnvError:
        return
    observation = env.step(other, replace_from=2)
    assert observation.segment == 0
    assert observation.token_ids.tolist() == expected.token_ids.tolist()
    assert observation.messages == expected.messages
    assert env.state.message_spans == direct.state.message_spans


def test_an_audit_names_what_was_read_in_an_earlier_segment() -> None:
    tested = subject(EMBEDDED)
    call = [*b'<tool_call>\n{"name": "lookup", "arguments": {"key": "x"}}\n</tool_call>', 257]
    env = ChatEnvironment(tested.engine)
    env.reset(messages=[user("Look it up.")], tools=[TOOL], clock=0.0)
    env.step(ChatAction(tokens=call))
    env.step({"role": "tool", "content": "It is y.", "name": "lookup"})
    env.step(Span(("Fine",)).action(tested))
    before = env.audit().own_readings
    assert env.step(user("Say it again."), replace_from=3).segment == 1
    assert env.audit().own_readings == before == (1,)


def test_what_was_found_in_an_opening_stays_found_when_messages_follow_on_it() -> None:
    tested = subject(EMBEDDED)
    env = ChatEnvironment(tested.engine)
    env.reset(messages=[user("Hi.")], clock=0.0)
    env.step(Span(("Fine",)).action(tested))
    found = env.step([user("<|im_start|>"), user("Hello."), user("Hm.")], replace_from=0).fidelity
    assert [report.message_index for report in found] == [0]
    assert env.step(user("Well?")).fidelity == ()
    assert env.state.fidelity == found


# -- refused steps, rewards, and what is told apart ----------------------------------------------------


class _Moody:
    raises = False

    def __call__(self, observation: ChatObservation) -> ChatObservation:
        if self.raises:
            raise RuntimeError("moody")
        observation.reward = 1.0
        return observation


@pytest.mark.law(7)
@law(edited)
def test_07_a_refused_rewrite_changes_nothing_and_no_reward_is_lost(subject: Subject, plan: Plan) -> None:
    moody = _Moody()
    env = ChatEnvironment(subject.engine, transform=moody)
    try:
        env.reset(messages=plan.opening, clock=0.0, **plan.options)
    except ChatEnvError:
        return
    for step in plan.steps:
        before = state_bytes(env)
        moody.raises = True
        with pytest.raises(ChatEnvError):
            take(env, subject, step)
        assert state_bytes(env) == before
        moody.raises = False
        try:
            take(env, subject, step)
        except ChatEnvError:
            assert state_bytes(env) == before
        assert (env.trajectory().reward or 0.0) == env.step_count


@pytest.mark.law(6)
@law(edited)
def test_06_texts_that_are_not_held_are_read_back_in_every_segment(subject: Subject, plan: Plan) -> None:
    def keep(observation: ChatObservation) -> ChatObservation:
        return observation

    frugal, keeping = ChatEnvironment(subject.engine), ChatEnvironment(subject.engine, transform=keep)
    try:
        for env in (frugal, keeping):
            env.reset(messages=plan.opening, clock=0.0, episode_id="e", **plan.options)
    except ChatEnvError:
        return
    for step in plan.steps:
        left, right = (_shown(env, subject, step) for env in (frugal, keeping))
        assert left == right
    assert state_bytes(frugal) == state_bytes(keeping)


def _shown(env: ChatEnvironment, subject: Subject, step: Any) -> Any:
    """What a step answers, or why it is refused."""
    try:
        observation = take(env, subject, step)
    except ChatEnvError as error:
        return str(error)
    return observation.messages, observation.token_ids.tolist(), observation.fidelity, observation.segment


# -- 22: what it costs ---------------------------------------------------------------------------------


def _costs(subject: Subject, turns: int, policy: str) -> list[tuple[int, int]]:
    """Characters rendered and encoded for each message of an episode in which models think."""
    env = ChatEnvironment(subject.engine, history_policy=policy)
    env.reset(messages=[{"role": "user", "content": "How are you today?"}], clock=0.0)
    costs = []
    with pytest.MonkeyPatch.context() as patch:
        meter = Meter(patch)
        for turn in range(turns):
            env.step(Span((f"Hmm.\n</think>\n\nFine on day {turn}.",)).action(subject))
            meter.spent()
            env.step({"role": "user", "content": f"And after day {turn}?"})
            costs.append(meter.spent())
    return costs


@pytest.mark.law(22)
def test_22_a_new_segment_encodes_no_more_at_turn_100_than_at_turn_10() -> None:
    tested = subject("own_thoughts_stripped")
    costs = _costs(tested, 100, "segment")
    assert len(set(costs[99:])) == 1
    assert costs[99][1] <= costs[9][1] + 20  # the days have more digits


@pytest.mark.law(22)
@law(words, words)
def test_22_a_step_that_begins_no_segment_does_no_further_work(subject: Subject, answer: str, question: str) -> None:
    def spent(policy: str) -> tuple[list[tuple[int, int]], int]:
        env = ChatEnvironment(subject.engine, history_policy=policy)
        env.reset(messages=[{"role": "user", "content": "How are you today?"}], clock=0.0)
        render_every_time(env)
        costs, inexact = [], 0
        with pytest.MonkeyPatch.context() as patch:
            meter = Meter(patch)
            for _ in range(4):
                inexact += len(env.step(Span((answer,)).action(subject)).fidelity)
                inexact += len(env.step({"role": "user", "content": question}).fidelity)
                costs.append(meter.spent())
        return costs, inexact

    spent("append")  # until there is no more to learn
    costs, inexact = spent("append")
    if not inexact:
        assert spent("segment")[0] == costs


@pytest.mark.law(22)
def test_22_a_sealed_segment_holds_what_the_one_before_lacks() -> None:
    tested = subject("own_thoughts_stripped")
    env = ChatEnvironment(tested.engine, history_policy="segment")
    env.reset(messages=[{"role": "user", "content": "How are you today?"}], clock=0.0)
    for turn in range(20):
        env.step(Span((f"Hmm.\n</think>\n\nFine on day {turn}.",)).action(tested))
        env.step({"role": "user", "content": f"And after day {turn}?"})
    segments = env.trajectory().segments
    assert len(segments) == 21
    assert env.held_tokens == sum(len(one.tokens) - one.shared_length for one in segments[:-1]) + env.token_count
    assert env.held_tokens < 5 * env.token_count < sum(len(one.tokens) for one in segments)
