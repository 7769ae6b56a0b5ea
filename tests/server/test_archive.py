"""The archive: every ended episode is a line of a file, exactly once, whatever ends the server."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import random
import shutil
import signal
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import grpc
import numpy as np
import pytest

from chatenv_client import ChatAction, ChatEnv, ChatEnvError, Trajectory, read_trajectories
from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client._generated.chatenv_pb2_grpc import ChatEnvServiceStub
from chatenv_client.exports.json_lines import line_of
from chatenv_server.running.process import RunningServer, start
from chatenv_server.settings.errors import SettingError
from chatenv_server.settings.settings import Settings
from tests.server.conftest import Launch, Serve, ServerProcess

HI = {"role": "user", "content": "hi"}

Connect = Callable[..., ChatEnv]


def said(text: str) -> ChatAction:
    ids = [*text.encode(), 257]
    return ChatAction(tokens=ids, logprobs=-np.arange(len(ids), dtype=np.float32) / 7)


def archived(folder: Path) -> list[Trajectory]:
    return list(read_trajectories(folder))


def ids(folder: Path) -> list[str]:
    return [one.episode_id for one in archived(folder)]


@contextmanager
def reached(target: str | grpc.Channel) -> Iterator[grpc.Channel]:
    if isinstance(target, grpc.Channel):
        yield target
    else:
        with grpc.insecure_channel(target) as channel:
            yield channel


def play(target: str | grpc.Channel, name: str, turns: int = 2, length: int = 1) -> Trajectory:
    """Play an episode, and leave it live."""
    with reached(target) as channel:
        env = ChatEnv(channel, timeout_s=5)
        env.reset(episode_id=name, messages=[HI], seed=7, group="g", metadata={"row": 1})
        for number in range(turns):
            env.step(said(f"turn {number}" * length))
            env.step(HI)
        if turns:
            env.set_reward({"late": 0.5}, step=1)
        return env.trajectory()


def close(target: str | grpc.Channel, name: str) -> bool:
    """Close an episode as anybody can; whether it was live."""
    with reached(target) as channel:
        return bool(ChatEnvServiceStub(channel).CloseEpisode(pb.CloseEpisodeRequest(episode_id=name)).was_live)


# What is in it.


def test_what_was_closed_is_in_it_bit_for_bit(serve: Serve, tmp_path: Path) -> None:
    server = serve(archive=str(tmp_path))
    whole = play(server.target, "one", length=2000)
    assert close(server.target, "one")
    (read,) = archived(tmp_path)
    assert line_of(read) == line_of(whole)


def test_each_episode_is_in_it_once_however_it_ended(serve: Serve, connect: Connect, tmp_path: Path) -> None:
    now = [0.0]
    server = serve(archive=str(tmp_path), clock=lambda: now[0], idle_timeout=60.0)
    names = ("anew", "closed", "failed", "expired", "stopped")
    for name in (*names, "anew"):
        play(server.target, name)
    other = connect(server)
    with pytest.raises(ChatEnvError):
        other.reset(episode_id="refused", history_policy="none")
    other.resume("failed")
    other.fail("the sandbox is gone")
    assert close(server.target, "failed")
    assert close(server.target, "closed")
    assert not close(server.target, "closed")
    now[0] += 40
    other.resume("anew")
    other.resume("stopped")
    now[0] += 30
    assert server._backend is not None
    server._backend.episodes.expire_idle()
    server.stop()
    assert Counter(ids(tmp_path)) == {"anew": 2, "closed": 1, "failed": 1, "expired": 1, "stopped": 1}
    (failed,) = [one for one in archived(tmp_path) if one.failure is not None]
    assert (failed.episode_id, failed.reward) == ("failed", None)


def test_a_store_keeps_what_goes_on_and_what_another_server_holds_is_archived(serve: Serve, tmp_path: Path) -> None:
    settings = {"store": f"sqlite:///{tmp_path}/episodes.db", "archive": str(tmp_path / "archive")}
    first, second = serve(**settings), serve(**settings)
    for name in ("one", "two"):
        play(first.target, name)
    whole = play(first.target, "goes-on")
    assert close(second.target, "one")
    play(second.target, "two")
    first.stop()
    assert Counter(ids(tmp_path / "archive")) == {"one": 1, "two": 1}
    assert close(second.target, "goes-on")
    assert line_of(archived(tmp_path / "archive")[-1]) == line_of(whole)


def test_of_those_who_close_an_episode_at_once_only_one_archives_it(serve: Serve, tmp_path: Path) -> None:
    settings = {"store": f"sqlite:///{tmp_path}/episodes.db", "archive": str(tmp_path / "archive")}
    servers = [serve(**settings) for _ in range(3)]
    names = [f"episode-{number}" for number in range(12)]
    for name in names:
        play(servers[0].target, name, turns=1)

    def close_all(server: RunningServer) -> int:
        return sum(close(server.target, name) for name in names)

    with ThreadPoolExecutor() as threads:
        assert sum(threads.map(close_all, servers)) == len(names)
    assert Counter(ids(tmp_path / "archive")) == Counter(names)
    assert len(list((tmp_path / "archive").iterdir())) <= 3


def test_an_episode_that_the_store_cannot_read_is_told_as_lost(
    serve: Serve, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = {"store": f"sqlite:///{tmp_path}/episodes.db", "archive": str(tmp_path / "archive")}
    play(serve(**settings).target, "one")
    server = serve(**settings)
    with closing(sqlite3.connect(tmp_path / "episodes.db")) as database:
        database.execute("UPDATE entries SET checksum = checksum + 1")
        database.commit()
    with caplog.at_level(logging.WARNING):
        assert close(server.target, "one")
    assert "episode not archived" in caplog.text
    assert ids(tmp_path / "archive") == []


# Files.


def test_a_full_file_is_left_and_another_one_begun(serve: Serve, tmp_path: Path) -> None:
    server = serve(archive=str(tmp_path), archive_file_bytes=3000)
    names = [f"episode-{number}" for number in range(8)]
    for name in names:
        play(server.target, name)
        close(server.target, name)
    files = sorted(tmp_path.iterdir())
    assert len(files) > 2
    assert ids(tmp_path) == names
    line = max(len(line) for file in files for line in file.read_bytes().splitlines())
    assert all(3000 <= file.stat().st_size <= 3000 + line for file in files[:-1])


def test_the_next_server_cuts_off_what_was_left_half_and_nothing_else(serve: Serve, tmp_path: Path) -> None:
    server = serve(archive=str(tmp_path))
    play(server.target, "one")
    close(server.target, "one")
    (file,) = tmp_path.iterdir()
    server.stop()
    whole = file.read_bytes()
    notes = tmp_path / "notes.jsonl"
    notes.write_bytes(b"not ours")
    for half in (b"x", whole[:-1], b"y" * 3_000_000):
        file.write_bytes(whole + half)
        serve(archive=str(tmp_path)).stop()
        assert file.read_bytes() == whole
    file.write_bytes(b"no end at all")
    serve(archive=str(tmp_path)).stop()
    assert file.read_bytes() == b""
    assert notes.read_bytes() == b"not ours"


def test_what_a_process_is_writing_is_not_taken_for_a_half_line(serve: Serve, tmp_path: Path) -> None:
    file = tmp_path / "episodes-20260101T000000.000000Z-00000000.jsonl"
    file.write_bytes(b"half a li")
    with file.open("ab") as writing:
        fcntl.flock(writing, fcntl.LOCK_EX)
        serve(archive=str(tmp_path)).stop()
        assert file.read_bytes() == b"half a li"
    serve(archive=str(tmp_path)).stop()
    assert file.read_bytes() == b""


def test_a_folder_that_nobody_can_write_to_is_refused_at_the_start(tmp_path: Path) -> None:
    file = tmp_path / "a-file"
    file.write_bytes(b"")
    with pytest.raises(SettingError, match=r"--archive .*does not work"):
        start(Settings(listen=("127.0.0.1:0",), archive=str(file)))


# Faults.


def test_a_folder_that_is_gone_fails_no_call_and_is_told(
    serve: Serve, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("prometheus_client")
    folder = tmp_path / "archive"
    server = serve(archive=str(folder), metrics_listen="127.0.0.1:0")

    def play_and_close(name: str) -> None:
        play(server.target, name)
        assert close(server.target, name)

    play_and_close("there")
    kept = folder.rename(tmp_path / "moved")
    play_and_close("where-it-was-moved")
    assert ids(kept) == ["there", "where-it-was-moved"]
    shutil.rmtree(kept)
    with caplog.at_level(logging.INFO):
        play_and_close("lost")
        play_and_close("lost-too")
        folder.mkdir()
        play_and_close("there-again")
    assert ids(folder) == ["there-again"]
    assert caplog.text.count("archive unavailable") == 1
    assert caplog.text.count("episode not archived") == 2
    assert caplog.text.count("archive available again") == 1
    counts = server.observers.telemetry.registry  # type: ignore[attr-defined]
    assert counts.get_sample_value("chatenv_archive_errors_total") == 2
    assert counts.get_sample_value("chatenv_archive_write_seconds_count") == 3


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash to limit the size of files with")
def test_a_full_disk_fails_no_call_and_leaves_whole_lines(launch: Launch, tmp_path: Path) -> None:
    limited = ("bash", "-c", 'ulimit -f 8; exec "$@"', "bash")
    server = launch("--archive", str(tmp_path), before=limited)
    names = [f"episode-{number}" for number in range(30)]
    for name in names:
        play(server.addresses[0], name)
        assert close(server.addresses[0], name)
    server.tell(signal.SIGTERM)
    code, log = server.ended()
    assert code == 0
    (file,) = tmp_path.iterdir()
    kept = ids(tmp_path)
    assert kept == names[: len(kept)]
    assert 0 < len(kept) < len(names)
    assert file.read_bytes().endswith(b"\n")
    assert log.count("archive unavailable") == 1
    assert log.count("episode not archived") == len(names) - len(kept)


@pytest.mark.timeout(60)  # a second for each end would be more
def test_steps_and_ends_go_on_while_the_disk_hangs(serve: Serve, tmp_path: Path) -> None:
    server = serve(archive=str(tmp_path))
    play(server.target, "hung")
    assert server._backend is not None
    files = server._backend._archive._files  # type: ignore[union-attr]
    goes_on, append = threading.Event(), files.append
    files.append = lambda line: goes_on.wait() and append(line)  # type: ignore[method-assign]
    with ThreadPoolExecutor() as threads:
        closing = threads.submit(close, server.target, "hung")
        play(server.target, "goes-on", turns=20)
        assert not goes_on.is_set()
        assert closing.result(timeout=30)
        more = [f"more-{number}" for number in range(100)]
        for name in more:
            play(server.target, name, turns=0)
            assert close(server.target, name)
        goes_on.set()
    server.stop()
    assert ids(tmp_path) == ["hung", *more, "goes-on"]


# Kills.


def close_episodes(address: str, worker: int, closed: list[str], turns: int) -> None:
    """Play and close, until the server is gone; which ends were answered."""
    with suppress(ChatEnvError, grpc.RpcError), reached(address) as channel:
        for number in range(10_000):
            name = f"{worker}-{number}-{os.urandom(3).hex()}"
            play(channel, name, turns)
            assert close(channel, name)
            closed.append(name)


@pytest.mark.parametrize("flags", [(), ("--processes", "2")])
def test_what_was_closed_before_a_kill_is_in_it_once_and_whole(
    launch: Launch, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    folder, closed = tmp_path / "archive", list[str]()
    store = ("--store", f"sqlite:///{tmp_path}/episodes.db") if flags else ()
    draw = random.Random(5)
    for _ in range(2):
        server = launch("--archive", str(folder), "--archive-file-bytes", "200000", *store, *flags)
        with ThreadPoolExecutor() as threads:
            for worker in range(3):
                threads.submit(close_episodes, server.addresses[0], worker, closed, turns=8)
            before = len(closed)
            while len(closed) < before + 10:
                time.sleep(0.01)
            time.sleep(draw.random() / 10)
            kill(server)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.warn", lambda *_, **__: None)  # of a last line that is cut off
        counted = Counter(ids(folder))
    assert set(closed) <= counted.keys()
    assert set(counted.values()) == {1}
    server = launch("--archive", str(folder), *store)
    server.tell(signal.SIGTERM)
    server.ended()
    for file in folder.iterdir():
        assert all(line.endswith(b"\n") and json.loads(line) for line in file.read_bytes().splitlines(keepends=True))
    if not store:
        assert counted.keys() == set(ids(folder))


def kill(server: ServerProcess) -> None:
    """Kill a server at once, and its serving processes with it."""
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text("ascii").split()
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in (*map(int, children), server.process.pid):
            os.kill(pid, number)
    server.process.wait()


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_what_is_finished_is_in_it_once_before_its_trajectory_is_answered(
    serve: Serve, connect: Connect, tmp_path: Path, kind: str
) -> None:
    store = "memory" if kind == "memory" else f"sqlite:///{tmp_path}/episodes.db"
    server = serve(archive=str(tmp_path / "archive"), store=store)
    for name in ("one", "two"):
        env = connect(server)
        env.reset(episode_id=name, messages=[HI])
        env.step(said("turn " * 2000))
        finished = env.finish()
        read = archived(tmp_path / "archive")[-1]
        assert line_of(read) == line_of(finished)
    assert ids(tmp_path / "archive") == ["one", "two"]
