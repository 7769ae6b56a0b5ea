"""What dies, stops or jumps under a server, and what must not come of it. Every party is a process of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from itertools import count
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import grpc
import pytest

from chatenv_client import ChatAction, ChatEnv, EpisodeUnknownError, ServerBusyError, UnavailableError
from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client._generated.chatenv_pb2_grpc import ChatEnvServiceStub
from chatenv_client.channel import open_channel
from tests.server.conftest import Launch, ServerProcess, launch_slow, wait_for
from tests.server.soak_client import Operation, expected_stream, step_request

HI = {"role": "user", "content": "hi"}
SAID_HI: Operation = {"say": "hi"}
SAMPLED: Operation = {"sample": [104, 105, 257]}

StartClient = Callable[..., tuple[ForkServerProcess, Connection]]


@pytest.fixture
def start_client() -> Iterator[StartClient]:
    """Starts `client(address, connection)` as a process, with the other end of the connection; killed at the end."""
    context = get_context("forkserver")
    started: list[tuple[ForkServerProcess, Connection]] = []

    def start_client(client: Callable[[str, Connection], None], server: ServerProcess) -> Any:
        ours, theirs = context.Pipe()
        process = context.Process(target=client, args=[server.addresses[0], theirs])
        process.start()
        theirs.close()
        started.append((process, ours))
        return started[-1]

    yield start_client
    for process, connection in started:
        process.kill()
        process.join()
        connection.close()


def kill(process: ForkServerProcess) -> None:
    process.kill()
    process.join()


# The server dies.


def reach(ask: Callable[[], Any]) -> Any:
    """A channel that lost its server looks for it again when it thinks fit; this asks until then."""
    while True:
        with contextlib.suppress(UnavailableError):
            return ask()


def test_a_server_killed_in_the_middle_of_a_step_is_unavailable_and_the_next_one_knows_nothing_of_it(
    launch: Launch, mark: Path, tmp_path: Path
) -> None:
    address = f"unix://{tmp_path}/socket"
    server = launch_slow(launch, mark, "--listen", address, SECONDS="30")
    with ChatEnv(address) as env, ThreadPoolExecutor(1) as pool:
        env.reset()
        asked = pool.submit(env.step, HI)
        wait_for(mark)
        server.tell(signal.SIGKILL)
        with pytest.raises(UnavailableError, match="see that a chatenv server runs"):
            asked.result()
        launch("--listen", address)
        for ask in (lambda: env.step(HI), env.state, lambda: env.step(HI)):
            with pytest.raises(EpisodeUnknownError, match="restarted"):
                reach(ask)
        assert env.server_info().live_episodes == 0


def test_a_step_that_finds_another_server_when_it_is_retried_opens_no_episode_there(
    launch: Launch, mark: Path, tmp_path: Path
) -> None:
    first = launch_slow(launch, mark, "--listen", f"unix://{tmp_path}/socket", SECONDS="30")
    launch("--listen", f"unix://{tmp_path}/next")
    with ChatEnv(first.addresses[0]) as env, ThreadPoolExecutor(1) as pool:
        env.reset()
        asked = pool.submit(env.step, HI)
        wait_for(mark)
        (tmp_path / "next").replace(tmp_path / "socket")
        first.tell(signal.SIGKILL)
        with pytest.raises(EpisodeUnknownError):
            asked.result()
        assert env.server_info().live_episodes == 0


# A client dies.


def step_once(address: str, _connection: Connection) -> None:
    env = ChatEnv(address)
    env.reset(episode_id="e")
    env.step(HI)


def operation(index: int) -> Operation:
    return {"sample": [index % 256, 257]} if index % 2 else {"say": f"{index}"}


def stream_without_end(address: str, connection: Connection) -> None:
    """Tell when fifty steps have been answered."""
    stub = ChatEnvServiceStub(open_channel(address))
    stub.Reset(pb.ResetRequest(episode_id="e"))
    requests = (pb.StreamStepsRequest(step=step_request("e", index, operation(index))) for index in count())
    for index, _ in enumerate(stub.StreamSteps(requests)):
        if index == 50:
            connection.send(index)


def wait_until_let_in(env: ChatEnv) -> None:
    """The server has one place for calls: this returns when nobody has it."""
    while True:
        with contextlib.suppress(ServerBusyError):
            env.server_info()
            return
        time.sleep(0.02)


def test_a_client_killed_in_the_middle_of_a_step_leaves_a_whole_step_and_a_free_place(
    launch: Launch, mark: Path, start_client: StartClient
) -> None:
    server = launch_slow(launch, mark, "--max-concurrent-calls", "1")
    client, _ = start_client(step_once, server)
    wait_for(mark)
    kill(client)
    with ChatEnv(server.addresses[0]) as env:
        wait_until_let_in(env)
        left = env.resume("e").observation
        assert (left.step_count, left.token_ids.tolist()) == (1, expected_stream([SAID_HI]))
        went_on = env.step(ChatAction(tokens=SAMPLED["sample"])).observation
        assert went_on.token_ids.tolist() == expected_stream([SAID_HI, SAMPLED])


def test_a_client_killed_in_the_middle_of_a_stream_leaves_whole_steps_and_a_free_place(
    launch: Launch, start_client: StartClient
) -> None:
    server = launch("--max-concurrent-calls", "1")
    client, connection = start_client(stream_without_end, server)
    connection.recv()
    kill(client)
    with ChatEnv(server.addresses[0]) as env:
        wait_until_let_in(env)
        left = env.resume("e").observation
        steps = [operation(index) for index in range(left.step_count)]
        assert len(steps) > 50
        assert left.token_ids.tolist() == expected_stream(steps)
        went_on = env.step(HI).observation
        assert went_on.token_ids.tolist() == expected_stream([*steps, SAID_HI])


def stream_and_wait(address: str, connection: Connection) -> None:
    """Tell when the only step is answered, and leave the stream open."""
    stub = ChatEnvServiceStub(open_channel(address))
    stub.Reset(pb.ResetRequest(episode_id="e"))
    steps: SimpleQueue[pb.StreamStepsRequest] = SimpleQueue()
    steps.put(pb.StreamStepsRequest(step=step_request("e", 0, SAID_HI)))
    for answer in stub.StreamSteps(iter(steps.get, None)):
        connection.send(answer.response.observation.step_count)


def test_a_client_killed_while_its_stream_is_open_is_no_fault_of_the_servers(
    launch: Launch, start_client: StartClient
) -> None:
    server = launch("--max-concurrent-calls", "1")
    client, connection = start_client(stream_and_wait, server)
    assert connection.recv() == 1
    kill(client)
    with ChatEnv(server.addresses[0]) as env:
        wait_until_let_in(env)
    server.tell(signal.SIGTERM)
    assert " ERROR " not in server.ended()[1]


# A client stops reading.

STEPS_OF_STOPPED = 600


def stream_long_answers(address: str, connection: Connection) -> None:
    """Tell when the first answer is there, and at the end the counts of all."""
    stub = ChatEnvServiceStub(open_channel(address))
    stub.Reset(pb.ResetRequest(episode_id="stopped", messages=[pb.Message(role="user", content="long " * 10_000)]))
    requests = (
        pb.StreamStepsRequest(step=step_request("stopped", index, operation(index + 1)))
        for index in range(STEPS_OF_STOPPED)
    )
    counts: list[int] = []
    for answer in stub.StreamSteps(requests):
        if not counts:
            connection.send(True)
        counts.append(answer.response.observation.step_count)
    connection.send(counts)


def test_a_reader_that_is_stopped_harms_no_other_and_loses_nothing_when_it_goes_on(
    launch: Launch, start_client: StartClient
) -> None:
    server = launch()
    reader, connection = start_client(stream_long_answers, server)
    connection.recv()
    assert reader.pid is not None
    os.kill(reader.pid, signal.SIGSTOP)
    steps = [operation(index) for index in range(100)]
    with open_channel(server.addresses[0]) as channel:
        env, stub = ChatEnv(channel), ChatEnvServiceStub(channel)
        stub.Reset(pb.ResetRequest(episode_id="other"))
        for index, step in enumerate(steps):
            stub.Step(step_request("other", index, step), timeout=20)
        assert env.resume("other").observation.token_ids.tolist() == expected_stream(steps)
        assert env.resume("stopped").observation.step_count < STEPS_OF_STOPPED
    os.kill(reader.pid, signal.SIGCONT)
    assert connection.recv() == list(range(1, STEPS_OF_STOPPED + 1))


# The wall clock jumps.


class WallClock:
    """The wall clock of other processes, by libfaketime; the monotonic one is left as it is."""

    def __init__(self, library: Path, file: Path) -> None:
        self._file = file
        self.jump("+0")
        self.environment = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def jump(self, to: str) -> None:
        """Set it as far ahead (`+400d`) or behind (`-400d`)."""
        following = self._file.with_suffix(".following")
        following.write_text(to + "\n")
        following.replace(self._file)

    def is_seen(self) -> bool:
        """Whether a Python process sees another time than this one."""
        self.jump("+400d")
        ask = [sys.executable, "-c", "import time; print(time.time())"]
        told = subprocess.run(ask, capture_output=True, text=True, check=True, env=os.environ | self.environment)
        self.jump("+0")
        return float(told.stdout) > time.time() + 300 * 86_400


@pytest.fixture
def wall_clock(tmp_path: Path) -> WallClock:
    package = find_spec("libfaketime")
    places = [] if package is None else [Path(place) for place in package.submodule_search_locations or ()]
    found = [library for place in places for library in place.rglob("libfaketime.so.1")]
    clock = WallClock(found[0], tmp_path / "clock") if found else None
    if clock is None or not clock.is_seen():
        pytest.skip("libfaketime is not here, or not for this machine")
    return clock


JUMPS = ("+400d", "-400d", "+0")


def test_a_wall_clock_that_jumps_ends_no_episode_and_leaves_uptime_alone(launch: Launch, wall_clock: WallClock) -> None:
    server = launch("--idle-timeout", "60", **wall_clock.environment)
    with ChatEnv(server.addresses[0]) as env:
        env.reset()
        for jump in JUMPS:
            wall_clock.jump(jump)
            env.step(HI)
            assert 0 < env.server_info().uptime_seconds < 3600
        assert env.state().token_ids.tolist() == expected_stream([SAID_HI] * len(JUMPS))


@pytest.mark.parametrize("jump", ["+400d", "-400d"])
def test_a_call_that_waits_its_turn_while_the_wall_clock_jumps_still_gets_it(
    launch: Launch, wall_clock: WallClock, mark: Path, jump: str
) -> None:
    server = launch_slow(launch, mark, **wall_clock.environment)
    with open_channel(server.addresses[0]) as channel:
        stub = ChatEnvServiceStub(channel)
        stub.Reset(pb.ResetRequest(episode_id="e"))
        step = stub.Step.future(step_request("e", 0, SAID_HI), timeout=30)
        wait_for(mark)
        waiting = stub.GetState.future(pb.GetStateRequest(episode_id="e"), timeout=30)
        time.sleep(0.2)  # until it has come and waits; if it has not, this test is only weaker
        wall_clock.jump(jump)
        following = stub.GetState.future(pb.GetStateRequest(episode_id="e"), timeout=30)
        assert step.result().observation.step_count == 1
        assert [call.code() for call in (waiting, following)] == [grpc.StatusCode.OK] * 2
