"""A caller that does not read its answers costs the server no memory: it stops reading the requests instead."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from chatenv_client import channel_options
from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client._generated.chatenv_pb2_grpc import ChatEnvServiceStub
from chatenv_server.rpc.streams import MAX_IN_FLIGHT, MAX_IN_FLIGHT_BYTES
from tests.machine import resident_bytes
from tests.server.conftest import Launch

STREAM_TOKENS = 10_000
ANSWER_BYTES = 4 * STREAM_TOKENS
STEPS = 10_000


def settled(count: Callable[[], int]) -> int:
    """A count once it has stopped growing."""
    before = -1
    while before != count():
        before = count()
        time.sleep(0.5)
    return before


def repeated(step: pb.StepRequest, count: int, taken: list[int]) -> Iterator[pb.StreamStepsRequest]:
    """One and the same step again and again: each is answered with the whole stream, and the episode does not grow."""
    for request_id in range(count):
        taken.append(request_id)
        yield pb.StreamStepsRequest(request_id=request_id, step=step)


pytestmark = pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="memory is read from /proc, which is Linux's"
)


@pytest.mark.parametrize("flags", [[], ["--transform", "plain_transforms:unchanged"]], ids=["in line", "in threads"])
def test_memory_is_flat_when_nobody_reads_the_answers(launch: Launch, flags: list[str]) -> None:
    server = launch(*flags)
    taken: list[int] = []
    with grpc.insecure_channel(server.addresses[0], channel_options()) as channel:
        stub = ChatEnvServiceStub(channel)
        episode_id = stub.Reset(pb.ResetRequest()).observation.episode_id
        step = pb.StepRequest(episode_id=episode_id, tokens=[1] * STREAM_TOKENS, step_index=0)
        stub.Step(step)
        before = resident_bytes(server.process.pid)
        answers = stub.StreamSteps(repeated(step, STEPS, taken))
        read_ahead = settled(lambda: len(taken))
        grown = resident_bytes(server.process.pid) - before
        assert MAX_IN_FLIGHT <= read_ahead < STEPS / 2
        # Each place holds a request and its answer, which are about as long, gRPC reads ahead by a few, and an
        # allocator keeps what others gave back.
        assert grown < 3.5 * (MAX_IN_FLIGHT + 32) * ANSWER_BYTES < STEPS * ANSWER_BYTES / 1.9
        assert [answer.request_id for answer in answers] == list(range(STEPS))


LONG_STREAM_TOKENS = 2**20
LONG_STREAM_BYTES = 4 * LONG_STREAM_TOKENS
LONG_STEPS = 128


@pytest.mark.parametrize("flags", [[], ["--transform", "plain_transforms:unchanged"]], ids=["in line", "in threads"])
@pytest.mark.parametrize("what", ["requests", "answers"])
def test_memory_is_bounded_in_bytes_too(launch: Launch, flags: list[str], what: str) -> None:
    server = launch(*flags)
    taken: list[int] = []
    with grpc.insecure_channel(server.addresses[0], channel_options()) as channel:
        stub = ChatEnvServiceStub(channel)
        episode_id = stub.Reset(pb.ResetRequest()).observation.episode_id
        long = pb.StepRequest(episode_id=episode_id, tokens=[65] * LONG_STREAM_TOKENS, step_index=0)
        short = pb.StepRequest(episode_id=episode_id, messages=[pb.Message(role="user", content="hi")], step_index=1)
        stub.Step(long)
        if what == "answers":
            stub.Step(short)
        before = resident_bytes(server.process.pid)
        answers = stub.StreamSteps(repeated(long if what == "requests" else short, LONG_STEPS, taken))
        settled(lambda: len(taken))
        grown = resident_bytes(server.process.pid) - before
        assert grown < 4 * MAX_IN_FLIGHT_BYTES < LONG_STEPS * LONG_STREAM_BYTES
        assert [answer.request_id for answer in answers] == list(range(LONG_STEPS))
