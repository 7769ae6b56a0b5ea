"""The laws of the token stream, over random episodes, on every tokenizer at hand. docs/tokens.md states them."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from chatenv_client import (
    ChatAction,
    ChatEnv,
    ChatEnvError,
    ChatObservation,
    FidelityKind,
    FidelityReport,
    Message,
    Origin,
    StopReason,
    channel_options,
)
from chatenv_server import ChatEnvironment
from chatenv_server.engine.codec import Codec
from chatenv_server.engine.encodings import Encoded
from chatenv_server.engine.isolated_texts import IsolatedTexts, Surroundings
from chatenv_server.engine.reuse.recordings import MOST_RECORDINGS
from chatenv_server.engine.template import ChatTemplate
from chatenv_server.running.process import start as start_server
from chatenv_server.settings.settings import Settings
from tests.engine.episodes import (
    CALL,
    CLOCK,
    TOOL,
    Plan,
    Said,
    Sampled,
    Span,
    accepted,
    canonical_contents,
    canonical_span,
    dialogues,
    messages,
    openings,
    plans,
    play,
    spans,
    start,
    state_bytes,
    words,
)
from tests.engine.generated_templates import traits
from tests.engine.learning import render_every_time
from tests.engine.small_tokenizers import user
from tests.engine.subjects import EMBEDDED, GENERATED, NAMES, Subject, generated_subject, subject

Law = Callable[..., None]


def law(*drawn: st.SearchStrategy[Any], generated: bool = False) -> Callable[[Law], Law]:
    """A test of one law on every tokenizer: the profile's examples on the embedded one, a tenth on each other.

    Args:
        generated: whether it holds on generated templates, too, each example on another one.
    """

    def decorate(check: Law) -> Law:
        @pytest.mark.parametrize("name", [*NAMES, *([GENERATED] if generated else [])])
        def test(name: str) -> None:
            examples = settings.default.max_examples if settings.default else 100
            subjects = traits.map(generated_subject) if name == GENERATED else st.just(subject(name))

            def holds(tested: Subject, values: tuple[Any, ...]) -> None:
                check(tested, *values)

            holds.__name__ = f"{check.__name__}_{name}"  # examples that failed are remembered by name
            counted = settings(
                max_examples=examples if name == EMBEDDED else max(5, examples // 10),
                suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
            )
            counted(given(subjects, st.tuples(*drawn))(holds))()

        test.__name__, test.__doc__ = check.__name__, check.__doc__
        return test

    return decorate


# -- 1, 2, 3: what was sampled stays, and everything is accounted for ----------------------------------


@pytest.mark.law(1)
@law(plans, generated=True)
def test_01_sampled_spans_stay_bit_identical_for_the_whole_life_of_the_episode(subject: Subject, plan: Plan) -> None:
    def check(env: ChatEnvironment, sampled: Sequence[Sampled]) -> None:
        stream = env.state.token_ids
        for span in sampled:
            assert stream[span.start : span.stop].tolist() == span.tokens

    play(subject, plan, after_each=check)


@pytest.mark.law(2)
@law(plans)
def test_02_a_commit_changes_the_stream_to_exactly_prompt_and_sampled(subject: Subject, plan: Plan) -> None:
    env = start(subject, plan)
    assume(env is not None)
    assert env is not None
    committed: list[int] = []
    for step, prompt in accepted(env, subject, plan):
        stream = env.state.token_ids.tolist()
        assert stream[: len(committed)] == committed
        if isinstance(step, ChatAction):
            committed = [*prompt.tolist(), *step.tokens.tolist()]
            assert stream == committed


@pytest.mark.law(3)
@law(plans)
def test_03_mask_spans_and_logprobs_partition_the_stream(subject: Subject, plan: Plan) -> None:
    played = play(subject, plan)
    assume(played is not None)
    assert played is not None
    env, sampled = played
    state, trajectory = env.state, env.trajectory()
    length = len(state.token_ids)
    expected = np.zeros(length, dtype=bool)
    bits = np.full(length, np.nan, dtype=np.float32)
    for span in sampled:
        expected[span.start : span.stop] = True
        if span.logprobs is not None:
            bits[span.start : span.stop] = span.logprobs
    assert np.array_equal(trajectory.loss_mask, expected)
    assert np.array_equal(state.loss_mask, expected)
    assert np.array_equal(trajectory.tokens, state.token_ids)
    assert trajectory.logprobs.view(np.uint32).tolist() == bits.view(np.uint32).tolist()
    assert [*_joints(trajectory.turns)] == [0, *(turn.stop for turn in trajectory.turns)]
    assert trajectory.turn.tolist() == [i for i, turn in enumerate(trajectory.turns) for _ in range(turn.length)]
    assert sum(turn.origin is Origin.SAMPLED for turn in trajectory.turns) == len(sampled)
    if state.message_spans:
        edges = [0, *(stop for _, stop in state.message_spans)]
        assert [start for start, _ in state.message_spans] == edges[:-1]
        assert edges == sorted(edges)
        assert edges[-1] == length - state.generation_prompt_length
    assert len(state.message_spans) == len(state.history_messages)


def _joints(turns: Sequence[Any]) -> Iterator[int]:
    """The beginning of each turn, then the end of the last."""
    yield from (turn.start for turn in turns)
    yield turns[-1].stop if turns else 0


# -- 4, 5: equality with the tokenizer's own rendering -------------------------------------------------


def _sayable(subject: Subject, given_messages: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the tokenizer's own rendering is a fair reference: it keeps control-token strings out, or there are
    none.
    """
    return subject.sanitizes or not subject.chat_format.controls.occur_in(list(given_messages))


@pytest.mark.law(4)
@law(openings, st.sampled_from([None, [TOOL]]), st.booleans())
def test_04_the_first_prompt_is_what_apply_chat_template_gives(
    subject: Subject, opening: Sequence[Message], tools: Any, prompt: bool
) -> None:
    assume(opening and _sayable(subject, opening))
    env = start(subject, Plan(opening, (), {"tools": tools, "add_generation_prompt": prompt}))
    assume(env is not None)
    assert env is not None
    try:
        expected = subject.full(opening, prompt=prompt, tools=tools)
    except Exception:  # noqa: BLE001 - each tokenizer has an exception of its own for this
        assert not len(env.state.token_ids), "a prompt where the tokenizer itself gives none"
        return
    assert env.state.token_ids.tolist() == expected


def _converse(subject: Subject, plan: Plan) -> Iterator[tuple[ChatEnvironment, list[Any], list[FidelityReport]]]:
    """Play a dialogue of canonical turns; after the opening and after each message: (episode, the messages as they
    are meant, reports so far).
    """
    env = start(subject, plan)
    assume(env is not None)
    assert env is not None
    tools = plan.options.get("tools")
    history: list[Any] = list(plan.opening)
    yield env, history, list(env.state.fidelity)
    for said, following in itertools.pairwise([*plan.steps, ()]):
        if isinstance(said, Said):
            ids = canonical_span(subject, history, said.message, following, tools)
            if ids is None:
                return
            env.step(ChatAction(tokens=ids))
            history.append(said.message)
        else:
            try:
                env.step(said)
            except ChatEnvError:
                return
            history += said
            yield env, history, list(env.state.fidelity)


@pytest.mark.law(5)
@law(dialogues())
def test_05_what_is_not_equal_to_the_full_rendering_carries_a_report(subject: Subject, plan: Plan) -> None:
    for env, history, reports in _converse(subject, plan):
        expected = subject.full(history, tools=plan.options.get("tools"))
        assert reports or env.state.token_ids.tolist() == expected


@pytest.mark.law(5)
@law(dialogues(contents=words))
def test_05_what_carries_a_report_is_not_equal_to_the_full_rendering(subject: Subject, plan: Plan) -> None:
    """The other side of the law, for plain words: a report is never the easy way out."""
    for env, history, reports in _converse(subject, plan):
        # Mistral's looks for the last user message by what it says, and takes an earlier one like it for the last.
        alike = any(left == right for left, right in itertools.combinations(history, 2))
        assume(not (alike and subject.name == "mistral_7b_v0_3"))
        equal = env.state.token_ids.tolist() == subject.full(history, tools=plan.options.get("tools"))
        kinds = {report.kind for report in reports}
        if equal:
            kinds.discard(FidelityKind.TOOL_RESULT_UNMATCHED)  # of the ids, which a template need not write
        assert equal == (not kinds) or FidelityKind.MESSAGE_DROPPED in kinds


# -- 6, 7: batching, reading, refusing -----------------------------------------------------------------


def _units(plan: Plan) -> list[Any]:
    """The plan's steps, one message each."""
    units: list[Any] = []
    for step in plan.steps:
        units += [step] if isinstance(step, Span) else step
    return units


def _grouped(subject: Subject, opening: int, units: Sequence[Any], joins: Sequence[bool], reads: bool) -> Any:
    """Play units, the first `opening` of them at reset, messages joined to the step before them where `joins` says
    so.
    """
    env = ChatEnvironment(subject.engine)
    env.reset(messages=units[:opening], episode_id="e", clock=CLOCK)
    batch: list[Any] = []
    for unit, join in zip([*units[opening:], None], itertools.cycle(joins)):
        if batch and (unit is None or isinstance(unit, Span) or not join):
            env.step(batch)
            batch = []
            if reads:
                _read(env)
        if isinstance(unit, Span):
            env.step(unit.action(subject))
        elif unit is not None:
            batch.append(unit)
    return env.state


def _read(env: ChatEnvironment) -> None:
    env.trajectory()
    env.audit()
    for role in ("user", "tool", "assistant"):
        with contextlib.suppress(ChatEnvError):
            env.message_to_action({"role": role, "content": "x"})
            env.render([{"role": role, "content": "x"}, {"role": "user", "content": "y"}])


@pytest.mark.law(6)
@law(plans, st.lists(st.booleans(), min_size=1, max_size=5), st.integers(0, 3), generated=True)
def test_06_batching_and_reading_do_not_matter(
    subject: Subject, plan: Plan, joins: Sequence[bool], opening: int
) -> None:
    units = [*plan.opening, *_units(plan)]
    opening = min(opening, len(plan.opening))
    try:
        one_by_one = _grouped(subject, opening, units, [False], reads=True)
        together = _grouped(subject, len(plan.opening), units, [True], reads=False)
        mixed = _grouped(subject, opening, units, joins, reads=False)
    except ChatEnvError:
        return  # the template refuses what stands there in between
    for other in (together, mixed):
        assert other.token_ids.tolist() == one_by_one.token_ids.tolist()
        assert other.history_messages == one_by_one.history_messages
        assert other.message_spans == one_by_one.message_spans
        assert sorted(map(repr, other.fidelity)) == sorted(map(repr, one_by_one.fidelity))


class _Moody:
    """A transform that raises when it is told to."""

    raises = False

    def __call__(self, observation: ChatObservation) -> ChatObservation:
        if self.raises:
            raise RuntimeError("moody")
        observation.reward = 0.5
        return observation


_REFUSED: tuple[Any, ...] = (
    ChatAction(),
    ChatAction(tokens=[1, -1]),
    ChatAction(tokens=[1, 2**31 - 1]),
    ChatAction(tokens=[1], logprobs=[-1.0, -2.0]),
    ChatAction(tokens=[1], prompt_fingerprint="0" * 32),
    {"role": "", "content": "x"},
    {"role": "user"},
    {"role": "user", "content": 7},
    [{"role": "user", "content": "x"}, {"role": "assistant", "tool_calls": [{"id": "x"}]}],
)


@pytest.mark.law(7)
@law(plans, st.lists(st.sampled_from(_REFUSED), max_size=3), spans, messages(), generated=True)
def test_07_reading_and_refused_steps_change_nothing(
    subject: Subject, plan: Plan, refused: Sequence[Any], span: Span, message: Message
) -> None:
    moody = _Moody()
    env = ChatEnvironment(subject.engine, transform=moody)
    try:
        env.reset(messages=plan.opening, clock=CLOCK, **plan.options)
    except ChatEnvError:
        return
    for step in [None, *plan.steps]:
        action = step.action(subject) if isinstance(step, Span) else step
        before = state_bytes(env)
        for attempt in (*refused, *([action] if action is not None else []), span.action(subject), message):
            moody.raises = True
            with pytest.raises(ChatEnvError):
                env.step(attempt)
            assert state_bytes(env) == before
        _read(env)
        assert state_bytes(env) == before
        moody.raises = False
        try:
            if action is not None:
                env.step(action)
        except ChatEnvError:
            assert state_bytes(env) == before


# -- 8: control tokens in texts ------------------------------------------------------------------------

_smuggled = st.lists(st.tuples(words, st.integers(0, 2**16), words), min_size=1, max_size=3)


def _result(text: str) -> Message:
    return {"role": "tool", "content": text, "tool_call_id": CALL["id"], "name": "lookup"}


def _texts(subject: Subject, parts: Sequence[tuple[str, int, str]], spelt: bool) -> str:
    controls = subject.control_texts
    return " ".join(f"{a}{controls[i % len(controls)] if spelt else ''}{b}" for a, i, b in parts)


@pytest.mark.law(8)
@law(_smuggled, _smuggled, _smuggled, st.booleans())
def test_08_control_token_strings_in_texts_never_become_control_tokens(
    subject: Subject, first: Any, second: Any, third: Any, with_tool: bool
) -> None:
    def converse(spelt: bool) -> tuple[ChatEnvironment, list[str]]:
        said = [_texts(subject, parts, spelt) for parts in (first, second, third)]
        tool = {"type": "function", "function": {**TOOL["function"], "description": said[0]}}
        env = ChatEnvironment(subject.engine)
        env.reset(messages=[{"role": "user", "content": said[0]}], tools=[tool] if with_tool else None, clock=CLOCK)
        env.step(Span(("Fine",)).action(subject))
        env.step({"role": "user", "content": said[1]})
        env.step(Span(("Right",)).action(subject))
        env.step(_result(said[2]) if "tool" in subject.engine.features else user(said[2]))
        return env, said

    (env, said), (plain, _) = converse(True), converse(False)
    ids, plain_ids = env.state.token_ids.tolist(), plain.state.token_ids.tolist()
    assert [i for i in ids if i in subject.control_ids] == [i for i in plain_ids if i in subject.control_ids]
    text = subject.chat_format.codec.decode(env.state.token_ids)
    assert all(own in text for own in said)
    assert FidelityKind.CONTROL_TOKEN_ESCAPED in {report.kind for report in env.state.fidelity}


# -- 9, 10: cost and position --------------------------------------------------------------------------


class Meter:
    """Characters that are rendered and encoded while it runs."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._rendered = self._encoded = 0
        render, encode, encode_in = ChatTemplate.render, Codec.encode_pieces, IsolatedTexts.encode_in

        def counted_render(template: ChatTemplate, *arguments: Any, **options: Any) -> str:
            text = render(template, *arguments, **options)
            self._rendered += len(text)
            return text

        def counted_encode(codec: Codec, pieces: Any, *arguments: Any) -> Encoded:
            self._encoded += sum(len(text) for text, _ in pieces)
            return encode(codec, pieces, *arguments)

        def counted_encode_in(isolated: IsolatedTexts, around: Surroundings, text: str, *marks: Any) -> Encoded:
            self._encoded += len(text)
            return encode_in(isolated, around, text, *marks)

        patch.setattr(ChatTemplate, "render", counted_render)
        patch.setattr(Codec, "encode_pieces", counted_encode)
        patch.setattr(IsolatedTexts, "encode_in", counted_encode_in)

    def spent(self) -> tuple[int, int]:
        """(rendered, encoded) since last asked."""
        spent, self._rendered, self._encoded = (self._rendered, self._encoded), 0, 0
        return spent


def _costs(
    subject: Subject, opening: str, answer: str, question: str, turns: int, *, reuses: bool
) -> list[tuple[int, int]]:
    """What each exchange costs of an episode in which the same is said again and again."""
    _spend(subject, opening, answer, question, MOST_RECORDINGS + 2, reuses=reuses)  # until there is no more to learn
    return _spend(subject, opening, answer, question, turns, reuses=reuses)


def _spend(
    subject: Subject, opening: str, answer: str, question: str, turns: int, *, reuses: bool
) -> list[tuple[int, int]]:
    env = ChatEnvironment(subject.engine)
    env.reset(messages=[{"role": "user", "content": opening}], clock=CLOCK)
    if not reuses:
        render_every_time(env)
    action = Span((answer,)).action(subject)
    costs = []
    with pytest.MonkeyPatch.context() as patch:
        meter = Meter(patch)
        for _ in range(turns):
            env.step(action)
            env.step({"role": "user", "content": question})
            costs.append(meter.spent())
    return costs


@pytest.mark.law(9)
@law(words, words, words, st.booleans())
def test_09_an_append_costs_the_same_whatever_came_before(
    subject: Subject, opening: str, answer: str, question: str, reuses: bool
) -> None:
    costs = _costs(subject, opening, answer, question, 12, reuses=reuses)
    far = _costs(subject, opening * 500, answer, question, 3, reuses=reuses)
    assert set(costs[1:]) == {costs[1]}
    assert far[1:] == costs[1:3]


@pytest.mark.law(9)
@given(traits.map(generated_subject), words, words, words)
@settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow])
def test_09_an_append_under_a_generated_template_renders_nothing_that_was_said_long_before(
    subject: Subject, opening: str, answer: str, question: str
) -> None:
    """Its markup at most: each message before may add a letter's rendering where the template needs the skeleton."""
    assume(start(subject, Plan([user(opening)])) and not subject.chat_format.dependencies().texts)
    near = _spend(subject, opening, answer, question, 5, reuses=False)
    far = _spend(subject, opening * 500, answer, question, 5, reuses=False)
    assert far[1:] == near[1:]


@pytest.mark.law(9)
@pytest.mark.parametrize("reuses", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_09_an_append_costs_the_same_at_turn_10_and_at_turn_1000(name: str, reuses: bool) -> None:
    turns = ("Hello there", "General greetings to you", "Once more please")
    costs = _costs(subject(name), *turns, 1000, reuses=reuses)
    assert costs[9] == costs[999]
    assert sum(costs[9]) > 0


@pytest.mark.law(10)
@law(dialogues())
def test_10_a_tail_is_what_the_template_writes_behind_the_true_history(subject: Subject, plan: Plan) -> None:
    for env, history, reports in _converse(subject, plan):
        state = env.state
        sampled = [turn for turn in state.turns if turn.origin is Origin.SAMPLED]
        tail = state.token_ids[sampled[-1].stop if sampled else 0 :]
        whole = subject.full(history, tools=plan.options.get("tools"))
        if whole[len(whole) - len(tail) :] != tail.tolist():
            excuses = {FidelityKind.BOUNDARY_MERGE, FidelityKind.MESSAGE_DROPPED}
            assert excuses & {report.kind for report in reports}
            assert subject.text_of(whole).endswith(subject.chat_format.codec.decode(tail))


# -- 11, 12: how turns end, and what they say ----------------------------------------------------------


@pytest.mark.law(11)
@law(plans, generated=True)
def test_11_a_turn_that_ended_in_a_stop_token_is_not_closed_again(subject: Subject, plan: Plan) -> None:
    played = play(subject, plan)
    assume(played is not None)
    assert played is not None
    env, _ = played
    closers = {subject.chat_format.codec.id_of(closer) for closer in subject.chat_format.profile.closers}
    state = env.state
    for turn, following in itertools.pairwise(state.turns):
        if turn.origin is Origin.SAMPLED and following.origin is Origin.TEMPLATE and following.length:
            ends, goes_on = int(state.token_ids[turn.stop - 1]), int(state.token_ids[turn.stop])
            assert not (ends in subject.engine.stop_ids and goes_on in closers)


@pytest.mark.law(11)
@law(canonical_contents, words, st.sampled_from([StopReason.LENGTH, StopReason.ABORT, None]))
def test_11_a_truncated_turn_gets_exactly_the_close_that_it_lacks(
    subject: Subject, content: str, question: str, reason: StopReason | None
) -> None:
    opening = [{"role": "user", "content": "Tell me"}]
    asked = {"role": "user", "content": question}
    ids = canonical_span(subject, opening, {"role": "assistant", "content": content}, [asked], None)
    assert ids is not None

    def answered(sampled: list[int], stop_reason: StopReason | None) -> ChatEnvironment:
        env = ChatEnvironment(subject.engine)
        env.reset(messages=opening, clock=CLOCK)
        env.step(ChatAction(tokens=sampled, stop_reason=stop_reason))
        env.step(asked)
        return env

    stopped, truncated = answered(ids, None), answered(ids[:-1], reason)
    start = truncated.state.turns[1].stop
    assert truncated.state.token_ids[start:].tolist() == stopped.state.token_ids[start:].tolist()
    assert not truncated.trajectory().loss_mask[start:].any()
    kinds = [report.kind for report in truncated.state.fidelity]
    assert kinds.count(FidelityKind.TRUNCATED_TURN_CLOSED) == 1


@pytest.mark.law(11)
@law(words, spans, words, spans, words)
def test_11_whatever_was_sampled_somebody_can_answer(
    subject: Subject, opening: str, first: Span, question: str, second: Span, last: str
) -> None:
    env = ChatEnvironment(subject.engine)
    env.reset(messages=[user(opening)], clock=CLOCK)
    for span, text in ((first, question), (second, last)):
        said = env.step(span.action(subject)).messages[-1]
        env.step(_result(text) if said.get("tool_calls") else user(text))
    assert last in subject.chat_format.codec.decode(env.state.token_ids)


@pytest.mark.law(11)
@given(traits.map(generated_subject), words, spans, words)
@settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow])
def test_11_under_a_generated_template_somebody_can_answer_whatever_was_sampled(
    subject: Subject, opening: str, span: Span, answer: str
) -> None:
    """Unless the template rejects the conversation itself."""
    env = start(subject, Plan([user(opening)]))
    assume(env is not None)
    assert env is not None
    said = env.step(span.action(subject)).messages[-1]
    answered = _result(answer) if said.get("tool_calls") else user(answer)
    try:
        observation = env.step(answered)
    except ChatEnvError:
        with pytest.raises(Exception):  # noqa: B017, PT011 - the template's own, of any kind
            subject.full([user(opening), said, answered])
        return
    dropped = FidelityKind.MESSAGE_DROPPED in {report.kind for report in observation.fidelity}
    assert answer in subject.chat_format.codec.decode(env.state.token_ids) or dropped


@pytest.mark.law(11)
def test_11_another_stop_token_leaves_no_close_before_a_message_that_the_template_alters() -> None:
    phi = subject("phi3_5")
    env = ChatEnvironment(phi.engine)
    env.reset(messages=[user("Good morning.")], clock=CLOCK)
    stop, close = (phi.chat_format.codec.id_of(text) for text in ("<|endoftext|>", "<|end|>"))
    before = env.step(ChatAction(tokens=[*phi.encode("Good morning to you."), stop])).token_ids
    after = env.step(_result("\r")).token_ids
    assert close not in after[len(before) :].tolist()


@pytest.mark.law(12)
@law(dialogues())
def test_12_what_is_read_from_a_canonical_turn_renders_to_the_same_text(subject: Subject, plan: Plan) -> None:
    tools = plan.options.get("tools")
    for env, history, reports in _converse(subject, plan):
        if FidelityKind.HISTORY_REWRITTEN in {report.kind for report in reports}:
            return  # the template writes other text than it was sampled by design
        read = [_with_ids(said, meant) for said, meant in zip(env.state.history_messages, history, strict=True)]
        assert subject.full_text(read, tools=tools) == subject.full_text(history, tools=tools)


def _with_ids(said: Message, meant: Mapping[str, Any]) -> Mapping[str, Any]:
    """A message read from text, with the ids of its calls, which most templates do not write."""
    if not said.get("tool_calls"):
        return said
    calls = [{"id": CALL["id"], **call} for call in said["tool_calls"]]
    return {**said, "tool_calls": calls} if meant.get("tool_calls") else said


# -- 13, 14: elsewhere ---------------------------------------------------------------------------------


@pytest.mark.law(13)
@law(st.lists(plans, min_size=2, max_size=4), generated=True)
def test_13_interleaved_episodes_and_threads_do_not_change_any_stream(subject: Subject, several: list[Plan]) -> None:
    def alone(plan: Plan) -> bytes | None:
        played = play(subject, plan)
        return None if played is None else state_bytes(played[0])

    serial = [alone(plan) for plan in several]
    barrier = threading.Barrier(len(several))

    def at_once(plan: Plan) -> bytes | None:
        barrier.wait()
        return alone(plan)

    with ThreadPoolExecutor(len(several)) as threads:
        assert list(threads.map(at_once, several)) == serial
    envs = [start(subject, plan) for plan in several]
    playing = [accepted(env, subject, plan) for env, plan in zip(envs, several, strict=True) if env is not None]
    for _ in itertools.zip_longest(*playing):
        pass
    assert [None if env is None else state_bytes(env) for env in envs] == serial


def _merges(subject: Subject, prompt: Sequence[int], span: Sequence[int]) -> bool:
    """Whether the prompt's end is encoded otherwise together with the span's beginning, asked of the tokenizer."""
    codec = subject.chat_format.codec
    controls = [place for place, token in enumerate(prompt) if token in subject.control_ids]
    end = np.array(prompt[controls[-1] if controls else 0 :], dtype=np.int32)
    neutral = codec.added.text_of(codec.added.neutral_id)
    alone = neutral + codec.decode(end)
    together = alone + codec.decode_after(end, np.array(span[:4], dtype=np.int32))
    ids, places = subject.encode(alone), subject.tokenizer.backend_tokenizer.encode(together, add_special_tokens=False)
    return bool(places.ids[: len(ids)] != ids or (ids and places.offsets[len(ids) - 1][1] > len(alone)))


EDGES = (
    "<|im_end|>",
    ".",
    "=",
    "'",
    "\n",
    " ",
    "it",
    "'s",
    "a",
    "b",
    "1",
    "\u0301\u0338",
    "e",
    "</think>",
    "!!",
    ".\n",
    "\n\n",
    "   ",
)
_edges = st.lists(st.sampled_from(EDGES), min_size=1, max_size=3).map("".join)


MERGING = (
    ("<|im_end|>.", "it's"),
    ("<|im_end|>=", "\u0301\u0338"),
    ("<|im_end|>\n", "\n\nit"),  # white space that is an added token parts nothing
    ("it \n\n", "\n\n\n"),
    ("it   ", "   it"),
)


@law(_edges, _edges, st.lists(st.integers(0, 250), max_size=2))
def test_merges_are_what_the_tokenizer_says_of_the_whole(
    subject: Subject, before: str, more: str, others: list[int]
) -> None:
    for prompt, span in ((before, more), *MERGING, (before, "it")):
        ids, sampled = subject.encode(prompt)[-8:], [*subject.encode(span), *others]
        if ids and sampled:
            found = subject.chat_format.codec.boundaries.merges(np.array(ids, np.int32), np.array(sampled, np.int32))
            assert found == _merges(subject, ids, sampled), (ids, sampled)


@pytest.fixture(scope="module")
def channels() -> Iterator[Callable[[Subject], grpc.Channel]]:
    """A channel to a real server on a tokenizer, one server each."""
    running: dict[str, tuple[Any, grpc.Channel]] = {}

    def channel(tested: Subject) -> grpc.Channel:
        if tested.name not in running:
            server = start_server(Settings(listen=("127.0.0.1:0",)), engine=tested.engine)
            running[tested.name] = server, grpc.insecure_channel(server.addresses[0], channel_options())
        return running[tested.name][1]

    yield channel
    for server, opened in running.values():
        opened.close()
        server.stop(0)


@pytest.mark.law(14)
@pytest.mark.parametrize("name", NAMES)
def test_14_in_process_and_over_the_wire_give_the_same_streams(
    name: str, channels: Callable[[Subject], grpc.Channel]
) -> None:
    tested = subject(name)
    examples = settings.default.max_examples if settings.default else 100
    client = ChatEnv(channels(tested))

    @settings(max_examples=max(5, examples // (3 if name == EMBEDDED else 20)))
    @given(plans)
    def holds(plan: Plan) -> None:
        env = start(tested, plan)
        options: Any = {"messages": plan.opening, "episode_id": "e", "clock": CLOCK, **plan.options}
        if env is None:
            with pytest.raises(ChatEnvError):
                client.reset(**options)
            return
        result = client.reset(**options)
        for step in plan.steps:
            action = step.action(tested) if isinstance(step, Span) else step
            try:
                observation = env.step(action)
            except ChatEnvError as error:
                with pytest.raises(type(error)):
                    client.step(action)
                continue
            result = client.step(action)
            assert result.observation.fidelity == observation.fidelity
            assert result.observation.token_ids.tolist() == observation.token_ids.tolist()
            assert result.observation.messages == observation.messages
        assert result.observation.token_ids.tolist() == env.state.token_ids.tolist()
        assert replace(client.state(), clock_unix_seconds=None).token_ids.tolist() == env.state.token_ids.tolist()
        ours, theirs = env.trajectory(), client.trajectory()
        assert theirs.turns == ours.turns
        assert theirs.logprobs.tobytes() == ours.logprobs.tobytes()
        assert np.array_equal(theirs.loss_mask, ours.loss_mask)

    holds()
    client.close()
