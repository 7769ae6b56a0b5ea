"""What `step` and `reset` take, what they refuse, and what is on record afterwards."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import numpy as np
import pytest

from chatenv_client import ChatAction, ChatEnv, ChatObservation, InvalidRequestError, StopReason, TransformError
from chatenv_client.models import ENGINE_WORDS, ResetOptions
from chatenv_client.tokens import fingerprint_of
from chatenv_server import ChatEnvironment
from chatenv_server.engine import TokenEngine
from chatenv_server.environment.options import EpisodeOptions
from chatenv_server.tokenizer_files.byte_tokenizer import ByteTokenizer
from tests.environment.conftest import END, QUESTION, said

CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": {"a": 2, "b": 3}}}


def _text(env: ChatEnvironment) -> str:
    return ByteTokenizer().decode(env.state.token_ids.tolist())


# -- what is recorded ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "message",
    [
        {"role": "tool", "content": "5", "tool_call_id": "c1", "name": "add"},
        {"role": "assistant", "content": "Let me add.", "tool_calls": [CALL], "reasoning_content": "two, three"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "system", "content": ""},
        {"role": "user", "content": [{"type": "text", "text": "in"}, {"type": "text", "text": "parts"}]},
        {"role": "critic", "content": "  white space  \n", "score": 0.25, "notes": {"nested": [1, None]}},
        {"role": "user", "content": "<|im_end|> e\u0301 🙂"},
    ],
    ids=lambda message: str(message["role"]),
)
def test_a_given_message_is_recorded_as_given(env: ChatEnvironment, message: dict[str, Any]) -> None:
    env.step(said("Well"))
    assert env.step(message).messages[-1] == message
    assert env.step(env.message_to_action(message)).messages[-2:] == [message, message]
    assert env.state.history_messages[-1] == message


def test_a_list_of_messages_is_one_step(env: ChatEnvironment) -> None:
    env.step(said("Well"))
    observation = env.step([{"role": "tool", "content": "5"}, {"role": "tool", "content": "6"}, QUESTION])
    assert observation.step_count == 2
    assert [message["role"] for message in observation.messages[-3:]] == ["tool", "tool", "user"]


def test_state_has_the_tokens_of_each_message(env: ChatEnvironment) -> None:
    env.step(said("5"))
    env.step([{"role": "tool", "content": "right"}, QUESTION])
    state = env.state
    parts = [ByteTokenizer().decode(ids.tolist()) for ids in state.history_token_ids]
    prompt = ByteTokenizer().decode(state.token_ids[-state.generation_prompt_length :].tolist())
    assert prompt == "<|im_start|>assistant\n"
    assert "".join(parts) + prompt == _text(env)
    for part, message in zip(parts, state.history_messages, strict=True):
        assert str(message["content"]) in part


# -- what it means to stop -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tokens", "given", "recorded"),
    [
        ([53, END], None, "stop"),
        ([53], None, "length"),
        ([53], "stop", "stop"),
        ([53, END], "length", "length"),
        ([53, END], StopReason.ABORT, "abort"),
    ],
)
def test_the_stop_reason_is_the_callers_or_follows_from_the_last_token(
    env: ChatEnvironment, tokens: list[int], given: Any, recorded: str
) -> None:
    env.step(ChatAction(tokens=tokens, stop_reason=given))
    assert env.state.turns[-1].stop_reason is StopReason(recorded)


@pytest.mark.parametrize("reason", list(StopReason))
def test_the_words_of_engines_say_why_sampling_stopped(env: ChatEnvironment, reason: StopReason) -> None:
    words = ENGINE_WORDS[reason]
    assert reason.value in words
    for word in words:
        assert ChatAction(tokens=[1], stop_reason=word).stop_reason is reason
        assert ChatAction(tokens=[1], stop_reason=word.upper()).stop_reason is reason
    action = ChatAction(tokens=[53])
    action.stop_reason = words[-1]
    env.step(action)
    assert env.state.turns[-1].stop_reason is reason


def test_no_word_of_an_engine_has_two_meanings() -> None:
    words = [word for each in ENGINE_WORDS.values() for word in each]
    assert len(set(words)) == len(words)


def test_an_unheard_of_stop_reason_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(InvalidRequestError, match="'tired' is no stop reason") as refused:
        ChatAction(tokens=[1], stop_reason="tired")
    assert (refused.value.reason, refused.value.field) == ("BAD_ENUM", "stop_reason")
    assert all(word in refused.value.message for each in ENGINE_WORDS.values() for word in each)
    with pytest.raises(TypeError, match="a stop reason is a word"):
        ChatAction(tokens=[1], stop_reason=3)  # type: ignore[arg-type]


@pytest.mark.parametrize("version", [17, np.int64(17), "17"])
def test_the_number_of_a_model_version_is_its_text(env: ChatEnvironment, version: Any) -> None:
    env.step(ChatAction(tokens=[53], model_version=version))
    env.step(ChatAction(tokens=[53, END], model_version_runs=((version, 1), ("b", 1))))
    sampled = [turn for turn in env.state.turns if turn.stop_reason]
    assert sampled[0].model_version == "17"
    assert sampled[-1].model_version_runs == (("17", 1), ("b", 1))


@pytest.mark.parametrize("version", [True, 1.5, None, b"17"])
def test_what_is_neither_a_text_nor_a_number_is_no_model_version(version: Any) -> None:
    for wrong in ({"model_version": version}, {"model_version_runs": ((version, 1),)}):
        with pytest.raises(TypeError, match="model version"):
            ChatAction(tokens=[53], **wrong)


# -- what is refused -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("action", "reason", "field"),
    [
        (ChatAction(), "EMPTY_ACTION", "tokens"),
        (ChatAction(tokens=[]), "EMPTY_ACTION", "tokens"),
        (ChatAction(tokens=[], logprobs=[0.5], stop_reason="abort"), "LOGPROBS_LENGTH", "logprobs"),
        ([], "EMPTY_ACTION", "tokens"),
        (ChatAction(tokens=[1, 2], logprobs=[-0.5]), "LOGPROBS_LENGTH", "logprobs"),
        (ChatAction(tokens=[1, 2], logprobs=[]), "LOGPROBS_LENGTH", "logprobs"),
        (ChatAction(messages=({"role": "user", "content": "x"},), logprobs=[-0.5]), "BAD_ACTION", "messages"),
        ({"content": "x"}, "BAD_ROLE", "messages[0].role"),
        ({"role": "us\ner", "content": "x"}, "BAD_ROLE", "messages[0].role"),
        ({"role": "user"}, "CONTENT_MISSING", "messages[0].content"),
        ([QUESTION, {"role": "user", "content": None}], "CONTENT_MISSING", "messages[1].content"),
        ({"role": "user", "content": 5}, "BAD_MESSAGE", "messages[0].content"),
        ({"role": "user", "content": [{"type": "image"}]}, "BAD_MESSAGE", "messages[0].content"),
        ({"role": "assistant", "tool_calls": [{"function": {}}]}, "BAD_MESSAGE", None),
        ({"role": "assistant", "tool_calls": 5}, "BAD_MESSAGE", "messages[0].tool_calls"),
        ({"role": "user", "content": "x", "extra": object()}, "BAD_MESSAGE", "messages[0]"),
    ],
)
def test_a_wrong_action_is_refused_by_the_name_of_its_fault(
    env: ChatEnvironment, action: Any, reason: str, field: str | None
) -> None:
    before = _text(env)
    with pytest.raises(InvalidRequestError) as refused:
        env.step(action)
    assert refused.value.reason == reason
    assert field is None or refused.value.field == field
    assert (_text(env), env.step_count) == (before, 0)


@pytest.mark.parametrize("content", ["\ud800", "ok \udfff"], ids=ascii)
def test_text_that_is_no_unicode_is_refused(env: ChatEnvironment, content: str) -> None:
    for message in (
        {"role": "user", "content": content},
        {"role": "user", "content": [{"type": "text", "text": content}]},
        {"role": "user", "content": "x", "name": content},
    ):
        with pytest.raises(InvalidRequestError):
            env.step(message)
    assert env.step_count == 0


@pytest.mark.parametrize("action", ["Hello", [1, 2, 3], np.array([1]), None, 5], ids=repr)
def test_what_is_no_action_at_all_is_a_type_error(env: ChatEnvironment, action: Any) -> None:
    with pytest.raises(TypeError, match="ChatAction"):
        env.step(action)


@pytest.mark.parametrize("tokens", [[[1, 2], [3, 4]], np.zeros((2, 1), dtype=int)], ids=repr)
def test_two_rows_are_refused(tokens: Any) -> None:
    with pytest.raises(ValueError, match="one row"):
        ChatAction(tokens=tokens)


@pytest.mark.parametrize("tokens", [[1.5], np.array([1.0]), [True], ["1"]], ids=repr)
def test_tokens_that_are_no_integers_are_refused(tokens: Any) -> None:
    with pytest.raises(TypeError, match="integers"):
        ChatAction(tokens=tokens)


def test_a_step_before_any_reset_is_refused(engine: TokenEngine) -> None:
    env = ChatEnvironment(engine)
    for look in (lambda: env.step(QUESTION), lambda: env.state, lambda: env.message_to_action(QUESTION)):
        with pytest.raises(InvalidRequestError, match="reset first"):
            look()


# -- reset ---------------------------------------------------------------------------------------------


def test_reset_takes_the_same_keywords_in_process_and_over_the_wire() -> None:
    assert {field.name for field in dataclasses.fields(EpisodeOptions)} == set(ResetOptions.__annotations__)
    assert set(inspect.signature(ChatEnvironment.reset).parameters) - {"self", "answer"} == {"options"}
    assert set(inspect.signature(ChatEnv.reset).parameters) - {"self", "timeout_s"} == {"options"}


def test_a_keyword_that_reset_does_not_have_is_a_type_error(engine: TokenEngine) -> None:
    with pytest.raises(TypeError, match="no keyword 'sed'"):
        ChatEnvironment(engine).reset(sed=7)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="no keyword 'max_step'"):
        ChatEnvironment(engine, max_step=7)  # type: ignore[call-arg]


def test_an_option_that_a_reset_leaves_out_is_the_environments(engine: TokenEngine) -> None:
    env = ChatEnvironment(engine, max_steps=2, metadata={"task": "sum"}, add_generation_prompt=False)
    assert env.reset(messages=[QUESTION]).generation_prompt_length == 0
    assert (env.state.max_steps, env.state.metadata) == (2, {"task": "sum"})
    env.reset(messages=[QUESTION], max_steps=3, metadata=None, add_generation_prompt=True)
    assert (env.state.max_steps, env.state.metadata) == (3, {"task": "sum"})
    assert env.state.generation_prompt_length > 0
    env.reset(messages=[QUESTION])
    assert env.state.max_steps == 2


def test_an_episodes_options_are_its_own(engine: TokenEngine) -> None:
    env = ChatEnvironment(engine)
    opening, metadata = [dict(QUESTION)], {"task": ["sum"]}
    env.reset(messages=opening, metadata=metadata)
    opening[0]["content"] = "something else"
    metadata["task"].append("changed")
    assert (env.state.history_messages, env.state.metadata) == ([QUESTION], {"task": ["sum"]})


def test_an_environment_refuses_a_wrong_option_at_once(engine: TokenEngine) -> None:
    with pytest.raises(ValueError, match="one of 'append', 'strict'"):
        ChatEnvironment(engine, history_policy="forget")


def test_the_system_prompt_of_an_episode_takes_the_place_of_the_environments(engine: TokenEngine) -> None:
    env = ChatEnvironment(engine, system_prompt="You are brief.", system_role="developer")
    assert env.reset(messages=[QUESTION]).messages[0] == {"role": "developer", "content": "You are brief."}
    assert env.reset(messages=[QUESTION], system_prompt="Be long.").messages[0]["content"] == "Be long."
    assert env.reset(messages=[QUESTION], system_prompt="").messages == [QUESTION]
    own = {"role": "developer", "content": "My own."}
    assert env.reset(messages=[own, QUESTION]).messages == [own, QUESTION]
    with pytest.raises(InvalidRequestError) as refused:
        env.reset(messages=[own, QUESTION], system_prompt="And this?")
    assert refused.value.reason == "SYSTEM_PROMPT_TWICE"


def test_an_episode_without_messages_is_empty_until_somebody_speaks(engine: TokenEngine) -> None:
    env = ChatEnvironment(engine)
    observation = env.reset()
    assert (observation.messages, observation.token_ids.tolist(), observation.step_count) == ([], [], 0)
    assert env.step(QUESTION).token_ids.tolist() == env.reset(messages=[QUESTION]).token_ids.tolist()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"max_steps": 0}, "BAD_LIMIT"),
        ({"max_tokens": -1}, "BAD_LIMIT"),
        ({"max_tokens": 2**32}, "BAD_LIMIT"),
        ({"max_steps": 1.5}, "BAD_LIMIT"),
        ({"max_steps": "3"}, "BAD_LIMIT"),
        ({"max_steps": True}, "BAD_LIMIT"),
        ({"tools": "x"}, "BAD_TOOLS"),
        ({"tools": [1]}, "BAD_TOOLS"),
        ({"tools": [{"type": "function", "function": None}]}, "BAD_TOOLS"),
        ({"tools": [{"function": {"name": "\ud800"}}]}, "BAD_TOOLS"),
        ({"system_prompt": "\ud800"}, "BAD_MESSAGE"),
        ({"clock": 1e30}, "BAD_CLOCK"),
        ({"clock": float("nan")}, "BAD_CLOCK"),
        ({"metadata": {"\ud800": 1}}, "BAD_METADATA"),
        ({"chat_template_kwargs": {"messages": []}}, "BAD_TEMPLATE_KWARGS"),
        ({"chat_template_kwargs": {"f": print}}, "BAD_TEMPLATE_KWARGS"),
        ({"metadata": {"x": {1}}}, "BAD_METADATA"),
        ({"metadata": [1]}, "BAD_METADATA"),
        ({"metadata": 5}, "BAD_METADATA"),
        ({"task_args": [1]}, "BAD_TASK"),
        ({"task_args": "a"}, "BAD_TASK"),
        ({"chat_template_kwargs": [("a", 1)]}, "BAD_TEMPLATE_KWARGS"),
        ({"history_policy": "forget"}, "BAD_POLICY"),
        ({"control_token_policy": "forbid"}, "BAD_POLICY"),
        ({"messages": [{"role": "user"}]}, "CONTENT_MISSING"),
    ],
    ids=ascii,
)
def test_a_refused_reset_leaves_the_episode_before_as_it_was(
    env: ChatEnvironment, options: dict[str, Any], reason: str
) -> None:
    env.step(said("5"))
    before = _text(env), env.step_count, env.episode_id
    with pytest.raises(InvalidRequestError) as refused:
        env.reset(**options)
    assert refused.value.reason == reason
    assert (_text(env), env.step_count, env.episode_id) == before
    assert env.step(QUESTION).step_count == 2


class CountingTokenizer:
    """Counts how often it renders."""

    renders = 0

    def __len__(self) -> int:
        return 128

    def apply_chat_template(self, messages: list[dict[str, Any]], **_: Any) -> list[int]:
        self.renders += 1
        return [ord(character) for message in messages for character in message["content"]]

    def decode(self, ids: list[int], **_: Any) -> str:
        return "".join(map(chr, ids))


@pytest.mark.parametrize("options", [{"max_steps": 0}, {"max_tokens": 2**32}, {"clock": 1e30}, {"history_policy": "x"}])
def test_a_bad_option_is_found_before_anything_is_rendered(options: dict[str, Any]) -> None:
    tokenizer = CountingTokenizer()
    env = ChatEnvironment(tokenizer)
    before = tokenizer.renders
    with pytest.raises(InvalidRequestError):
        env.reset(messages=[QUESTION], **options)
    assert tokenizer.renders == before
    env.reset(messages=[QUESTION])
    assert tokenizer.renders > before


def test_template_arguments_reach_the_template_and_unread_ones_are_reported() -> None:
    env = ChatEnvironment(
        ByteTokenizer(), chat_template="{{ mood }} {% for m in messages %}{{ m.content }}{% endfor %}"
    )
    observation = env.reset(messages=[QUESTION], chat_template_kwargs={"mood": "glad", "mode": 1})
    assert _text(env) == "glad What is two plus three?"
    assert [(report.kind.value, "mode" in report.detail) for report in observation.fidelity] == [("kwarg_unused", True)]


def test_a_clock_makes_two_episodes_the_same() -> None:
    template = "{{ strftime_now('%d %B %Y, %H:%M') }}{% for m in messages %}{{ m.content }}{% endfor %}"
    env = ChatEnvironment(ByteTokenizer(), chat_template=template)
    assert [_opened(env, clock=1e9) for _ in range(2)] == [f"09 September 2001, 01:46{QUESTION['content']}"] * 2


def _opened(env: ChatEnvironment, **options: Any) -> str:
    env.reset(messages=[QUESTION], **options)
    return _text(env)


# -- fingerprints --------------------------------------------------------------------------------------


def test_every_observation_has_the_fingerprint_of_its_stream(env: ChatEnvironment) -> None:
    for action in (said("5"), QUESTION, ChatAction(tokens=[54]), ChatAction(tokens=[55, END]), [QUESTION, QUESTION]):
        observation = env.step(action)
        assert observation.fingerprint() == fingerprint_of(observation.token_ids) == env.state.prompt_fingerprint


def test_a_fingerprint_may_be_asked_for_late(env: ChatEnvironment) -> None:
    shown = [env.step(action) for action in (said("5"), QUESTION, ChatAction(tokens=[54]), said("6"), QUESTION)]
    assert env.state.prompt_fingerprint == shown[-1].fingerprint()
    for observation in shown:
        assert observation.fingerprint() == fingerprint_of(observation.token_ids)


def test_a_step_that_is_taken_back_leaves_no_trace_in_fingerprints(engine: TokenEngine) -> None:
    fails = True

    def transform(observation: ChatObservation) -> ChatObservation:
        assert observation.fingerprint() == fingerprint_of(observation.token_ids)
        if fails:
            raise ValueError
        return observation

    env = ChatEnvironment(engine, transform=transform)
    env.reset(messages=[QUESTION])
    with pytest.raises(TransformError):
        env.step(said("five"))
    fails = False
    assert env.step(said("another")).fingerprint() == fingerprint_of(env.state.token_ids)


# -- looking -------------------------------------------------------------------------------------------


def test_a_refused_preview_changes_nothing(env: ChatEnvironment) -> None:
    before = _text(env)
    for messages in ([], [{"role": "user"}]):
        with pytest.raises(InvalidRequestError):
            env.render(messages)
    assert _text(env) == before


def test_a_preview_says_from_where_on_the_stream_would_be_new(env: ChatEnvironment) -> None:
    env.step(said("5"))
    env.step(QUESTION)
    rendered = env.render([{"role": "user", "content": "Quick!"}])
    stream = env.state.token_ids
    would_be = [*stream[: rendered.tokens_offset].tolist(), *rendered.tokens.tolist()]
    assert rendered.tokens_offset < len(stream), "the generation prompt moves to the end"
    assert env.step({"role": "user", "content": "Quick!"}).token_ids.tolist() == would_be
