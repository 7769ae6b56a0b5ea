"""Tasks in server processes of their own: killed, started again, and several behind one address."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from chatenv_client import ChatEnv, VectorChatEnv
from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client._generated.chatenv_pb2_grpc import ChatEnvServiceStub
from tests.server.conftest import ServerProcess, plain_environment
from tests.tasks.conftest import settled
from tests.tasks.ways import said

SERVED = Path(__file__).parent / "served"
Launch = Callable[..., ServerProcess]


@pytest.fixture
def ended(tmp_path: Path) -> Path:
    """Where the task writes what it was closed for."""
    path = tmp_path / "ended"
    path.touch()
    return path


@pytest.fixture
def launch(tmp_path: Path, ended: Path) -> Iterator[Launch]:
    """Starts `chatenv-server` with the task on one store."""
    launched: list[ServerProcess] = []

    def launch(*flags: str) -> ServerProcess:
        command = [sys.executable, "-m", "chatenv_server", "--listen", "127.0.0.1:0"]
        path = os.pathsep.join([str(SERVED), str(Path(__file__).parents[2])])
        environment = plain_environment() | {"PYTHONPATH": path, "ENDED": str(ended)}
        process = subprocess.Popen(
            [*command, "--task", "counting_task:Counting", "--store", f"sqlite://{tmp_path}/episodes.db", *flags],
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        launched.append(ServerProcess(process))
        return launched[-1].wait_until_serving()

    yield launch
    for server in launched:
        server.process.kill()
        server.process.communicate()


def test_a_server_that_is_killed_loses_no_task(launch: Launch, ended: Path) -> None:
    first = launch()
    env = ChatEnv(first.addresses[0])
    env.reset(episode_id="e")
    for _ in range(3):
        env.step(said("x"))
    first.tell(signal.SIGKILL)
    first.process.wait(10)
    address = launch().addresses[0]
    with ChatEnv(address) as again:
        again.resume("e")
        observation = again.step(said("x")).observation
        assert (observation.messages[-1]["content"], observation.rewards) == ("4", {"turn": 4.0})
        assert again.trajectory().reward == 10.0
        assert ended.read_text() == ""
        with grpc.insecure_channel(address) as channel:
            ChatEnvServiceStub(channel).CloseEpisode(pb.CloseEpisodeRequest(episode_id="e"))
    assert settled(ended.read_text) == "e closed\n"


def test_a_finish_is_answered_again_by_the_server_that_follows_one_that_was_killed(launch: Launch, ended: Path) -> None:
    first = launch()
    with VectorChatEnv(first.addresses[0], 3) as env:
        env.reset([{"episode_id": name} for name in "abc"])
        env.step([said("x")] * 3)
        rewards = [one.reward for one in env.finish()]
    assert rewards == [1.0] * 3
    assert settled(lambda: len(ended.read_text().splitlines()) == 3)
    first.tell(signal.SIGKILL)
    first.process.wait(10)
    with grpc.insecure_channel(launch().addresses[0]) as channel:
        stub = ChatEnvServiceStub(channel)
        for name in "abc":
            trajectory = stub.FinishEpisode(pb.FinishEpisodeRequest(episode_id=name)).trajectory
            assert [turn.reward for turn in trajectory.segments[0].turns if turn.HasField("reward")] == [1.0]
    assert sorted(ended.read_text().splitlines()) == ["a closed", "b closed", "c closed"]


def test_any_process_finishes_any_episode_and_closes_its_task_once(launch: Launch, ended: Path) -> None:
    server = launch("--processes", "2")
    with VectorChatEnv(server.addresses[0], 20) as env:
        env.reset()
        env.step([said("x")] * 20)
        ids = [str(one) for one in env.episode_ids]
        with ChatEnv(server.addresses[0]) as other:
            for episode_id in ids[::3]:
                other.resume(episode_id)
                other.finish()
        assert [one.episode_id for one in env.finish()] == ids
    assert settled(lambda: len(ended.read_text().splitlines()) == 20)
    assert sorted(ended.read_text().splitlines()) == sorted(f"{one} closed" for one in ids)


def test_any_process_answers_for_any_episode(launch: Launch, ended: Path) -> None:
    server = launch("--processes", "2")
    with VectorChatEnv(server.addresses[0], 20) as env:
        env.reset()
        for turn in range(3):
            results = env.step([said("x")] * 20)
            assert [one.observation.messages[-1]["content"] for one in results] == [str(turn + 1)] * 20
        ids = [str(one) for one in env.episode_ids]
        with ChatEnv(server.addresses[0]) as other:
            for episode_id in ids:
                other.resume(episode_id)
                assert other.step(said("x")).observation.messages[-1]["content"] == "4"
    lines = settled(lambda: len(ended.read_text().splitlines()) == 20)
    assert lines
    assert sorted(ended.read_text().split()[::2]) == sorted(ids)
