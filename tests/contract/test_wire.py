"""What single RPCs answer to a caller who says what it holds, repeats itself, or is late."""

from __future__ import annotations

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from chatenv_client import ChatEnv, StepIndexMismatchError
from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client._generated.chatenv_pb2_grpc import ChatEnvServiceStub
from chatenv_client.calls import error_from_rpc
from tests.contract.conftest import Sampler

HELLO = pb.Message(role="user", content="Hello!")


@pytest.fixture
def episode(stub: ChatEnvServiceStub) -> pb.Observation:
    """The opening of an episode with one message."""
    return stub.Reset(pb.ResetRequest(episode_id=uuid.uuid4().hex, messages=[HELLO], system_prompt="")).observation


def state(stub: ChatEnvServiceStub, episode: pb.Observation) -> pb.GetStateResponse:
    return stub.GetState(pb.GetStateRequest(episode_id=episode.episode_id))


def hello(episode: pb.Observation, **fields: Any) -> pb.StepRequest:
    return pb.StepRequest(episode_id=episode.episode_id, messages=[HELLO], **fields)


def test_who_holds_nothing_is_sent_everything(stub: ChatEnvServiceStub, episode: pb.Observation) -> None:
    answer = stub.Step(hello(episode)).observation
    assert (answer.tokens_offset, answer.messages_offset) == (0, 0)
    assert list(answer.tokens) == list(state(stub, episode).tokens)
    assert len(answer.messages) == 2


def test_the_server_chooses_an_id_when_none_is_given(stub: ChatEnvServiceStub) -> None:
    first, second = (stub.Reset(pb.ResetRequest()).observation.episode_id for _ in range(2))
    assert first
    assert first != second


def test_who_holds_the_history_is_sent_only_what_is_new(
    stub: ChatEnvServiceStub, episode: pb.Observation, sample: Sampler
) -> None:
    tokens = sample(20).tokens.tolist()
    held = [*episode.tokens, *tokens]
    request = pb.StepRequest(episode_id=episode.episode_id, tokens=tokens, known_tokens=len(held), known_messages=1)
    answer = stub.Step(request).observation
    assert (answer.tokens_offset, answer.messages_offset) == (len(held), 1)
    assert [*held, *answer.tokens] == list(state(stub, episode).tokens)
    assert [message.role for message in answer.messages] == ["assistant"]


def test_a_given_message_is_not_sent_back_to_who_holds_it(stub: ChatEnvServiceStub, episode: pb.Observation) -> None:
    answer = stub.Step(hello(episode, known_tokens=len(episode.tokens), known_messages=2)).observation
    assert answer.messages_offset == 2
    assert not answer.messages
    held = [*episode.tokens[: answer.tokens_offset], *answer.tokens]
    assert held == list(state(stub, episode).tokens)


def test_who_claims_to_hold_more_than_there_is_is_sent_what_follows_on_the_history(
    stub: ChatEnvServiceStub, episode: pb.Observation
) -> None:
    answer = stub.Step(hello(episode, known_tokens=2**31, known_messages=2**31)).observation
    assert answer.tokens_offset <= len(episode.tokens)
    assert answer.messages_offset <= 2
    held = [*episode.tokens[: answer.tokens_offset], *answer.tokens]
    assert held == list(state(stub, episode).tokens)


def test_a_step_that_is_repeated_is_answered_again_and_applies_once(
    stub: ChatEnvServiceStub, episode: pb.Observation, sample: Sampler
) -> None:
    tokens = sample().tokens.tolist()
    request = pb.StepRequest(episode_id=episode.episode_id, tokens=tokens, step_index=0)
    first = stub.Step(request)
    before = state(stub, episode)
    assert stub.Step(request) == first
    assert state(stub, episode) == before


def test_a_repeated_step_may_ask_for_more_than_before(stub: ChatEnvServiceStub, episode: pb.Observation) -> None:
    stub.Step(hello(episode, step_index=0, known_tokens=len(episode.tokens), known_messages=2))
    answer = stub.Step(hello(episode, step_index=0)).observation
    assert list(answer.tokens) == list(state(stub, episode).tokens)
    assert len(answer.messages) == 2


@pytest.mark.parametrize("step_index", [0, 1, 3, 2**32 - 1])
def test_a_stale_or_future_step_is_aborted_with_both_numbers(
    stub: ChatEnvServiceStub, episode: pb.Observation, step_index: int
) -> None:
    for index in range(2):
        stub.Step(hello(episode, step_index=index))
    before = state(stub, episode)
    other = pb.Message(role="user", content="another thing")
    with pytest.raises(grpc.RpcError) as caught:
        stub.Step(pb.StepRequest(episode_id=episode.episode_id, messages=[other], step_index=step_index))
    error = error_from_rpc(caught.value)
    assert isinstance(error, StepIndexMismatchError)
    assert error.details == {"expected_step_index": "2", "received_step_index": str(step_index)}
    assert state(stub, episode) == before


def test_a_reset_forgets_the_answer_to_the_last_step(stub: ChatEnvServiceStub, episode: pb.Observation) -> None:
    stub.Step(hello(episode, step_index=0))
    stub.Reset(pb.ResetRequest(episode_id=episode.episode_id))
    assert stub.Step(hello(episode, step_index=0)).observation.step_count == 1
    assert len(state(stub, episode).messages) == 1


def test_concurrent_steps_on_one_episode_all_apply_one_after_the_other(
    stub: ChatEnvServiceStub, episode: pb.Observation
) -> None:
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: stub.Step(hello(episode)).observation, range(24)))
    assert sorted(answer.step_count for answer in answers) == list(range(1, 25))
    last = max(answers, key=lambda answer: answer.step_count)
    assert list(last.tokens) == list(state(stub, episode).tokens)
    assert len(last.messages) == 25


def test_of_concurrent_steps_with_one_index_exactly_one_applies(
    stub: ChatEnvServiceStub, episode: pb.Observation
) -> None:
    together = threading.Barrier(6)

    def step(number: int) -> str:
        message = pb.Message(role="user", content=str(number))
        request = pb.StepRequest(episode_id=episode.episode_id, messages=[message], step_index=0)
        together.wait()
        try:
            return str(stub.Step(request).observation.messages[-1].content)
        except grpc.RpcError as error:
            return error_from_rpc(error).reason

    with ThreadPoolExecutor(6) as threads:
        outcomes = list(threads.map(step, range(6)))
    assert outcomes.count("STEP_INDEX_MISMATCH") == 5
    (applied,) = set(outcomes) - {"STEP_INDEX_MISMATCH"}
    assert [message.content for message in state(stub, episode).messages] == ["Hello!", applied]


def test_an_answer_does_not_grow_with_the_history(env: ChatEnv, stub: ChatEnvServiceStub, sample: Sampler) -> None:
    opening = env.reset(messages=[{"role": "user", "content": "Hello!"}], system_prompt="")
    held, count = len(opening.observation.token_ids), 1
    tokens = sample(64).tokens.tolist()
    sizes = []
    for _ in range(60):
        known: dict[str, Any] = {"known_tokens": held + len(tokens), "known_messages": count}
        sampled = stub.Step(pb.StepRequest(episode_id=env.episode_id, tokens=tokens, **known))
        held = sampled.observation.tokens_offset + len(sampled.observation.tokens)
        known = {"known_tokens": held, "known_messages": count + 2}
        given = stub.Step(pb.StepRequest(episode_id=env.episode_id, messages=[HELLO], **known))
        held = given.observation.tokens_offset + len(given.observation.tokens)
        count += 2
        sizes.append((sampled.ByteSize(), given.ByteSize()))
    varints = 8
    assert sizes[-1][0] <= sizes[4][0] + varints
    assert sizes[-1][1] <= sizes[4][1] + varints
