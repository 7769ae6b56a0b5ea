"""Callers that speak raw HTTP/2 at a server process: half calls, lies about sizes, answers that nobody reads.

Whatever they do, health is answered, and memory and threads stay within bounds.
"""

from __future__ import annotations

import gzip
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from chatenv_client import ChatEnv, channel_options
from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client._generated.chatenv_pb2_grpc import ChatEnvServiceStub
from chatenv_server.rpc.crew import HEALTH_AWAITED_S, MAX_WATCHERS
from chatenv_server.rpc.requests import MAX_FIELDS
from tests.machine import status_of
from tests.server.conftest import Launch, ServerProcess
from tests.server.raw_http2 import HEALTH, STEP, RawCaller, framed

MIB = 2**20
ANSWERED_S = 2.0
"""Seconds in which health is answered, on a machine that does other things, too."""
GZIP = {"grpc-encoding": "gzip"}
UNAUTHENTICATED, BUSY, INVALID, NOT_FOUND, DEADLINE, OK = "16", "8", "3", "5", "4", "0"

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="memory and threads are read from /proc, which is Linux's"
)


Call = Callable[..., RawCaller]


@pytest.fixture
def caller_of() -> Iterator[Call]:
    """Connects raw callers to a server, hung up at the end."""
    with ExitStack() as opened:
        yield lambda server, window=65_535: opened.enter_context(RawCaller(server.addresses[0], window))


def peak_mib(server: ServerProcess) -> int:
    """The most memory that it ever had."""
    return status_of(server.process.pid, "VmHWM") // 1024


def seconds_to_health(address: str) -> float:
    began = time.monotonic()
    with grpc.insecure_channel(address) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        answer = health.Check(health_pb2.HealthCheckRequest(), timeout=10)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    return time.monotonic() - began


@contextmanager
def health_answered_throughout(server: ServerProcess) -> Iterator[None]:
    """Asks again and again meanwhile, each time as a new caller."""
    ended = threading.Event()

    def ask() -> list[float]:
        took = []
        while not ended.wait(0.1):
            took.append(seconds_to_health(server.addresses[0]))
        return [*took, seconds_to_health(server.addresses[0])]

    with ThreadPoolExecutor(1) as prober:
        asked = prober.submit(ask)
        try:
            yield
        finally:
            ended.set()
        assert max(asked.result()) < ANSWERED_S


def opened(callers: list[RawCaller], path: str, count: int) -> None:
    """Send the headers of so many calls, and nothing more."""
    for index in range(count):
        callers[index % len(callers)].open(path, flush=index >= count - len(callers))


@pytest.mark.parametrize("flags", [[], ["--bearer-token", "t"], ["--transform", "plain_transforms:unchanged"]])
def test_half_calls_take_no_thread_and_hold_nobody_up(launch: Launch, caller_of: Call, flags: list[str]) -> None:
    server = launch(*flags)
    seconds_to_health(server.addresses[0])
    before = status_of(server.process.pid, "Threads")
    callers = [caller_of(server) for _ in range(3)]
    with health_answered_throughout(server):
        opened(callers, HEALTH, 300)
        opened(callers, "/grpc.health.v1.Health/Watch", 300)
        opened(callers, STEP, 2000)
        for index in range(80):
            callers[index % 3].open(HEALTH if index % 2 else STEP)
            time.sleep(0.01)
        assert status_of(server.process.pid, "Threads") <= before + 8
        with ChatEnv(server.addresses[0], token="t") as env:
            assert env.reset(timeout_s=10).observation.step_count == 0


def test_a_half_call_is_answered_when_its_time_is_over(launch: Launch) -> None:
    server = launch()
    with RawCaller(server.addresses[0]) as caller:
        number = caller.open(HEALTH)
        assert caller.ended([number], HEALTH_AWAITED_S + 10)
        assert caller.statuses[number] == DEADLINE


def test_without_the_token_no_request_is_read(launch: Launch) -> None:
    server = launch("--bearer-token", "t")
    with RawCaller(server.addresses[0]) as caller:
        for path in (STEP, "/chatenv.v1.ChatEnvService/StreamSteps", "/chatenv.v1.ChatEnvService/BatchStep"):
            number = caller.open(path)
            assert caller.ended([number])
            assert caller.statuses[number] == UNAUTHENTICATED


def test_failed_requests_leave_nothing_behind(launch: Launch) -> None:
    server = launch()
    broken = b"\x0a\xff\xff\xff\xff" + bytes(40 * MIB)
    unknown = pb.StepRequest(episode_id="x" * 40 * MIB, tokens=[1])
    with grpc.insecure_channel(server.addresses[0], channel_options()) as channel:
        for request, status in [(broken, "INVALID_ARGUMENT"), (unknown.SerializeToString(), "NOT_FOUND")] * 4:
            call: Any = channel.unary_unary(STEP)
            with pytest.raises(grpc.RpcError) as refused:
                call(request)
            assert refused.value.code().name == status
    assert peak_mib(server) < 500  # eight requests that were kept would take more than twice that


@pytest.mark.parametrize("token", [None, "t"])
def test_compressed_requests_are_bounded_together_by_what_they_become(
    launch: Launch, caller_of: Call, token: str | None
) -> None:
    server = launch(*(() if token is None else ("--bearer-token", token)))
    bomb = gzip.compress(pb.StepRequest(episode_id="x" * 60 * MIB).SerializeToString())
    callers = [caller_of(server) for _ in range(4)]
    with health_answered_throughout(server):
        numbers = [(caller, [caller.call(STEP, bomb, GZIP, flag=1) for _ in range(6)]) for caller in callers]
        assert all(caller.ended(of_caller) for caller, of_caller in numbers)
    statuses = Counter(status for caller in callers for status in caller.statuses.values())
    assert statuses.keys() <= ({BUSY, NOT_FOUND} if token is None else {UNAUTHENTICATED})
    assert peak_mib(server) < 900  # 24 of them would take 1,440 when they are unpacked, and as much again when parsed


def test_a_compressed_request_is_read_as_if_it_were_plain(launch: Launch) -> None:
    server = launch()
    with RawCaller(server.addresses[0]) as caller:
        reset = pb.ResetRequest(episode_id="e", messages=[pb.Message(role="user", content="hi" * 100_000)])
        path = "/chatenv.v1.ChatEnvService/Reset"
        good = caller.call(path, gzip.compress(reset.SerializeToString()), GZIP, flag=1)
        short = caller.call(path, gzip.compress(reset.SerializeToString())[:-9], GZIP, flag=1)
        beyond = caller.call(path, gzip.compress(bytes(65 * MIB)), GZIP, flag=1)
        assert caller.ended([good, short, beyond])
        assert caller.statuses == {good: OK, short: INVALID, beyond: BUSY}
    with ChatEnv(server.addresses[0]) as env:
        assert env.resume("e").observation.messages == [{"role": "user", "content": "hi" * 100_000}]


@pytest.mark.parametrize("declared", [2**31, 2**32 - 1])
def test_a_length_beyond_the_limit_is_refused_before_anything_is_sent(launch: Launch, declared: int) -> None:
    server = launch()
    with RawCaller(server.addresses[0]) as caller:
        numbers = [caller.open(path) for path in (STEP, HEALTH)]
        for number in numbers:
            caller.send(number, framed(b"x", length=declared))
        assert caller.ended(numbers)
        assert set(caller.statuses.values()) == {BUSY}  # gRPC's number for what is too large, too
    assert peak_mib(server) < 200


@pytest.mark.parametrize("parts", [b"\x0a\x00", b"\x0a\x02\x22\x00"], ids=["empty steps", "steps of an empty message"])
def test_a_request_of_a_million_parts_is_refused_before_it_is_parsed(launch: Launch, parts: bytes) -> None:
    server = launch()
    count = 4 * MAX_FIELDS
    with health_answered_throughout(server), RawCaller(server.addresses[0]) as caller:
        number = caller.call("/chatenv.v1.ChatEnvService/BatchStep", parts * count)
        assert caller.ended([number])
        assert caller.statuses[number] == INVALID
    assert peak_mib(server) < 200  # parsed, each part takes about a hundred bytes


def test_a_name_of_a_service_in_health_is_short(launch: Launch) -> None:
    server = launch()
    request = health_pb2.HealthCheckRequest(service="x" * MIB).SerializeToString()
    with health_answered_throughout(server), RawCaller(server.addresses[0]) as caller:
        plain = [caller.call(HEALTH, request) for _ in range(50)]
        packed = [caller.call(HEALTH, gzip.compress(request), GZIP, flag=1) for _ in range(50)]
        assert caller.ended([*plain, *packed])
        assert BUSY in caller.statuses.values()  # gRPC's number for what is too large, too
        assert set(caller.statuses.values()) <= {BUSY, DEADLINE}  # the oldest are given up while many are on their way


def test_answers_that_nobody_reads_are_bounded_and_others_are_served(launch: Launch, caller_of: Call) -> None:
    server = launch("--max-bytes-in-flight", str(64 * MIB))
    with grpc.insecure_channel(server.addresses[0], channel_options()) as channel:
        stub = ChatEnvServiceStub(channel)
        stub.Reset(pb.ResetRequest(episode_id="e"))
        stub.Step(pb.StepRequest(episode_id="e", tokens=[1] * MIB))
        before = peak_mib(server)
        callers = [caller_of(server, window=0) for _ in range(4)]
        request = pb.GetStateRequest(episode_id="e").SerializeToString()
        with health_answered_throughout(server):
            for index in range(200):
                callers[index % 4].call("/chatenv.v1.ChatEnvService/GetState", request)
            assert wait_until_served(stub) < 10  # the oldest go first where others want their room
        assert peak_mib(server) - before < 400  # 200 answers would take more than 800, and twice that on their way


def wait_until_served(stub: ChatEnvServiceStub) -> float:
    """Seconds until a caller that reads gets an answer."""
    began = time.monotonic()
    while not is_served(stub):
        time.sleep(0.1)
    return time.monotonic() - began


def is_served(stub: ChatEnvServiceStub) -> bool:
    try:
        stub.GetState(pb.GetStateRequest(episode_id="e"), timeout=20)
    except grpc.RpcError as error:
        refused: Any = error
        assert refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        return False
    return True


def test_watchers_that_do_not_read_hold_up_neither_health_nor_the_end(launch: Launch, caller_of: Call) -> None:
    server = launch()
    callers = [caller_of(server, window=0) for _ in range(2)]
    with health_answered_throughout(server):
        for _ in range(MAX_WATCHERS):
            for caller in callers:
                caller.call("/grpc.health.v1.Health/Watch", b"")
        time.sleep(0.5)
    began = time.monotonic()
    server.process.terminate()
    assert server.process.wait(20) == 0
    assert time.monotonic() - began < 5  # and not the grace of 25 s


def test_headers_are_bounded_and_many_of_them_leave_nothing_behind(launch: Launch) -> None:
    server = launch()
    before = peak_mib(server)
    with health_answered_throughout(server):
        for _ in range(8):
            with RawCaller(server.addresses[0]) as caller:
                for _ in range(5):
                    caller.open(STEP, {f"x-{index}": "y" * 1000 for index in range(200)})
                    if not caller.read(0.05):
                        break
    assert peak_mib(server) - before < 64
