"""One episode, through the client: what reset and step answer, and that the state agrees with it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from chatenv_client import (
    AsyncChatEnv,
    ChatAction,
    ChatEnv,
    ChatState,
    EpisodeClosedError,
    EpisodeDoneError,
    EpisodeNotFoundError,
    EpisodeUnknownError,
    InvalidRequestError,
    Origin,
    PromptMismatchError,
    ServerInfo,
    StepResult,
    StopReason,
    Verdict,
)
from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client._generated.chatenv_pb2_grpc import ChatEnvServiceStub
from chatenv_client.preview import action_from_message
from chatenv_client.tokens import fingerprint_of
from tests.contract.conftest import Sampler

HELLO = {"role": "user", "content": "Hello! 你好"}
AGAIN = {"role": "user", "content": "And again?"}
CLOCK = 1_700_000_000.0


def assert_shows(result: StepResult, state: ChatState) -> None:
    observation = result.observation
    assert observation.token_ids.tolist() == state.token_ids.tolist()
    assert observation.messages == state.history_messages
    assert observation.fingerprint() == state.prompt_fingerprint == fingerprint_of(state.token_ids)
    assert observation.step_count == state.step_count
    assert observation.generation_prompt_length == state.generation_prompt_length
    assert (observation.terminated, observation.truncated) == (state.terminated, state.truncated)


def test_reset_shows_the_opening(env: ChatEnv) -> None:
    result = env.reset(system_prompt="Be brief.", messages=[HELLO], seed=3)
    assert result.observation.messages == [{"role": "system", "content": "Be brief."}, HELLO]
    assert result.observation.step_count == 0
    assert result.observation.seed == 3
    assert len(result.observation.token_ids) > result.observation.generation_prompt_length > 0
    assert_shows(result, env.state())


def test_a_conversation_begins_with_the_first_step_when_nothing_was_opened(env: ChatEnv) -> None:
    assert env.reset(system_prompt="").observation.messages == []
    assert env.step(HELLO).observation.messages == [HELLO]


def test_what_was_sampled_follows_the_prompt_and_begins_the_next(env: ChatEnv, sample: Sampler) -> None:
    prompt = env.reset(messages=[HELLO]).observation.token_ids
    for _ in range(3):
        action = sample()
        sampled = env.step(action)
        head = np.concatenate([prompt, action.tokens])
        assert sampled.observation.token_ids[: len(head)].tolist() == head.tolist()
        given = env.step(AGAIN)
        assert given.observation.token_ids[: len(head)].tolist() == head.tolist()
        prompt = given.observation.token_ids
        assert_shows(given, env.state())


def test_a_message_is_recorded_as_given(env: ChatEnv) -> None:
    messages: list[dict[str, Any]] = [
        HELLO,
        {
            "role": "assistant",
            "content": "  I call. ",
            "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": {"b": 1, "a": []}}}],
        },
        {"role": "tool", "content": "42", "tool_call_id": "c1", "name": None},
    ]
    env.reset(system_prompt="")
    assert env.step(messages).observation.messages == messages
    assert env.state().history_messages == messages


def test_a_message_that_its_caller_changes_later_stays_as_it_was_given(env: ChatEnv) -> None:
    env.reset()
    message = dict(HELLO)
    env.step(message)
    message["content"] = "changed"
    assert env.step(AGAIN).observation.messages == [HELLO, AGAIN]


def test_tokens_are_an_assistant_turn_that_was_sampled(env: ChatEnv, sample: Sampler) -> None:
    env.reset(messages=[HELLO])
    messages = env.step(sample()).observation.messages
    assert [message["role"] for message in messages[-2:]] == ["user", "assistant"]
    assert env.state().turns[1].origin is Origin.SAMPLED


@pytest.mark.parametrize("cut_off", [False, True], ids=["at once", "after a turn that was cut off"])
def test_nothing_sampled_is_a_turn_of_no_tokens(env: ChatEnv, sample: Sampler, cut_off: bool) -> None:
    before = env.reset(messages=[HELLO]).observation
    begun = sample(4, stop=False) if cut_off else None
    if begun is not None:
        before = env.step(begun).observation
    prompt = before.token_ids.tolist()
    for stop_reason in ("abort", StopReason.LENGTH):
        result = env.step(ChatAction(tokens=[], stop_reason=stop_reason))
        assert result.observation.token_ids.tolist() == prompt
        assert result.observation.fidelity == before.fidelity
        assert_shows(result, env.state())
    turns = env.state().turns[-2:]
    assert [(turn.length, turn.stop_reason) for turn in turns] == [(0, StopReason.ABORT), (0, StopReason.LENGTH)]
    action = sample()
    result = env.step(action)
    assert result.observation.token_ids.tolist() == [*prompt, *action.tokens]
    assert len(result.observation.messages) == 2  # all is one message
    assert_shows(result, env.state())
    trajectory = env.trajectory()
    assert trajectory.loss_mask.sum() == len(action.tokens) + (4 if begun is not None else 0)


def test_a_message_after_nothing_sampled_closes_an_empty_turn(env: ChatEnv) -> None:
    env.reset(messages=[HELLO])
    env.step(ChatAction(tokens=[], stop_reason="abort"))
    result = env.step(AGAIN)
    assert [message["content"] for message in result.observation.messages] == [HELLO["content"], "", AGAIN["content"]]
    assert_shows(result, env.state())
    assert env.audit().verdict is Verdict.EXACT


def test_an_observation_stays_as_it_was_while_the_episode_goes_on(env: ChatEnv, sample: Sampler) -> None:
    early = env.reset(messages=[HELLO]).observation
    again = env.reset(messages=[HELLO]).observation
    for _ in range(5):
        env.step(sample(50))
        env.step(AGAIN)
    assert again.token_ids.tolist() == early.token_ids.tolist()
    assert again.messages[-1] == HELLO


def test_the_trajectory_trains_on_exactly_what_was_sampled(env: ChatEnv, sample: Sampler) -> None:
    env.reset(messages=[HELLO])
    actions = [sample(5), sample(7, stop=False)]
    for action in actions:
        env.step(action)
        env.step(AGAIN)
    trajectory = env.trajectory()
    assert trajectory.tokens.tolist() == env.state().token_ids.tolist()
    assert trajectory.tokens[trajectory.loss_mask].tolist() == [*actions[0].tokens, *actions[1].tokens]
    given = np.concatenate([action.logprobs for action in actions])
    assert trajectory.logprobs[trajectory.loss_mask].tobytes() == given.tobytes()
    assert np.isnan(trajectory.logprobs[~trajectory.loss_mask]).all()
    sampled = [turn for turn in trajectory.turns if turn.origin is Origin.SAMPLED]
    assert [turn.stop_reason for turn in sampled] == [StopReason.STOP, StopReason.LENGTH]
    assert {turn.model_version for turn in sampled} == {"v1"}


def test_message_to_action_tells_what_the_step_will_add(env: ChatEnv) -> None:
    env.reset(messages=[HELLO])
    action = env.message_to_action(AGAIN)
    assert action.messages == (AGAIN,)
    stream = env.step(action).observation.token_ids
    assert stream[len(stream) - len(action.tokens) :].tolist() == action.tokens.tolist()


def test_what_messages_would_add_can_be_read_before_they_are_sent(env: ChatEnv) -> None:
    before = env.reset(messages=[HELLO]).observation.token_ids
    rendered = env.render([AGAIN, HELLO])
    after = env.step([AGAIN, HELLO]).observation.token_ids
    assert [*before[: rendered.tokens_offset], *rendered.tokens] == after.tolist()


def test_an_observation_shows_itself_as_it_was_and_not_what_came_later(env: ChatEnv) -> None:
    first = env.reset(messages=[HELLO]).observation
    shown = repr(first)
    env.step(AGAIN)
    assert repr(first) == shown
    assert f"<{len(first.token_ids)} tokens>, conversation=<1 messages>" in shown


def test_a_message_may_be_tokenized_at_the_caller(env: ChatEnv) -> None:
    tokenizer = pytest.importorskip(
        "chatenv_server.tokenizer_files.byte_tokenizer", reason="no server is installed"
    ).ByteTokenizer()
    action = env.message_to_action(AGAIN, tokenizer)
    assert action.tokens.tolist() == tokenizer.apply_chat_template([AGAIN])
    env.reset()
    assert env.step(action).observation.messages == [AGAIN]


def test_a_tokenizer_of_transformers_tokenizes_at_the_caller(conformance_dir: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed", exc_type=ImportError)
    tokenizer = transformers.AutoTokenizer.from_pretrained(conformance_dir / "tokenizers" / "qwen2_5")
    action = action_from_message(AGAIN, tokenizer)
    assert tokenizer.decode(action.tokens) == tokenizer.apply_chat_template([AGAIN], tokenize=False)


def test_reading_changes_nothing(env: ChatEnv, stub: ChatEnvServiceStub, sample: Sampler) -> None:
    env.reset(messages=[HELLO])
    env.step(sample())

    def state() -> bytes:
        return stub.GetState(pb.GetStateRequest(episode_id=env.episode_id)).SerializeToString(deterministic=True)

    before = state()
    env.state()
    env.trajectory()
    env.audit()
    env.message_to_action(AGAIN)
    env.server_info()
    assert state() == before


@pytest.mark.parametrize(
    "bad",
    [
        ChatAction(tokens=[0, -1]),
        ChatAction(tokens=[0, 2**31 - 1]),
        ChatAction(tokens=[0], logprobs=[0.0, 0.0]),
        ChatAction(),
        [HELLO, {"role": "user"}],
        [HELLO, {"role": "", "content": ""}],
        [HELLO, {"role": "user", "content": "", "tool_calls": [{}]}],
    ],
    ids=["negative", "beyond", "logprobs", "empty", "no content", "no role", "nameless call"],
)
def test_a_refused_step_changes_nothing_and_the_next_one_works(
    env: ChatEnv, stub: ChatEnvServiceStub, sample: Sampler, bad: Any
) -> None:
    env.reset(messages=[HELLO])
    env.step(sample())
    request = pb.GetStateRequest(episode_id=env.episode_id)
    before = stub.GetState(request).SerializeToString(deterministic=True)
    with pytest.raises(InvalidRequestError):
        env.step(bad)
    assert stub.GetState(request).SerializeToString(deterministic=True) == before
    assert_shows(env.step(AGAIN), env.state())


def test_tokens_sampled_from_another_prompt_are_refused(env: ChatEnv, sample: Sampler) -> None:
    stale = env.reset(messages=[HELLO]).observation.fingerprint()
    env.step(AGAIN)
    action = sample()
    action.prompt_fingerprint = stale
    with pytest.raises(PromptMismatchError) as caught:
        env.step(action)
    assert caught.value.details["received_fingerprint"] == stale
    assert env.state().step_count == 1


def test_the_client_proves_by_itself_what_the_tokens_were_sampled_from(
    env: ChatEnv, stub: ChatEnvServiceStub, sample: Sampler
) -> None:
    env.reset(episode_id="contract:proof", messages=[HELLO])
    stub.Reset(pb.ResetRequest(episode_id="contract:proof", messages=[pb.Message(role="user", content="Surprise!")]))
    action = sample()
    with pytest.raises(PromptMismatchError):
        env.step(action)
    assert action.prompt_fingerprint == "", "the caller's action is not written to"


class AnswerSizes(grpc.UnaryUnaryClientInterceptor):
    """Notes how many bytes each answer has."""

    def __init__(self) -> None:
        self.bytes: list[int] = []

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        call = continuation(client_call_details, request)
        self.bytes.append(call.result().ByteSize())
        return call


@pytest.mark.served
def test_the_client_is_sent_only_what_is_new(channel: grpc.Channel, sample: Sampler) -> None:
    sizes, action = AnswerSizes(), sample(64)
    with ChatEnv(grpc.intercept_channel(channel, sizes)) as env:
        env.reset(messages=[HELLO])
        for _ in range(30):
            env.step(action)
            env.step(AGAIN)
        steps = sizes.bytes[1:]
        varints = 8
        assert steps[-2] <= steps[4] + varints
        assert steps[-1] <= steps[5] + varints


def test_the_step_limit_truncates_and_the_step_behind_it_is_refused(env: ChatEnv) -> None:
    env.reset(max_steps=2)
    assert not env.step(HELLO).done
    result = env.step(AGAIN)
    assert result.done
    assert result.observation.truncated
    assert not result.observation.terminated
    with pytest.raises(EpisodeDoneError):
        env.step(AGAIN)


def test_the_token_limit_truncates(env: ChatEnv) -> None:
    length = len(env.reset(messages=[HELLO]).observation.token_ids)
    env.reset(messages=[HELLO], max_tokens=length + 1)
    assert env.step(AGAIN).observation.truncated


def test_no_generation_prompt_is_written_when_none_is_asked_for(env: ChatEnv) -> None:
    with_prompt = env.reset(messages=[HELLO]).observation
    without = env.reset(messages=[HELLO], add_generation_prompt=False).observation
    assert without.generation_prompt_length == 0
    assert with_prompt.token_ids[: -with_prompt.generation_prompt_length].tolist() == without.token_ids.tolist()


def test_the_same_script_gives_the_same_episode(env: ChatEnv, channel: grpc.Channel, sample: Sampler) -> None:
    script: list[Any] = [sample(), AGAIN, sample(3, stop=False), [AGAIN, HELLO]]

    def shown(client: ChatEnv) -> list[Any]:
        results = [client.reset(messages=[HELLO], seed=7, clock=CLOCK), *map(client.step, script)]
        states = [client.state().turns, client.trajectory().tokens.tolist()]
        return [(r.observation.fingerprint(), r.observation.messages, r.reward, r.done) for r in results] + states

    with ChatEnv(channel) as other:
        assert shown(env) == shown(other)


def test_interleaved_episodes_are_as_if_each_were_alone(channel: grpc.Channel, sample: Sampler) -> None:
    scripts: list[list[Any]] = [
        [sample(), {"role": "user", "content": f"I am {number}"}, sample()] for number in range(4)
    ]

    def stream(client: ChatEnv) -> list[int]:
        return [int(token) for token in client.state().token_ids]

    alone = []
    for script in scripts:
        with ChatEnv(channel) as client:
            client.reset(messages=[HELLO], clock=CLOCK)
            for action in script:
                client.step(action)
            alone.append(stream(client))
    together = [ChatEnv(channel) for _ in scripts]
    for client in together:
        client.reset(messages=[HELLO], clock=CLOCK)
    for actions in zip(*scripts, strict=True):
        for client, action in zip(together, actions, strict=True):
            client.step(action)
    assert [stream(client) for client in together] == alone


def test_a_disconnect_loses_nothing(env: ChatEnv, target: str, sample: Sampler) -> None:
    first = ChatEnv(target)
    first.reset(messages=[HELLO])
    left = first.step(sample())
    first._connection.channel.close()
    result = env.resume(left.observation.episode_id)
    assert_shows(result, env.state())
    assert result.observation.token_ids.tolist() == left.observation.token_ids.tolist()
    assert_shows(env.step(AGAIN), env.state())


def test_an_episode_that_was_resumed_is_left_to_whoever_opened_it(env: ChatEnv, channel: grpc.Channel) -> None:
    theirs = env.reset(messages=[HELLO]).observation.episode_id
    with ChatEnv(channel) as other:
        other.resume(theirs)
        other.step(AGAIN)
    with ChatEnv(channel) as other:
        other.resume(theirs)
        other.reset()
    env.resume(theirs)  # its own: a lost step is taken up so
    assert env.step(HELLO).observation.step_count == 2
    env.close()
    with pytest.raises(EpisodeClosedError):
        ChatEnv(channel).resume(theirs)


def test_a_resumed_episode_that_is_started_anew_is_ones_own(env: ChatEnv, channel: grpc.Channel) -> None:
    theirs = env.reset().observation.episode_id
    with ChatEnv(channel) as other:
        other.resume(theirs)
        other.reset(episode_id=theirs)
    with pytest.raises(EpisodeClosedError):
        env.step(HELLO)


def test_a_named_episode_is_started_anew(env: ChatEnv) -> None:
    env.reset(episode_id="contract:renewed", messages=[HELLO])
    env.step(AGAIN)
    result = env.reset(episode_id="contract:renewed", messages=[AGAIN], system_prompt="")
    assert result.observation.messages == [AGAIN]
    assert_shows(result, env.state())


def test_resetting_frees_the_episode_before(env: ChatEnv, channel: grpc.Channel) -> None:
    before = env.reset().observation.episode_id
    env.reset()
    with pytest.raises(EpisodeClosedError):
        ChatEnv(channel).resume(before)


@pytest.mark.parametrize("options", [{"bogus": 1}, {"system_prompt": 3}, {"max_steps": -1}, {"metadata": {"a": {1}}}])
def test_a_reset_that_cannot_be_sent_leaves_the_episode_before(env: ChatEnv, options: Any) -> None:
    env.reset()
    with pytest.raises((TypeError, InvalidRequestError)):
        env.reset(**options)
    assert env.step(HELLO).observation.step_count == 1


def test_unknown_and_closed_are_told_apart_and_neither_is_recreated(env: ChatEnv, channel: grpc.Channel) -> None:
    other = ChatEnv(channel)
    with pytest.raises(EpisodeUnknownError):
        other.resume("contract:never-was")
    closed = env.reset().observation.episode_id
    other.resume(closed)
    env.close()
    for _ in range(2):
        with pytest.raises(EpisodeClosedError):
            other.step(HELLO)
    with pytest.raises(EpisodeNotFoundError):
        other.state()


def test_closing_twice_is_fine(env: ChatEnv, stub: ChatEnvServiceStub) -> None:
    request = pb.CloseEpisodeRequest(episode_id=env.reset().observation.episode_id)
    assert stub.CloseEpisode(request).was_live
    assert not stub.CloseEpisode(request).was_live
    env.close()
    env.close()


def test_an_episode_that_was_closed_may_be_opened_again(env: ChatEnv, stub: ChatEnvServiceStub) -> None:
    env.reset(episode_id="contract:reopened")
    stub.CloseEpisode(pb.CloseEpisodeRequest(episode_id="contract:reopened"))
    assert env.reset(episode_id="contract:reopened").observation.step_count == 0


def test_both_clients_show_the_same_episode(env: ChatEnv, target: str, sample: Sampler) -> None:
    script: list[Any] = [sample(), AGAIN, [HELLO, AGAIN], sample(4, stop=False)]

    async def drive() -> list[Any]:
        async with AsyncChatEnv(target) as client:
            results = [await client.reset(messages=[HELLO], clock=CLOCK)]
            results += [await client.step(action) for action in script]
            action = await client.message_to_action(AGAIN)
            reads = (await client.state()).turns, (await client.trajectory()).tokens.tolist(), await client.audit()
            resumed = await client.resume(client.episode_id or "")
            version = (await client.server_info()).version
            with pytest.raises(InvalidRequestError):
                await client.step(ChatAction())
        return [*map(shown, results), action.tokens.tolist(), *reads, shown(resumed)[:2], version]

    def shown(result: StepResult) -> tuple[Any, ...]:
        observation = result.observation
        return observation.fingerprint(), observation.messages, observation.step_count, result.reward, result.done

    results = [env.reset(messages=[HELLO], clock=CLOCK), *map(env.step, script)]
    action = env.message_to_action(AGAIN)
    reads = env.state().turns, env.trajectory().tokens.tolist(), env.audit()
    resumed = env.resume(env.episode_id or "")
    expected = [*map(shown, results), action.tokens.tolist(), *reads, shown(resumed)[:2], env.server_info().version]
    assert asyncio.run(drive()) == expected


def test_the_server_says_what_it_is(info: ServerInfo) -> None:
    assert info.version
    assert info.vocabulary_size > 0
    assert info.token_id_limit > 0
    assert any(token.stops for token in info.special_tokens)
    assert len(info.tokenizer_fingerprint) == len(info.chat_template_fingerprint) == 64
