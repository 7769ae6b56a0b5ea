"""Everything that is raised becomes an answer: exceptions that are no `Exception`, too. No place is lost by it."""

from __future__ import annotations

import gc
import threading
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from chatenv_client import ChatEnv, ServerBusyError
from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client._generated.chatenv_pb2_grpc import ChatEnvServiceStub
from chatenv_client.channel import open_channel
from chatenv_client.errors import ChatEnvError
from chatenv_server.rpc.failures import status_of
from chatenv_server.running.process import RunningServer
from tests.server.conftest import Launch, Serve

HI = {"role": "user", "content": "hi"}
PLACES = 3


class Ended(BaseException):
    """What no `except Exception` catches."""


class UntellableError(Exception):
    """Fails when it is asked for its text."""

    def __str__(self) -> str:
        raise Ended("hunter2")


RAISED = (SystemExit, KeyboardInterrupt, GeneratorExit, StopIteration, Ended, MemoryError, UntellableError)


def raising(kind: type[BaseException]) -> Callable[[Any], Any]:
    def transform(_observation: Any) -> Any:
        raise kind("hunter2")

    return transform


@pytest.fixture
def stub_of() -> Iterator[Callable[[RunningServer], ChatEnvServiceStub]]:
    channels: list[grpc.Channel] = []

    def stub_of(server: RunningServer) -> ChatEnvServiceStub:
        channels.append(open_channel(server.addresses[0]))
        return ChatEnvServiceStub(channels[-1])

    yield stub_of
    for channel in channels:
        channel.close()


def outcomes(stub: ChatEnvServiceStub, step: pb.StepRequest) -> Iterator[tuple[str, str]]:
    """The status of the same step as a call, as an item of a batch and as an item of a stream."""
    with pytest.raises(grpc.RpcError) as refused:
        stub.Step(step, timeout=10)
    error: Any = refused.value
    yield error.code().name, error.details()
    (batched,) = stub.BatchStep(pb.BatchStepRequest(steps=[step]), timeout=10).results
    (streamed,) = stub.StreamSteps(iter([pb.StreamStepsRequest(step=step)]), timeout=10)
    for item in (batched, streamed):
        assert item.HasField("error")
        yield {13: "INTERNAL"}.get(item.error.code, str(item.error.code)), item.error.message


@pytest.mark.parametrize("kind", RAISED)
@pytest.mark.parametrize("timeout", [0.0, 60.0])
def test_whatever_a_transform_raises_is_answered_and_costs_no_place(
    serve: Serve, stub_of: Callable[[RunningServer], ChatEnvServiceStub], kind: type[BaseException], timeout: float
) -> None:
    server = serve(transform=raising(kind), max_concurrent_calls=PLACES, transform_timeout=timeout)
    stub = stub_of(server)
    stub.Reset(pb.ResetRequest(episode_id="e"))
    step = pb.StepRequest(episode_id="e", messages=[pb.Message(role="user", content="hi")])
    for _ in range(PLACES + 1):
        for code, said in outcomes(stub, step):
            assert code == "INTERNAL"
            assert "the transform raised" in said
            assert "hunter2" not in said
    assert stub.GetState(pb.GetStateRequest(episode_id="e")).step_count == 0
    assert server._gate.in_flight == 0


@pytest.mark.parametrize("kind", RAISED)
def test_whatever_a_transform_raises_as_it_is_made_is_answered_and_costs_no_place(
    serve: Serve, stub_of: Callable[[RunningServer], ChatEnvServiceStub], kind: type[BaseException]
) -> None:
    def fail() -> Any:
        raise kind("hunter2")

    server = serve(open_transform=fail, max_concurrent_calls=PLACES)
    stub = stub_of(server)
    for _ in range(PLACES + 1):
        with pytest.raises(grpc.RpcError) as refused:
            stub.Reset(pb.ResetRequest(), timeout=10)
        assert "hunter2" not in str(refused.value)
        (item,) = stub.BatchReset(pb.BatchResetRequest(resets=[pb.ResetRequest()]), timeout=10).results
        assert item.HasField("error")
        assert "hunter2" not in item.error.message
    assert stub.GetServerInfo(pb.GetServerInfoRequest()).live_episodes == 0


def test_a_tokenizer_that_panics_is_answered_and_costs_no_place(launch: Launch, conformance_dir: Path) -> None:
    flags = ("--tokenizer", str(conformance_dir / "tokenizers" / "qwen2_5"), "--max-text-bytes", str(2**24))
    server = launch(*flags, "--max-concurrent-calls", "1")
    with ChatEnv(server.addresses[0]) as env:
        with pytest.raises(ChatEnvError) as refused:
            env.reset(messages=[{"role": "user", "content": " " * 10_000_000}], timeout_s=50)
        assert refused.value.code in {"INTERNAL", "INVALID_ARGUMENT"}
        assert env.reset(messages=[HI]).observation.step_count == 0


def test_a_machine_without_further_threads_is_busy(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve(transform=lambda observation: observation, transform_timeout=60.0)
    with ChatEnv(server.addresses[0]) as env:
        env.reset()
        starts = threading.Thread.start

        def fail(thread: Any) -> None:
            if thread.name == "worker":
                raise RuntimeError("can't start new thread")
            starts(thread)

        with monkeypatch.context() as limited:
            limited.setattr("threading.Thread.start", fail)
            limited.setattr("chatenv_server.workers._shared", None)
            with pytest.raises(ServerBusyError):
                env.step(HI)
        assert env.step(HI).observation.step_count == 1


@pytest.mark.parametrize("code", ["banana", 7, None])
def test_a_malformed_error_of_ours_is_told_as_a_failure_of_the_server(code: Any) -> None:
    error = ChatEnvError("hunter2")
    error.code = code
    status = status_of(error)
    assert status.code == grpc.StatusCode.INTERNAL.value[0]
    assert "hunter2" not in status.message


def test_a_failed_call_leaves_no_cycle(serve: Serve, stub_of: Callable[[RunningServer], ChatEnvServiceStub]) -> None:
    """A cycle would hold the request until the collector runs, which may be never: few objects, but large ones."""
    stub = stub_of(serve(transform=raising(ValueError)))
    stub.Reset(pb.ResetRequest(episode_id="e"))
    hi = pb.Message(role="user", content="hi")
    steps = [
        pb.StepRequest(episode_id="e", messages=[hi]),  # the transform raises
        pb.StepRequest(episode_id="nowhere", messages=[hi]),
        pb.StepRequest(episode_id="e", messages=[pb.Message(role="", content="hi")]),
    ]

    def fail() -> None:
        for step in steps:
            with pytest.raises(grpc.RpcError):
                stub.Step(step)
        stub.BatchStep(pb.BatchStepRequest(steps=steps))
        list(stub.StreamSteps(pb.StreamStepsRequest(step=step) for step in steps))

    fail()
    gc.collect()
    gc.disable()
    try:
        fail()
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        kept = [found for found in gc.garbage if isinstance(found, types.FrameType)]
        ours = [frame.f_code.co_name for frame in kept if "chatenv_server" in frame.f_code.co_filename]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert ours == []
