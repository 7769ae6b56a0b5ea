"""A machine that gives a server no more threads: calls are answered, it recovers, and it ends when it is told to."""

from __future__ import annotations

import sys
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client._generated.chatenv_pb2_grpc import ChatEnvServiceStub
from chatenv_client.channel import open_channel
from tests.machine import status_of
from tests.server.conftest import Launch, ServerProcess

if sys.platform != "linux":
    pytest.skip("limits of another process are set as Linux has it", allow_module_level=True)

from resource import RLIM_INFINITY, RLIMIT_AS, prlimit

LESS_THAN_A_STACK = 4 * 2**20


def limit_threads(server: ServerProcess, limited: bool) -> None:
    """Leave it no address space for the stack of another thread, or all that it wants."""
    most = status_of(server.process.pid, "VmSize") * 1024 + LESS_THAN_A_STACK if limited else RLIM_INFINITY
    prlimit(server.process.pid, RLIMIT_AS, (most, RLIM_INFINITY))


def outcome(call: Any) -> str:
    return str(call.code().name) if call.exception() else "OK"


@pytest.mark.parametrize("flags", [[], ["--transform", "plain_transforms:unchanged"]])
def test_without_further_threads_calls_are_answered_and_later_all_is_well(launch: Launch, flags: list[str]) -> None:
    server = launch(*flags)
    step = pb.StepRequest(episode_id="e", messages=[pb.Message(role="user", content="hi")])
    with open_channel(server.addresses[0]) as channel:
        stub = ChatEnvServiceStub(channel)
        health: Any = health_pb2_grpc.HealthStub(channel)
        stub.Reset(pb.ResetRequest(episode_id="e"))
        stub.Step(step)
        limit_threads(server, True)
        calls = [stub.Step.future(step, timeout=20) for _ in range(40)]
        assert {outcome(call) for call in calls} <= {"OK", "RESOURCE_EXHAUSTED"}
        with pytest.raises(grpc.RpcError) as refused:
            list(stub.StreamSteps(iter([pb.StreamStepsRequest(step=step)]), timeout=20))
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert health.Check(health_pb2.HealthCheckRequest(), timeout=20).status
        limit_threads(server, False)
        stub.Step(step)
        (answer,) = stub.StreamSteps(iter([pb.StreamStepsRequest(step=step)]), timeout=20)
        assert answer.HasField("response")
        limit_threads(server, True)
    server.process.terminate()
    assert server.process.wait(20) == 0
