"""The end of an episode that was played: its trajectory and its end in one call, which may be made again."""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import Any

import grpc
import pytest

from chatenv_client import (
    AsyncChatEnv,
    BatchError,
    ChatEnv,
    EpisodeClosedError,
    EpisodeExpiredError,
    EpisodeUnknownError,
    MessageTooLargeError,
    UnavailableError,
    VectorChatEnv,
)
from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client._generated.chatenv_pb2_grpc import ChatEnvServiceStub
from chatenv_client.calls import error_from_rpc
from chatenv_client.wire import error_from_item
from tests.contract.conftest import Sampler, Serving
from tests.contract.cutting_proxy import CuttingProxy

HELLO = {"role": "user", "content": "Hello!"}
GIVEN = {"role": "assistant", "content": "Hi."}


class Called(grpc.UnaryUnaryClientInterceptor):
    """The names of the calls that went over a channel."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        self.names.append(client_call_details.method.rpartition("/")[2])
        return continuation(client_call_details, request)


@pytest.fixture
def called() -> Called:
    return Called()


@pytest.fixture
def noted(channel: grpc.Channel, called: Called) -> grpc.Channel:
    """A channel whose calls are noted."""
    return grpc.intercept_channel(channel, called)


def finish_of(episode_id: str | None) -> pb.FinishEpisodeRequest:
    return pb.FinishEpisodeRequest(episode_id=episode_id or "")


def is_live(stub: ChatEnvServiceStub, episode_id: str | None) -> bool:
    page = stub.ListEpisodes(pb.ListEpisodesRequest(id_prefix=episode_id or ""))
    return bool(page.episodes)


# One episode.


def test_a_finish_gives_the_trajectory_and_ends_the_episode(
    env: ChatEnv, stub: ChatEnvServiceStub, sample: Sampler
) -> None:
    episode_id = env.reset(messages=[HELLO], metadata={"a": 1}, seed=3, group="g").observation.episode_id
    env.step(sample())
    env.set_reward({"judge": 0.5})
    expected = stub.GetTrajectory(pb.GetTrajectoryRequest(episode_id=episode_id))
    assert stub.FinishEpisode(finish_of(episode_id)).trajectory == expected
    assert not is_live(stub, episode_id)
    with pytest.raises(EpisodeClosedError):
        env.step(HELLO)


def test_who_asks_again_gets_the_same_answer_and_a_close_between_changes_nothing(
    env: ChatEnv, stub: ChatEnvServiceStub, sample: Sampler
) -> None:
    episode_id = env.reset(messages=[HELLO]).observation.episode_id
    env.step(sample())
    first = stub.FinishEpisode(finish_of(episode_id))
    assert not stub.CloseEpisode(pb.CloseEpisodeRequest(episode_id=episode_id)).was_live
    assert stub.FinishEpisode(finish_of(episode_id)) == first
    assert env.finish().tokens.tolist()[-9:] == list(first.trajectory.segments[0].tokens)[-9:]


def test_the_client_asks_again_by_itself_where_the_answer_is_lost(
    stub: ChatEnvServiceStub, proxy: CuttingProxy, sample: Sampler
) -> None:
    with ChatEnv(proxy.address) as unlucky:
        episode_id = unlucky.reset(messages=[HELLO]).observation.episode_id
        unlucky.step(sample())
        expected = unlucky.trajectory()
        proxy.cut_when(lambda: not is_live(stub, episode_id))
        trajectory = unlucky.finish()
        assert proxy.cuts == 1
    assert (trajectory.tokens.tolist(), trajectory.turns) == (expected.tokens.tolist(), expected.turns)


def test_a_finish_that_was_not_answered_can_be_tried_again_by_hand(
    stub: ChatEnvServiceStub, proxy: CuttingProxy, sample: Sampler
) -> None:
    with grpc.insecure_channel(proxy.address, [("grpc.enable_retries", 0)]) as channel:
        unlucky = ChatEnv(channel)
        episode_id = unlucky.reset(messages=[HELLO]).observation.episode_id
        tokens = unlucky.step(sample()).observation.token_ids.tolist()
        proxy.cut_when(lambda: not is_live(stub, episode_id))
        with pytest.raises(UnavailableError):
            unlucky.finish()
        assert unlucky.episode_id == episode_id
        while True:
            try:
                assert unlucky.finish().tokens.tolist() == tokens
                break
            except UnavailableError:  # a line that was cut may take a moment to be seen as cut
                continue


def test_an_id_that_was_begun_anew_is_another_episode(env: ChatEnv, stub: ChatEnvServiceStub) -> None:
    name = uuid.uuid4().hex
    env.reset(episode_id=name, messages=[HELLO])
    first = stub.FinishEpisode(finish_of(name))
    env.reset(episode_id=name, messages=[HELLO, GIVEN, HELLO])
    second = stub.FinishEpisode(finish_of(name))
    assert [len(one.trajectory.messages) for one in (first, second)] == [1, 3]
    env.reset(episode_id=name)
    stub.CloseEpisode(pb.CloseEpisodeRequest(episode_id=name))
    with pytest.raises(EpisodeClosedError):
        env.finish()


def test_what_has_ended_otherwise_cannot_be_finished(env: ChatEnv, stub: ChatEnvServiceStub, serving: Serving) -> None:
    episode_id = env.reset().observation.episode_id
    stub.CloseEpisode(pb.CloseEpisodeRequest(episode_id=episode_id))
    with pytest.raises(EpisodeClosedError):
        env.finish()
    with pytest.raises(grpc.RpcError) as caught:
        stub.FinishEpisode(finish_of("contract:never-was"))
    assert error_from_rpc(caught.value).reason == "EPISODE_UNKNOWN"
    with serving({"idle_timeout": 0.01}) as target, ChatEnv(target) as idle:
        idle.reset()
        time.sleep(0.05)
        with pytest.raises(EpisodeExpiredError):
            idle.finish()


def test_afterwards_the_client_has_no_episode_and_leaving_ends_nothing(noted: grpc.Channel, called: Called) -> None:
    with ChatEnv(noted) as env:
        env.reset(messages=[HELLO])
        env.finish()
        assert env.episode_id is None
        with pytest.raises(RuntimeError, match="no episode"):
            env.finish()
    assert called.names == ["Reset", "FinishEpisode"]


def test_a_finish_makes_room_for_another_episode(serving: Serving) -> None:
    with serving({"max_episodes": 1}) as target, ChatEnv(target) as env:
        for _ in range(3):
            env.reset(messages=[HELLO])
            assert len(env.finish().messages) == 1


def test_a_trajectory_that_fits_into_no_message_leaves_the_episode_live(serving: Serving) -> None:
    with serving({"max_message_bytes": 4096}) as target, ChatEnv(target) as env:
        env.reset()
        for _ in range(2):
            env.step({"role": "user", "content": "a" * 600})
        with pytest.raises(MessageTooLargeError, match="max-message-bytes"):
            env.finish()
        assert env.step([{"role": "user", "content": "b"}]).observation.step_count == 3


def test_a_finish_finds_what_given_assistants_say_if_it_is_asked_to(env: ChatEnv) -> None:
    env.reset(messages=[HELLO, GIVEN, HELLO])
    expected = env.trajectory(assistants=True).given_assistants
    assert expected
    assert env.finish(assistants=True).given_assistants == expected
    env.reset(messages=[HELLO, GIVEN, HELLO])
    assert env.finish().given_assistants is None


def test_who_asks_again_for_what_given_assistants_say_learns_that_nobody_asked_then(
    env: ChatEnv, stub: ChatEnvServiceStub
) -> None:
    env.reset(messages=[HELLO, GIVEN, HELLO])
    stub.FinishEpisode(finish_of(env.episode_id))
    assert env.finish(assistants=True).given_assistants is None


def test_a_finished_episode_may_be_over_failed_or_neither(env: ChatEnv, sample: Sampler) -> None:
    env.reset(max_steps=1)
    env.step(sample())
    assert env.finish().truncated
    env.reset()
    env.fail("the engine died")
    failure = env.finish().failure
    assert failure is not None
    assert failure.reason == "the engine died"


# Episodes of others.


def test_detached_an_episode_outlives_its_client(noted: grpc.Channel, called: Called, env: ChatEnv) -> None:
    with ChatEnv(noted) as first:
        first.reset(messages=[HELLO])
        episode_id = first.detach()
        assert first.episode_id is None
        with pytest.raises(RuntimeError, match="no episode"):
            first.detach()
    assert called.names == ["Reset"]
    env.resume(episode_id)
    assert env.finish().messages == (HELLO,)


def test_a_peek_shows_somebodys_episode_and_changes_nothing(
    noted: grpc.Channel, called: Called, env: ChatEnv, sample: Sampler
) -> None:
    theirs = env.reset(messages=[HELLO]).observation.episode_id
    env.step(sample())
    with ChatEnv(noted) as other:
        assert other.peek(theirs).history_messages == env.state().history_messages
        with pytest.raises(RuntimeError, match="no episode"):
            other.state()
        own = other.reset().observation.episode_id
        assert other.peek(theirs).step_count == 1
        assert other.episode_id == own
        assert other.step(HELLO).observation.episode_id == own
        with pytest.raises(EpisodeUnknownError):
            other.peek("contract:never-was")
    assert called.names.count("CloseEpisode") == 1
    assert env.step(HELLO).observation.step_count == 2


def test_a_finish_ends_an_episode_that_was_resumed(channel: grpc.Channel, env: ChatEnv) -> None:
    env.reset(messages=[HELLO])
    with ChatEnv(channel) as other:
        other.resume(str(env.episode_id))
        assert other.finish().messages == (HELLO,)
    with pytest.raises(EpisodeClosedError):
        env.step(HELLO)


def test_the_client_for_asyncio_does_the_same(target: str, stub: ChatEnvServiceStub) -> None:
    async def play() -> tuple[int, bool, str]:
        async with AsyncChatEnv(target) as env:
            await env.reset(messages=[HELLO])
            trajectory = await env.finish()
            assert env.episode_id is None
            await env.reset(messages=[HELLO])
            detached = env.detach()
            state = await env.peek(detached)
            return len(trajectory.messages), state.history_messages == [HELLO], detached

    count, is_same, detached = asyncio.run(play())
    assert (count, is_same) == (1, True)
    assert stub.CloseEpisode(pb.CloseEpisodeRequest(episode_id=detached)).was_live


# Many at once.


def test_one_bad_item_of_a_batch_spoils_no_other(stub: ChatEnvServiceStub) -> None:
    ids = [uuid.uuid4().hex for _ in range(2)]
    for episode_id in ids:
        stub.Reset(pb.ResetRequest(episode_id=episode_id))
    items = [finish_of(one) for one in (ids[0], "contract:never-was", ids[1], ids[0])]
    results = stub.BatchFinishEpisode(pb.BatchFinishEpisodeRequest(finishes=items)).results
    assert error_from_item(results[1].error).reason == "EPISODE_UNKNOWN"
    assert [one.response.trajectory.episode_id for one in results if one.HasField("response")] == [*ids, ids[0]]
    assert results[3].response == results[0].response


def test_a_batch_of_too_many_is_refused_and_ends_nothing(serving: Serving) -> None:
    with serving({"max_batch_items": 2}) as target, grpc.insecure_channel(target) as channel:
        stub = ChatEnvServiceStub(channel)
        for name in "abc":
            stub.Reset(pb.ResetRequest(episode_id=name))
        with pytest.raises(grpc.RpcError, match="a batch holds 1 to 2 items"):
            stub.BatchFinishEpisode(pb.BatchFinishEpisodeRequest(finishes=map(finish_of, "abc")))
        assert all(is_live(stub, name) for name in "abc")


def test_a_vector_finishes_all_its_episodes_in_order_and_in_few_calls(
    noted: grpc.Channel, called: Called, sample: Sampler
) -> None:
    with VectorChatEnv(noted, 70) as env:
        env.reset([{"messages": [{"role": "user", "content": str(index)}]} for index in range(70)])
        env.step([sample() for _ in range(70)])
        called.names.clear()
        trajectories = env.finish()
        assert [one.messages[0]["content"] for one in trajectories] == [str(index) for index in range(70)]
        assert env.episode_ids == [None] * 70
        with pytest.raises(RuntimeError, match="no episode"):
            env.finish()
    assert called.names == ["BatchFinishEpisode"] * 3


def test_a_vector_that_could_not_finish_all_ends_the_rest_the_next_time(
    channel: grpc.Channel, env: ChatEnv, stub: ChatEnvServiceStub
) -> None:
    with VectorChatEnv(channel, 4) as vector:
        vector.reset([{"messages": [{"role": "user", "content": str(index)}]} for index in range(4)])
        lost = str(vector.episode_ids[2])
        stub.CloseEpisode(pb.CloseEpisodeRequest(episode_id=lost))
        for _ in range(2):
            with pytest.raises(BatchError) as caught:
                vector.finish()
            assert [one is not None for one in caught.value.results] == [True, True, False, True]
        env.reset(episode_id=lost, messages=[{"role": "user", "content": "again"}])
        contents = [one.messages[0]["content"] for one in vector.finish()]
        assert contents == ["0", "1", "again", "3"]


def test_what_was_finished_before_a_reset_is_none_of_the_next_finish(
    channel: grpc.Channel, stub: ChatEnvServiceStub
) -> None:
    bad: Any = {"max_steps": 0}
    with VectorChatEnv(channel, 2) as vector:
        vector.reset()
        stub.CloseEpisode(pb.CloseEpisodeRequest(episode_id=str(vector.episode_ids[1])))
        with pytest.raises(BatchError):
            vector.finish()
        with pytest.raises(BatchError):
            vector.reset([bad, {}])
        with pytest.raises(RuntimeError, match="no episode"):
            vector.finish()
        began = vector.reset_at([0])[0].observation.episode_id
        assert vector.finish()[0].episode_id == began


def test_trajectories_that_do_not_fit_together_come_apart(serving: Serving) -> None:
    with serving({"max_message_bytes": 8192}) as target, VectorChatEnv(target, 8, max_message_bytes=8192) as env:
        env.reset()
        env.step([{"role": "user", "content": str(index) * 500} for index in range(8)])
        assert [str(one.messages[0]["content"])[0] for one in env.finish()] == [str(index) for index in range(8)]


def test_trajectories_that_are_too_large_for_the_client_alone_come_apart(serving: Serving) -> None:
    with serving() as target, VectorChatEnv(target, 8, max_message_bytes=8192) as env:
        env.reset()
        env.step([{"role": "user", "content": str(index) * 500} for index in range(8)])
        assert [str(one.messages[0]["content"])[0] for one in env.finish()] == [str(index) for index in range(8)]
