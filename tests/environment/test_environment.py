"""ChatEnvironment in-process: the Python face of the contract, and faults of older environments it cannot have."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from chatenv_client import ChatAction, ChatObservation, wire
from chatenv_client.errors import (
    EpisodeDoneError,
    HistoryRewrittenError,
    InvalidRequestError,
    PromptMismatchError,
    TemplateRejectedError,
    TransformError,
)
from chatenv_client.models import FidelityKind, Origin, StopReason, Verdict
from chatenv_server import ChatEnvironment, compose
from chatenv_server.engine import TokenEngine
from chatenv_server.tokenizer_files.byte_tokenizer import ByteTokenizer
from tests.environment.conftest import END, QUESTION, said


@pytest.fixture
def env(engine: TokenEngine) -> ChatEnvironment:
    environment = ChatEnvironment(engine, system_prompt="You are brief.")
    environment.reset(messages=[QUESTION], clock=0.0)
    return environment


def test_a_message_is_recorded_under_its_own_role(env: ChatEnvironment) -> None:
    env.step(said("5"))
    env.step({"role": "tool", "content": "42", "tool_call_id": "c1"})
    roles = [message["role"] for message in env.state.history_messages]
    assert roles == ["system", "user", "assistant", "tool"]


def test_the_system_prompt_is_rendered_once(env: ChatEnvironment) -> None:
    for _ in range(3):
        env.step(said("5"))
        env.step(QUESTION)
    assert bytes(i for i in env.state.token_ids.tolist() if i < 256).count(b"You are brief.") == 1


def test_every_step_is_counted(env: ChatEnvironment) -> None:
    assert [env.step(said("5")).step_count, env.step(QUESTION).step_count, env.state.step_count] == [1, 2, 2]


@pytest.mark.parametrize("bad", [[-1], [53, 259], [2**31 - 1]], ids=repr)
def test_a_bad_token_leaves_no_half_step_behind(env: ChatEnvironment, bad: list[int]) -> None:
    before = repr(env.state), env.state.token_ids.tolist()
    with pytest.raises(InvalidRequestError, match="outside 0 to 258") as caught:
        env.step(ChatAction(tokens=bad))
    assert caught.value.reason == "TOKEN_OUT_OF_RANGE"
    assert (repr(env.state), env.state.token_ids.tolist()) == before
    assert env.step(said("5")).step_count == 1


@pytest.mark.parametrize(
    "tokens",
    [[53, END], (53, END), [[53, END]], np.array([[[53, END]]]), np.array([53, END], dtype=np.uint16)],
    ids=repr,
)
def test_sampled_tokens_of_any_shape_with_one_row_are_kept_bit_for_bit(env: ChatEnvironment, tokens: Any) -> None:
    prompt = env.state.token_ids
    assert env.step(ChatAction(tokens=tokens)).token_ids.tolist() == [*prompt.tolist(), 53, END]


def test_torch_tensors_go_in_and_come_out_without_a_copy(env: ChatEnvironment) -> None:
    torch = pytest.importorskip("torch")
    observation = env.step(ChatAction(tokens=torch.tensor([[53, END]])))
    assert observation.tokens.dtype == torch.int32
    assert observation.tokens.data_ptr() == observation.token_ids.ctypes.data
    observation.tokens[0] = 7
    assert env.state.token_ids[0] != 7


def test_the_stream_ends_with_the_generation_prompt_when_it_is_the_models_turn(engine: TokenEngine) -> None:
    for asks in (True, False):
        observation = ChatEnvironment(engine, add_generation_prompt=asks).reset(messages=[QUESTION])
        text = engine.open(_options()).renderer.text_of(observation.token_ids)
        assert text.endswith("<|im_start|>assistant\n") is asks
        assert (observation.generation_prompt_length > 0) is asks


def _options() -> Any:
    from chatenv_server.engine import RenderOptions

    return RenderOptions()


def test_a_ten_line_tokenizer_is_enough() -> None:
    class Words:
        eos_token_id = 0

        def apply_chat_template(self, messages: Any, **_: Any) -> list[int]:
            return [ord(c) for m in messages for c in f"{m['role']}:{m['content']}\0"]

        def decode(self, ids: Any) -> str:
            return "".join(map(chr, ids))

    env = ChatEnvironment(tokenizer=Words())
    env.reset(messages=[{"role": "user", "content": "hi"}])
    env.step(ChatAction(tokens=[104, 111, 0]))
    observation = env.step({"role": "user", "content": "and"})
    assert "".join(map(chr, observation.token_ids)) == "user:hi\0ho\0user:and\0"
    assert env.engine.features == ("plain_path",)


def test_a_tokenizer_without_a_template_gets_a_plain_one_and_a_warning() -> None:
    tokenizer = ByteTokenizer()
    tokenizer.chat_template = None  # type: ignore[assignment]
    with pytest.warns(UserWarning, match="no chat template"):
        env = ChatEnvironment(tokenizer)
    text = bytes(i for i in env.reset(messages=[QUESTION]).token_ids.tolist() if i < 256).decode()
    assert text == "user:\nWhat is two plus three?\n\nassistant:\n"


def test_another_template_can_be_chosen() -> None:
    env = ChatEnvironment(ByteTokenizer(), chat_template="{{ messages[-1].content }}!")
    assert bytes(env.reset(messages=[QUESTION]).token_ids.tolist()) == b"What is two plus three?!"


def test_a_template_that_is_no_jinja_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="not valid Jinja"):
        ChatEnvironment(ByteTokenizer(), chat_template="{% for %}")


def test_message_to_action_changes_nothing_and_shows_what_would_come(env: ChatEnvironment) -> None:
    env.step(said("5"))
    before = env.state.token_ids.tolist()
    action = env.message_to_action({"role": "user", "content": "Sure?"})
    assert env.state.token_ids.tolist() == before
    assert env.step(action).token_ids.tolist() == [*before, *action.tokens.tolist()]


@pytest.mark.parametrize("limit", [{"max_steps": 2}, {"max_tokens": 80}], ids=str)
def test_a_limit_truncates_and_is_no_error(engine: TokenEngine, limit: dict[str, int]) -> None:
    env = ChatEnvironment(engine)
    env.reset(messages=[QUESTION], **limit)  # type: ignore[arg-type]
    env.step(said("5"))
    observation = env.step(QUESTION)
    assert (observation.done, observation.truncated, observation.terminated) == (True, True, False)
    with pytest.raises(EpisodeDoneError):
        env.step(said("5"))
    assert not env.reset(messages=[QUESTION]).done


@pytest.mark.parametrize(("room", "is_truncated"), [(3, False), (2, True), (1, True)])
def test_the_token_limit_is_reached_by_the_last_token_that_fits(
    engine: TokenEngine, room: int, is_truncated: bool
) -> None:
    env = ChatEnvironment(engine)
    length = len(env.reset(messages=[QUESTION]).token_ids)
    env.reset(messages=[QUESTION], max_tokens=length + room)
    assert env.step(said("5")).truncated == is_truncated


def test_an_episode_that_has_ended_is_restored_as_one_that_is_over(engine: TokenEngine) -> None:
    def ends(observation: ChatObservation) -> ChatObservation:
        observation.terminated = True
        return observation

    env, again = ChatEnvironment(engine, transform=ends), ChatEnvironment(engine)
    env.reset(messages=[QUESTION])
    env.step(said("5"))
    assert again.restore(env.snapshot()).terminated
    assert again.state.terminated
    with pytest.raises(EpisodeDoneError):
        again.step(QUESTION)


def test_transforms_set_reward_end_and_metadata_and_compose(engine: TokenEngine) -> None:
    def reward(observation: ChatObservation) -> ChatObservation:
        observation.reward = 1.5
        return observation

    def end(observation: ChatObservation) -> ChatObservation:
        observation.done = True
        observation.metadata["seed"] = observation.seed
        return observation

    env = ChatEnvironment(engine, transform=compose(reward, end))
    env.reset(messages=[QUESTION], seed=7, metadata={"task": "sum"})
    observation = env.step(said("5"))
    assert (observation.reward, observation.terminated, observation.metadata) == (1.5, True, {"task": "sum", "seed": 7})
    assert env.trajectory().turns[-1].reward == 1.5


def test_a_transform_that_raises_takes_the_step_back(engine: TokenEngine) -> None:
    angry = True

    def transform(observation: ChatObservation) -> ChatObservation:
        if angry:
            raise RuntimeError("secret")
        return observation

    env = ChatEnvironment(engine, transform=transform)
    env.reset(messages=[QUESTION], clock=0.0)
    before = repr(env.state), env.state.token_ids.tolist()
    with pytest.raises(TransformError) as caught:
        env.step(said("5"))
    assert "secret" not in str(caught.value)
    assert (repr(env.state), env.state.token_ids.tolist()) == before
    angry = False
    assert env.step(said("5")).step_count == 1


def test_the_trajectory_masks_exactly_what_was_sampled(env: ChatEnvironment) -> None:
    prompt_length = env.token_count
    env.step(ChatAction(tokens=[53, END], logprobs=[-0.25, -0.5], model_version="v7"))
    env.step(QUESTION)
    env.step(ChatAction(tokens=[54], stop_reason="abort"))
    trajectory = env.trajectory()
    sampled = np.flatnonzero(trajectory.loss_mask).tolist()
    assert sampled == [prompt_length, prompt_length + 1, len(trajectory.tokens) - 1]
    assert trajectory.logprobs[sampled[:2]].tolist() == [-0.25, -0.5]
    assert np.isnan(np.delete(trajectory.logprobs, sampled[:2])).all()
    assert [turn.origin for turn in trajectory.turns] == [Origin.TEMPLATE, Origin.SAMPLED] * 2
    assert [turn.stop_reason for turn in trajectory.turns[1::2]] == [StopReason.STOP, StopReason.ABORT]
    assert trajectory.turns[1].model_version == "v7"


def test_tokens_from_another_prompt_are_refused(env: ChatEnvironment) -> None:
    fingerprint = env.step(said("5")).fingerprint()
    env.step(QUESTION)
    with pytest.raises(PromptMismatchError):
        env.step(ChatAction(tokens=[54, END], prompt_fingerprint=fingerprint))
    assert env.step(ChatAction(tokens=[54, END], prompt_fingerprint=env.state.prompt_fingerprint)).step_count == 3


def test_strict_history_refuses_what_append_reports() -> None:
    template = (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + (m.content | trim) + '<|im_end|>\n' }}{% endfor %}"
    )
    reported = ChatEnvironment(ByteTokenizer(), chat_template=template)
    reported.reset(messages=[QUESTION])
    reported.step(said(" 5 "))
    kinds = {report.kind for report in reported.step(QUESTION).fidelity}
    assert FidelityKind.HISTORY_REWRITTEN in kinds
    strict = ChatEnvironment(ByteTokenizer(), chat_template=template, history_policy="strict")
    strict.reset(messages=[QUESTION])
    strict.step(said(" 5 "))
    with pytest.raises(HistoryRewrittenError):
        strict.step(QUESTION)
    assert strict.step_count == 1


def test_what_the_template_rejects_is_refused_in_its_own_words() -> None:
    template = (
        "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}"
        "{{ m.content }}{% endfor %}"
    )
    env = ChatEnvironment(ByteTokenizer(), chat_template=template)
    env.reset(messages=[QUESTION])
    with pytest.raises(TemplateRejectedError, match="no tools"):
        env.step({"role": "tool", "content": "42"})
    assert env.step_count == 0


def test_the_stream_of_a_canonical_episode_is_that_of_the_whole_conversation(env: ChatEnvironment) -> None:
    for answer in ("5", "five", "V"):
        assert env.step(said(answer)).fidelity == ()
        assert env.step(QUESTION).fidelity == ()
    assert env.audit().verdict is Verdict.EXACT


def test_an_older_observation_stays_as_it_was(env: ChatEnvironment) -> None:
    first = env.step(ChatAction(tokens=[53]))
    second = env.step(ChatAction(tokens=[54, END]))
    env.step(QUESTION)
    assert first.messages[-1]["content"] == "5"
    assert second.messages[-1]["content"] == "56"
    assert second.token_ids.tolist() == [*first.token_ids.tolist(), 54, END]


def test_nothing_imports_torch_before_a_tensor_is_asked_for() -> None:
    program = """
import sys
from chatenv_client import ChatAction
from chatenv_server import ChatEnvironment
from chatenv_server.tokenizer_files.byte_tokenizer import ByteTokenizer
env = ChatEnvironment(ByteTokenizer())
env.reset(messages=[{"role": "user", "content": "hi"}])
env.step(ChatAction(tokens=[53, 257])).token_ids
assert not {"torch", "transformers"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, timeout=60)


@pytest.mark.parametrize("actions", [[], [QUESTION], [QUESTION, said("5")], [QUESTION, said("5"), "emptied"]])
def test_an_episode_that_was_opened_without_a_message_is_restored_as_it_was(
    engine: TokenEngine, actions: list[Any]
) -> None:
    env, again = ChatEnvironment(engine), ChatEnvironment(engine)
    env.reset(clock=0.0)
    for action in actions:
        env.step(ChatAction(replace_from=0) if action == "emptied" else action)
    again.restore(env.snapshot())
    assert wire.state_to_proto(again.state) == wire.state_to_proto(env.state)


def test_a_late_reward_is_of_a_step_or_of_a_turn(engine: TokenEngine) -> None:
    env = ChatEnvironment(engine)
    env.reset(messages=[{"role": "user", "content": "Hi"}])
    env.step(ChatAction(tokens=[*b"x", 257]))
    with pytest.raises(InvalidRequestError, match="of a step or of a turn") as caught:
        env.set_reward(1.0, step=1, turn=0)
    assert caught.value.reason == "BAD_REWARD"
    assert env.trajectory().reward is None


@pytest.mark.parametrize("turn", [-1, 1])
def test_a_late_reward_is_of_a_turn_that_the_model_ended(env: ChatEnvironment, turn: int) -> None:
    env.step(said("5"))
    with pytest.raises(InvalidRequestError, match="the model has ended 1 turns") as caught:
        env.set_reward(1.0, turn=turn)
    assert (caught.value.reason, caught.value.field) == ("BAD_REWARD", "turn")
    assert env.trajectory().reward is None


@pytest.mark.parametrize("option", ["metadata", "task_args", "chat_template_kwargs"])
def test_keys_that_are_no_texts_are_refused_and_not_changed(engine: TokenEngine, option: str) -> None:
    env = ChatEnvironment(engine)
    with pytest.raises(InvalidRequestError, match="keys are texts") as caught:
        env.reset(**{option: {"a": {1: 2}}})  # type: ignore[arg-type]
    assert caught.value.field == option


def test_metadata_of_a_transform_has_texts_as_keys(engine: TokenEngine) -> None:
    def numbering(observation: ChatObservation) -> ChatObservation:
        observation.metadata = {1: 2}  # type: ignore[dict-item]
        return observation

    env = ChatEnvironment(engine, transform=numbering)
    env.reset(messages=[{"role": "user", "content": "Hi"}])
    with pytest.raises(TransformError, match="keys are texts"):
        env.step(ChatAction(tokens=[*b"x", 257]))


def test_what_is_shown_is_pickled_and_an_environment_says_how_to_go_about_it(env: ChatEnvironment) -> None:
    shown = env.step(said("5"))
    copied = pickle.loads(pickle.dumps(shown))
    assert (copied.messages, copied.token_ids.tolist()) == (shown.messages, shown.token_ids.tolist())
    assert pickle.loads(pickle.dumps(env.trajectory())).turns == env.trajectory().turns
    for take in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError, match=r"send `snapshot\(\)`, and `restore` it"):
            take(env)
