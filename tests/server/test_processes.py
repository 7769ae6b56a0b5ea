"""Several serving processes behind one address: any serves any episode, one that dies is replaced, all drain."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from urllib.request import urlopen

import grpc
import pytest

from chatenv_client import (
    ChatAction,
    ChatEnv,
    ChatObservation,
    EpisodePool,
    Trajectory,
    VectorChatEnv,
    channel_options,
)
from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client._generated.chatenv_pb2_grpc import ChatEnvServiceStub
from chatenv_client.health import health_of
from chatenv_server.running.shared_port import SharedPorts
from chatenv_server.settings.errors import BindError, SettingError
from chatenv_server.settings.settings import Settings
from tests.server.conftest import Launch, ServerProcess, launch_slow, wait_for
from tests.server.test_process import slow_step, wait_for_log

if sys.platform != "linux":
    pytest.skip("only Linux spreads connections over processes", allow_module_level=True)

HI = {"role": "user", "content": "hi"}
PATIENCE_S = 30.0


@pytest.fixture
def store(tmp_path: Path) -> str:
    return f"sqlite://{tmp_path}/episodes.db"


def several(launch: Launch, store: str, *flags: str, n: int = 2, **environment: str) -> ServerProcess:
    return launch("--processes", str(n), "--store", store, *flags, **environment)


def own_channel(address: str) -> grpc.Channel:
    """A channel that shares no connection with others."""
    return grpc.insecure_channel(address, [*channel_options(), ("grpc.use_local_subchannel_pool", 1)])


def channels_to_all(address: str, n: int) -> dict[int, grpc.Channel]:
    """A channel to each process, by its number."""
    channels: dict[int, grpc.Channel] = {}
    until = time.monotonic() + PATIENCE_S
    while len(channels) < n:
        assert time.monotonic() < until, f"only {sorted(channels)} answer"
        channel = own_channel(address)
        number = ChatEnv(channel).server_info().process
        if number in channels:
            channel.close()
        else:
            channels[number] = channel
    return channels


def pids_of(server: ServerProcess) -> list[int]:
    parent = server.process.pid
    return [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text(encoding="utf-8").split()]


def eventually(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"


def metrics_of(server: ServerProcess) -> list[str]:
    """What Prometheus reads of each process."""
    found = re.search(r"metrics=(\S+)", server.log[-1])
    assert found is not None
    pages = []
    for address in found[1].split(","):
        with urlopen(f"http://{address}/metrics") as page:
            pages.append(page.read().decode())
    return pages


# What callers see.


def test_any_process_goes_on_with_an_episode_of_any_other(launch: Launch, store: str) -> None:
    server = several(launch, store)
    channels = channels_to_all(server.addresses[0], 2)
    assert sorted(channels) == [1, 2]
    first, second = (ChatEnv(channel) for channel in channels.values())
    first.reset(episode_id="e", messages=[HI])
    for turn in range(6):
        env, other = (first, second) if turn % 2 else (second, first)
        env.resume("e")
        env.step(ChatAction(tokens=[65 + turn, 257]) if turn % 2 == 0 else HI)
        assert other.resume("e").observation.token_ids.tolist() == env.state().token_ids.tolist()
    assert first.server_info().processes == 2


def test_a_process_that_is_killed_is_replaced_and_no_episode_is_lost(launch: Launch, store: str) -> None:
    server = several(launch, store)
    with ChatEnv(server.addresses[0]) as env:
        env.reset(messages=[HI])
        for turn in range(3):
            os.kill(pids_of(server)[turn % 2], signal.SIGKILL)
            env.step(ChatAction(tokens=[65 + turn, 257]) if turn % 2 == 0 else HI)  # gRPC tries again by itself
            eventually(lambda: len(pids_of(server)) == 2)
            channels_to_all(server.addresses[0], 2)
        assert env.state().step_count == 3


def test_a_vector_client_gives_each_process_its_part_of_the_episodes(launch: Launch, store: str) -> None:
    pytest.importorskip("prometheus_client", reason="the extra metrics is not installed")
    server = several(launch, store, "--metrics-listen", "127.0.0.1:0")
    with VectorChatEnv(server.addresses[0], 8) as env:
        env.reset(messages=[HI])
        env.step([ChatAction(tokens=[65 + index, 257]) for index in range(8)])
        pages = metrics_of(server)
        assert ["chatenv_episodes_started_total 4.0" in page for page in pages] == [True, True]
        assert ["chatenv_store_conflicts_total 0.0" in page for page in pages] == [True, True]


def test_a_pool_gives_each_process_its_part_of_the_episodes(launch: Launch, store: str) -> None:
    pytest.importorskip("prometheus_client", reason="the extra metrics is not installed")
    server = several(launch, store, "--metrics-listen", "127.0.0.1:0")

    async def play() -> list[str]:
        async with EpisodePool(server.addresses[0]) as pool:
            envs = await asyncio.gather(*(pool.reset(messages=[HI]) for _ in range(8)))
            await asyncio.gather(*(env.step(ChatAction(tokens=[65, 257])) for env in envs))
            return metrics_of(server)

    pages = asyncio.run(play())
    assert ["chatenv_episodes_started_total 4.0" in page for page in pages] == [True, True]
    assert ["chatenv_store_conflicts_total 0.0" in page for page in pages] == [True, True]


def test_a_pool_goes_on_when_processes_die(launch: Launch, store: str) -> None:
    server = several(launch, store)

    async def policy(observation: ChatObservation) -> ChatAction | None:
        if observation.messages[-1]["role"] == "assistant":
            return None
        os.kill(pids_of(server)[0], signal.SIGKILL)
        return ChatAction(tokens=[65, 257])

    async def play() -> list[Trajectory]:
        async with EpisodePool(server.addresses[0]) as pool:
            return [trajectory async for trajectory in pool.run([{"messages": [HI]}] * 3, policy, in_flight=1)]

    sampled = [trajectory.tokens[trajectory.loss_mask].tolist() for trajectory in asyncio.run(play())]
    assert sampled == [[65, 257]] * 3


def test_groups_that_are_forked_reach_every_process_too(launch: Launch, store: str) -> None:
    server = several(launch, store)
    with VectorChatEnv(server.addresses[0], 4) as env:
        env.reset(messages=[HI])
        with env.fork_groups(2) as groups:
            groups.step([ChatAction(tokens=[65 + index, 257]) for index in range(8)])
            assert [len(trajectory.tokens) for trajectory in groups.trajectories()] == [23] * 8


def test_a_vector_client_goes_on_when_processes_die(launch: Launch, store: str) -> None:
    server = several(launch, store)
    with VectorChatEnv(server.addresses[0], 8) as env:
        env.reset(messages=[HI])
        for turn in range(3):
            os.kill(pids_of(server)[turn % 2], signal.SIGKILL)
            env.step([ChatAction(tokens=[65 + index, 257]) if turn % 2 == 0 else HI for index in range(8)])
            channels_to_all(server.addresses[0], 2)
        for index, trajectory in enumerate(env.trajectories()):
            sampled = [row.tokens[row.loss_mask].tolist() for row in trajectory.samples()]
            assert sampled == [[65 + index, 257, 65 + index, 257]]


def test_a_process_that_serves_answers_health_for_itself(launch: Launch, store: str, mark: Path) -> None:
    server = launch_slow(launch, mark, "--processes", "2", "--store", store, SECONDS="3")
    channels = channels_to_all(server.addresses[0], 2)
    with slow_step(server, mark) as response:
        for channel in channels.values():
            assert health_of(channel, timeout_s=5) == "SERVING"
        os.kill(int(mark.read_text(encoding="ascii")), signal.SIGTERM)  # it drains, and says so; the other serves
        eventually(lambda: {_status(channel) for channel in channels.values()} != {"SERVING"})
        assert "SERVING" in {_status(channel) for channel in channels.values()}
        assert response.result().observation.reward == 1.0


def _status(channel: grpc.Channel) -> str:
    try:
        return health_of(channel, timeout_s=5)
    except grpc.RpcError:
        return "gone"


# The address.


@pytest.mark.parametrize("flags", [[], ["--processes", "2"]])
def test_a_strangers_server_does_not_get_in_on_the_port(
    launch: Launch, store: str, tmp_path: Path, flags: list[str]
) -> None:
    server = several(launch, store)
    others = ["--store", f"sqlite://{tmp_path}/others.db"] if flags else []
    code, said = launch("--listen", server.addresses[0], *flags, *others, wait=False).ended()
    assert code == 1
    assert f"cannot serve on {server.addresses[0]}" in said


def test_a_port_that_one_process_serves_on_is_not_shared(launch: Launch, store: str) -> None:
    alone = launch()
    code, said = launch("--listen", alone.addresses[0], "--processes", "2", "--store", store, wait=False).ended()
    assert code == 1
    assert f"cannot serve on {alone.addresses[0]}" in said


def test_the_port_stays_the_servers_while_no_process_lives(launch: Launch, store: str) -> None:
    server = several(launch, store)
    for pid in pids_of(server):
        os.kill(pid, signal.SIGKILL)
    with pytest.raises(BindError, match="cannot serve on"):
        SharedPorts(server.addresses)


def test_the_port_is_free_for_the_next_server_at_once(launch: Launch, store: str) -> None:
    server = several(launch, store)
    address = server.addresses[0]
    with ChatEnv(address) as env:
        env.reset()
        server.tell(signal.SIGTERM)
        assert server.ended()[0] == 0
        assert several(launch, store, "--listen", address).addresses == [address]
        env.step(HI)


# The end.


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_server_ends_at_once_with_all_its_processes(launch: Launch, store: str, number: signal.Signals) -> None:
    server = several(launch, store)
    pids = pids_of(server)
    server.tell(number)
    code, said = server.ended()
    assert code == 0
    assert "Traceback" not in said
    assert not any(map(is_alive, pids))


def test_sigterm_lets_calls_finish_in_all_processes(launch: Launch, store: str, mark: Path) -> None:
    server = launch_slow(launch, mark, "--processes", "2", "--store", store, SECONDS="2")
    channels = channels_to_all(server.addresses[0], 2)
    stubs = [ChatEnvServiceStub(channel) for channel in channels.values()]
    responses = []
    for index, stub in enumerate(stubs):
        stub.Reset(pb.ResetRequest(episode_id=f"e{index}"))
        request = pb.StepRequest(episode_id=f"e{index}", messages=[pb.Message(role="user", content="hi")])
        responses.append(stub.Step.future(request, timeout=20))
    wait_for(mark)
    time.sleep(0.3)  # until the other one has begun, too
    server.tell(signal.SIGTERM)
    assert [response.result().observation.reward for response in responses] == [1.0, 1.0]
    assert server.ended()[0] == 0


def test_a_step_that_outlasts_the_grace_makes_the_server_end_with_1(launch: Launch, store: str, mark: Path) -> None:
    server = launch_slow(launch, mark, "--processes", "2", "--store", store, "--drain-grace", "0.1", SECONDS="30")
    with slow_step(server, mark) as response:
        server.tell(signal.SIGTERM)
        code, said = server.ended()
        assert response.exception() is not None
    assert code == 1
    assert "cut off" in said


def test_a_second_signal_ends_all_at_once(launch: Launch, store: str, mark: Path) -> None:
    server = launch_slow(launch, mark, "--processes", "2", "--store", store, SECONDS="30")
    with slow_step(server, mark):
        pids = pids_of(server)
        server.tell(signal.SIGTERM)
        wait_for_log(server, "draining")
        server.tell(signal.SIGTERM)
        assert server.ended()[0] == 1
        eventually(lambda: not any(map(is_alive, pids)))


def test_a_parent_that_is_killed_leaves_no_process_behind(launch: Launch, store: str) -> None:
    server = several(launch, store)
    pids = pids_of(server)
    server.process.kill()
    eventually(lambda: not any(map(is_alive, pids)))
    assert several(launch, store, "--listen", server.addresses[0]).addresses == server.addresses


def test_a_process_that_dies_again_and_again_ends_the_server_with_a_line(launch: Launch, store: str) -> None:
    server = several(launch, store)
    stop = threading.Event()

    def kill_all() -> None:
        while not stop.is_set():
            for pid in pids_of(server) if server.process.poll() is None else []:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)

    killer = threading.Thread(target=kill_all)
    killer.start()
    try:
        code, said = server.ended()
    finally:
        stop.set()
        killer.join()
    assert code == 1
    assert "a serving process ends again and again, so the server ends number=" in said


# Settings, log, metrics.


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"store": "memory"}, "only episodes of its own"),
        ({"listen": ("127.0.0.1:0", "unix:///tmp/s")}, "unix:///tmp/s can belong to one process only"),
        ({"metrics_listen": "127.0.0.1:65535"}, "metrics-listen .* leaves no port for each process"),
    ],
)
def test_what_processes_cannot_share_is_refused_by_name(settings: dict[str, object], why: str) -> None:
    with pytest.raises(SettingError, match=why):
        Settings(**{"processes": 2, "store": "sqlite:///e.db", **settings})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("flags", "named"),
    [(["--tokenizer", "/no/such/folder"], "--tokenizer"), (["--transform", "no_such_module:x"], "--transform")],
)
def test_a_wrong_setting_is_told_once_and_ends_the_start_with_2(
    launch: Launch, store: str, flags: list[str], named: str
) -> None:
    code, said = launch("--processes", "2", "--store", store, *flags, wait=False).ended()
    assert code == 2
    assert said.count(named) == 1
    assert "Traceback" not in said


def test_the_log_names_the_process_and_says_once_that_all_serve(launch: Launch, store: str) -> None:
    server = several(launch, store)
    server.tell(signal.SIGTERM)
    said = server.ended()[1]
    assert sorted(re.findall(r"process ready process=(\d)", said)) == ["1", "2"]
    assert said.count(" serving ") == 1
    assert re.search(r" serving addresses=\S+ .*processes=2", said)


def test_each_process_has_its_metrics_on_a_port_of_its_own(launch: Launch, store: str) -> None:
    pytest.importorskip("prometheus_client", reason="the extra metrics is not installed")
    server = several(launch, store, "--metrics-listen", "127.0.0.1:0")
    for channel in channels_to_all(server.addresses[0], 2).values():
        ChatEnv(channel).reset()
    assert ["chatenv_episodes_started_total 1.0" in page for page in metrics_of(server)] == [True, True]


def test_metrics_take_ports_one_after_the_other() -> None:
    settings = Settings(processes=3, store="sqlite:///e.db", metrics_listen="127.0.0.1:9464")
    listens = [settings.of_process(number, ("127.0.0.1:1",)).metrics_listen for number in (1, 2, 3)]
    assert listens == ["127.0.0.1:9464", "127.0.0.1:9465", "127.0.0.1:9466"]


def test_no_secret_shows_in_the_list_of_processes(launch: Launch, store: str) -> None:
    server = several(launch, store, CHATENV_BEARER_TOKEN="open sesame")
    for pid in pids_of(server):
        assert b"sesame" not in Path(f"/proc/{pid}/cmdline").read_bytes()
    with ChatEnv(server.addresses[0], token="open sesame") as env:
        env.reset()
