"""Nothing is applied whose answer could not be sent: a Reset or Step is refused before it counts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from chatenv_client import ChatAction, ChatEnv, ChatObservation, MessageTooLargeError, VectorChatEnv, channel_options
from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client._generated.chatenv_pb2_grpc import ChatEnvServiceStub
from tests.contract.conftest import Serving

LIMIT = 64 * 1024
HELLO = {"role": "user", "content": "Hello!"}
LONG = {"role": "user", "content": "a" * 20_000}
"""As many bytes as tokens: with four bytes each, and its text, more than the limit allows."""


@pytest.fixture
def target(serving: Serving) -> Iterator[str]:
    """A server with a small limit."""
    with serving({"max_message_bytes": LIMIT}) as target:
        yield target


@pytest.fixture
def stub(target: str) -> Iterator[ChatEnvServiceStub]:
    with grpc.insecure_channel(target, channel_options()) as channel:
        yield ChatEnvServiceStub(channel)


def live_episodes(stub: ChatEnvServiceStub) -> int:
    return stub.GetServerInfo(pb.GetServerInfoRequest()).live_episodes


def test_a_reset_beyond_the_limit_leaves_no_orphan(target: str, stub: ChatEnvServiceStub) -> None:
    opening = [pb.Message(role="user", content=LONG["content"])]
    with pytest.raises(grpc.RpcError, match="raise --max-message-bytes"):
        stub.Reset(pb.ResetRequest(messages=opening))
    with ChatEnv(target) as env, pytest.raises(MessageTooLargeError):
        env.reset(messages=[LONG])
    assert live_episodes(stub) == 0


def test_a_reset_beyond_the_limit_leaves_the_episode_before_it(target: str) -> None:
    with ChatEnv(target) as env:
        env.reset(episode_id="e", messages=[HELLO])
        with pytest.raises(MessageTooLargeError):
            env.reset(episode_id="e", messages=[LONG])
        assert env.step(HELLO).observation.messages == [HELLO, HELLO]


def test_a_step_beyond_the_limit_is_not_applied_and_the_next_is(target: str) -> None:
    with ChatEnv(target) as env:
        env.reset(messages=[HELLO])
        before = env.state().token_ids.tolist()
        with pytest.raises(MessageTooLargeError, match="nothing was applied"):
            env.step(LONG)
        assert env.state().token_ids.tolist() == before
        assert env.step(HELLO).observation.step_count == 1


def test_who_says_what_it_holds_goes_on_where_the_whole_would_be_too_large(
    target: str, stub: ChatEnvServiceStub
) -> None:
    with ChatEnv(target) as env:
        episode_id = env.reset().observation.episode_id
        for _ in range(5):
            env.step(ChatAction(tokens=[65] * 4000))
        with pytest.raises(grpc.RpcError, match="known_tokens"):
            stub.Step(pb.StepRequest(episode_id=episode_id, messages=[pb.Message(role="user", content="a")]))
        assert env.step(HELLO).observation.step_count == 6


def test_metadata_beyond_the_limit_takes_the_step_back(serving: Serving) -> None:
    def talkative(observation: ChatObservation) -> ChatObservation:
        observation.metadata["text"] = "a" * 2 * LIMIT
        return observation

    settings = {"max_message_bytes": LIMIT}
    with serving(settings, open_transform=lambda: talkative) as target, ChatEnv(target) as env:
        env.reset()
        with pytest.raises(MessageTooLargeError):
            env.step(HELLO)
        assert env.state().step_count == 0


@pytest.mark.parametrize("transform", [None, lambda observation: observation], ids=["in line", "in threads"])
def test_items_of_a_batch_beyond_the_limit_fail_by_themselves(serving: Serving, transform: Any) -> None:
    parts = {} if transform is None else {"open_transform": lambda: transform}
    with (
        serving({"max_message_bytes": LIMIT}, **parts) as target,
        grpc.insecure_channel(target, channel_options()) as channel,
    ):
        stub = ChatEnvServiceStub(channel)
        opening = [pb.Message(role="user", content="a" * 4_000)]
        request = pb.BatchResetRequest(resets=[pb.ResetRequest(messages=opening)] * 6)
        results = stub.BatchReset(request).results
        opened = [result.response.observation.episode_id for result in results if result.HasField("response")]
        assert len(opened) == 3
        assert live_episodes(stub) == 3


def test_a_vector_client_calls_again_for_what_found_no_room(target: str) -> None:
    with VectorChatEnv(target, 16) as env:
        results = env.reset(messages=[{"role": "user", "content": "a" * 4_000}])
        assert len({result.observation.episode_id for result in results}) == 16
        stepped = env.step([{"role": "user", "content": "b" * 4_000}] * 16)
        assert [result.observation.step_count for result in stepped] == [1] * 16
        with pytest.raises(Exception, match="2 of 16 items failed") as caught:
            env.step([HELLO] * 14 + [LONG, LONG])
        assert {type(error) for error in caught.value.errors.values()} == {MessageTooLargeError}  # type: ignore[attr-defined]
        assert [result.observation.step_count for result in env.step([HELLO] * 16)] == [3] * 14 + [2] * 2
