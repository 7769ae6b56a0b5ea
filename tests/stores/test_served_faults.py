"""A server whose store fails: calls are refused and nothing is lost, readiness says so, and it comes back by itself."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client._generated.chatenv_pb2_grpc import ChatEnvServiceStub
from chatenv_client.calls import error_from_rpc
from chatenv_server import Settings, serve
from chatenv_server.engine import TokenEngine
from chatenv_server.tokenizer_files.byte_tokenizer import ByteTokenizer
from tests.stores.conftest import RedisServer

END = 257
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


@contextmanager
def served(redis_server: RedisServer) -> Iterator[grpc.Channel]:
    settings = Settings(listen=("127.0.0.1:0",), store=redis_server.url)
    engine = TokenEngine.load(ByteTokenizer())
    with serve(settings, engine=engine) as server, grpc.insecure_channel(server.target) as channel:
        yield channel


def becomes(channel: grpc.Channel, status: int) -> bool:
    """Whether readiness says so within a while."""
    stub: Any = health_pb2_grpc.HealthStub(channel)
    until = time.monotonic() + 20
    while time.monotonic() < until:
        if stub.Check(health_pb2.HealthCheckRequest()).status == status:
            return True
        time.sleep(0.1)
    return False


def stop(redis_server: RedisServer) -> Callable[[], None]:
    """Stop it in the middle of whatever it does; what lets it go on."""
    redis_server.process.send_signal(signal.SIGSTOP)
    return lambda: redis_server.process.send_signal(signal.SIGCONT)


def kill(redis_server: RedisServer) -> Callable[[], None]:
    """Kill it; what starts it again, with what it had on its disk."""
    redis_server.kill()
    return redis_server.start


@pytest.mark.parametrize("break_it", [stop, kill])
def test_a_store_that_fails_refuses_calls_and_the_same_call_is_answered_once_it_is_well(
    redis_server: RedisServer, break_it: Callable[[RedisServer], Callable[[], None]]
) -> None:
    with served(redis_server) as channel:
        stub = ChatEnvServiceStub(channel)
        stub.Reset(pb.ResetRequest(episode_id="e", messages=[pb.Message(role="user", content="Hi")]))
        stub.Step(pb.StepRequest(episode_id="e", tokens=[97, END], step_index=0))
        assert becomes(channel, SERVING)
        mend = break_it(redis_server)
        second = pb.StepRequest(episode_id="e", messages=[pb.Message(role="user", content="Go on")], step_index=1)
        began = time.monotonic()
        with pytest.raises(grpc.RpcError) as refusal:
            stub.Step(second)
        error = error_from_rpc(refusal.value)
        assert (error.code, error.reason) == ("UNAVAILABLE", "STORE_UNAVAILABLE")
        assert time.monotonic() - began < 15
        assert becomes(channel, NOT_SERVING)
        mend()
        assert becomes(channel, SERVING)
        answer = stub.Step(second).observation
        assert answer.step_count == 2
        assert stub.Step(second).observation == answer
        state = stub.GetState(pb.GetStateRequest(episode_id="e"))
        assert [message.content for message in state.messages] == ["Hi", "a", "Go on"]


def test_a_batch_whose_write_fails_fails_as_a_whole_and_leaves_every_episode_as_it_was(
    redis_server: RedisServer,
) -> None:
    ids = [f"e{number}" for number in range(8)]
    with served(redis_server) as channel:
        stub = ChatEnvServiceStub(channel)
        stub.BatchReset(pb.BatchResetRequest(resets=[pb.ResetRequest(episode_id=one) for one in ids]))
        mend = kill(redis_server)
        steps = [pb.StepRequest(episode_id=one, tokens=[97, END], step_index=0) for one in ids]
        failed = stub.BatchStep(pb.BatchStepRequest(steps=steps))
        assert {result.error.code for result in failed.results} == {grpc.StatusCode.UNAVAILABLE.value[0]}
        mend()
        assert becomes(channel, SERVING)
        states = [stub.GetState(pb.GetStateRequest(episode_id=one)) for one in ids]
        assert {state.step_count for state in states} == {0}
        again = stub.BatchStep(pb.BatchStepRequest(steps=steps))
        assert {result.response.observation.step_count for result in again.results} == {1}


def test_a_finish_that_the_store_did_not_take_ends_nothing_and_is_answered_once_it_is_well(
    redis_server: RedisServer,
) -> None:
    ids = [f"e{number}" for number in range(8)]
    finishes = [pb.FinishEpisodeRequest(episode_id=one) for one in ids]
    with served(redis_server) as channel:
        stub = ChatEnvServiceStub(channel)
        stub.BatchReset(pb.BatchResetRequest(resets=[pb.ResetRequest(episode_id=one) for one in ids]))
        stub.Step(pb.StepRequest(episode_id="e0", tokens=[97, END]))
        mend = kill(redis_server)
        failed = stub.BatchFinishEpisode(pb.BatchFinishEpisodeRequest(finishes=finishes))
        assert {result.error.code for result in failed.results} == {grpc.StatusCode.UNAVAILABLE.value[0]}
        with pytest.raises(grpc.RpcError, match="store"):
            stub.FinishEpisode(finishes[0])
        mend()
        assert becomes(channel, SERVING)
        assert stub.Step(pb.StepRequest(episode_id="e1", tokens=[98, END])).observation.step_count == 1
        told = stub.BatchFinishEpisode(pb.BatchFinishEpisodeRequest(finishes=finishes)).results
        assert [len(one.response.trajectory.messages) for one in told] == [1, 1, *[0] * 6]
        assert stub.BatchFinishEpisode(pb.BatchFinishEpisodeRequest(finishes=finishes)).results == told
        assert not stub.ListEpisodes(pb.ListEpisodesRequest()).episodes
