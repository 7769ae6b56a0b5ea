"""Many clients at one server, killed and cut off at random; nothing may be lost, and nothing done twice.

    python -m tests.server.soak --clients 64 --seconds 300

Every client is a process. Beside them somebody reads a stream slowly. At the end every episode that is not closed is
compared with its client's journal, the server may hold no others, and once it is killed the next one knows none.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from threading import Semaphore, Thread
from typing import Final

from chatenv_client import ChatEnv, EpisodeClosedError, EpisodeUnknownError
from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client._generated.chatenv_pb2_grpc import ChatEnvServiceStub
from chatenv_client.channel import open_channel
from chatenv_server.rpc.streams import MAX_IN_FLIGHT
from tests.server.conftest import plain_environment
from tests.server.soak_client import Episode, Journal, Operation, expected_stream, play, step_request

KILL_PAUSE_S: Final = 0.25
LONGEST_END_S: Final = 60.0
"""Time that a client has to finish its last call, and a server to start."""
SLOW: Final = "slow"
"""The slow reader's episode."""
LARGEST_LAG: Final = 2 * MAX_IN_FLIGHT
"""Answers that the slow reader owes itself, so that the server has to stop reading."""


@dataclass
class Report:
    """What came of it."""

    counts: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    resident_mib: list[int] = field(default_factory=list)
    """Of the server, at every kill."""


def soak(clients: int, seconds: float, folder: Path) -> Report:
    """Run it, with journals and logs in a folder."""
    report = Report()
    until = time.time() + seconds
    paths = [folder / f"client-{index}.jsonl" for index in range(clients)]
    with server_process("127.0.0.1:0", folder / "server.log") as (pid, address):
        reader = Thread(target=read_slowly, args=[address, until, report])
        reader.start()
        _drive(paths, address, until, pid, report)
        reader.join()
        live = _compare(paths, address, report)
    with server_process(address, folder / "restarted.log") as (_, address):
        _look_for_lost(live, address, report)
    for line in (folder / "server.log").read_text(encoding="utf-8").splitlines():
        if json.loads(line)["level"] == "error":
            report.failures.append(line)
    return report


@contextmanager
def server_process(address: str, log: Path) -> Iterator[tuple[int, str]]:
    """A server that is killed at the end: its process id, and where it serves."""
    command = [sys.executable, "-m", "chatenv_server", "--listen", address, "--log-format", "json"]
    with log.open("wb") as file:
        process = subprocess.Popen(command, stderr=file, env=plain_environment())
    try:
        yield process.pid, _address_in(log)
    finally:
        process.kill()
        process.wait()


def _address_in(log: Path) -> str:
    until = time.monotonic() + LONGEST_END_S
    while time.monotonic() < until:
        first, newline, _ = log.read_text(encoding="utf-8").partition("\n")
        if newline:
            return str(json.loads(first)["addresses"])
        time.sleep(0.05)
    raise TimeoutError("the server does not serve")


def _drive(paths: list[Path], address: str, until: float, server_pid: int, report: Report) -> None:
    """Keep a client at each journal, and kill one after the other, until the time is over."""
    # A client that is forked from a process that has imported everything is there in milliseconds.
    context = get_context("forkserver")
    context.set_forkserver_preload([play.__module__])

    def start(path: Path) -> ForkServerProcess:
        process = context.Process(target=play, args=[path, address, until])
        process.start()
        return process

    playing = [start(path) for path in paths]
    while time.time() < until:
        time.sleep(KILL_PAUSE_S)
        report.resident_mib.append(_resident_mib(server_pid))
        begun = [index for index, path in enumerate(paths) if path.exists() and path.stat().st_size]
        if not begun:
            continue
        index = random.choice(begun)
        playing[index].kill()
        playing[index].join()
        report.counts["clients killed"] += 1
        playing[index] = start(paths[index])
    for path, process in zip(paths, playing, strict=True):
        process.join(LONGEST_END_S)
        if process.exitcode != 0:
            report.failures.append(f"the last client of {path.name} ended with {process.exitcode}")
            process.kill()
            process.join()


def _resident_mib(pid: int) -> int:
    statm = Path(f"/proc/{pid}/statm")
    return (
        int(statm.read_text(encoding="utf-8").split()[1]) * os.sysconf("SC_PAGE_SIZE") // 2**20 if statm.exists() else 0
    )


def read_slowly(address: str, until: float, report: Report) -> None:
    """Step through a stream and lag behind with reading its long answers, until the time is over."""
    sent: list[Operation] = [{"say": "begin"}, {"sample": [65] * 20_000}]
    lag = Semaphore(LARGEST_LAG)

    def requests() -> Iterator[pb.StreamStepsRequest]:
        yield from (pb.StreamStepsRequest(step=step_request(SLOW, index, first)) for index, first in enumerate(sent))
        while lag.acquire() and time.time() < until:
            sent.append({"sample": [len(sent) % 256]} if len(sent) % 2 else {"say": f"{len(sent)}"})
            yield pb.StreamStepsRequest(step=step_request(SLOW, len(sent) - 1, sent[-1]))

    with open_channel(address) as channel:
        stub = ChatEnvServiceStub(channel)
        stub.Reset(pb.ResetRequest(episode_id=SLOW))
        answered = 0
        for answer in stub.StreamSteps(requests()):
            answered += 1
            if answer.response.observation.step_count != answered:
                report.failures.append(f"the slow reader's answer {answered} is {answer}")
            lag.release()
            if time.time() < until:
                time.sleep(0.1)
        if list(stub.GetState(pb.GetStateRequest(episode_id=SLOW)).tokens) != expected_stream(sent):
            report.failures.append("the slow reader's stream is not what it sent")
        report.counts["steps of the slow reader"] = answered


def _compare(paths: list[Path], address: str, report: Report) -> list[str]:
    """Hold what the server has against the journals; the ids of the episodes that are live, the slow reader's aside."""
    live: list[str] = []
    with open_channel(address) as channel:
        env = ChatEnv(channel)
        for path in paths:
            journal = Journal(path)
            _count(journal, report)
            left = [episode for episode in journal.episodes() if not episode.closed]
            live += [episode.episode_id for episode in left if _is_live(env, episode, report)]
        held = env.server_info().live_episodes
    report.counts["live episodes compared"] = len(live)
    if held != len(live) + 1:
        report.failures.append(
            f"the server holds {held} episodes, but the journals and the slow reader {len(live) + 1}"
        )
    return live


def _is_live(env: ChatEnv, episode: Episode, report: Report) -> bool:
    try:
        episode.applied(env.resume(episode.episode_id).observation)
    except EpisodeUnknownError:
        if episode.opened:
            report.failures.append(f"{episode.episode_id} is lost")
        return False
    except EpisodeClosedError:
        if not episode.closing:
            report.failures.append(f"{episode.episode_id} was closed by nobody")
        return False
    except AssertionError as error:
        report.failures.append(str(error))
    return True


def _count(journal: Journal, report: Report) -> None:
    counts = report.counts
    for entry in journal.entries():
        match entry:
            case {"what": "done"}:
                counts["steps of the clients"] += 1
            case {"what": "cut off"}:
                counts["steps cut off and asked for again"] += 1
            case {"what": "closed"}:
                counts["episodes compared and closed"] += 1
            case {"what": "resumed", "pending": pending, "applied": applied}:
                counts["episodes taken up"] += 1
                counts["of them with steps begun"] += pending > 0
                counts["of them with such steps applied"] += applied > 0
            case {"what": "overtaken"}:
                counts["overtaken by steps of the dead"] += 1
            case {"what": "failed", "why": why}:
                report.failures.append(why)


def _look_for_lost(live: list[str], address: str, report: Report) -> None:
    with open_channel(address) as channel:
        env = ChatEnv(channel)
        for episode_id in [*live, SLOW]:
            if _is_known(env, episode_id):
                report.failures.append(f"{episode_id} is live on a new server")
        report.counts["asked for after kill -9 of the server"] = len(live) + 1
        if held := env.server_info().live_episodes:
            report.failures.append(f"a new server holds {held} episodes")


def _is_known(env: ChatEnv, episode_id: str) -> bool:
    try:
        env.resume(episode_id)
    except EpisodeUnknownError:
        return False
    return True


def main() -> int:
    """Soak and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=300.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = soak(options.clients, options.seconds, Path(folder))
    for name, count in report.counts.items():
        sys.stdout.write(f"{count:>10,}  {name}\n")
    for name, share in (("a quarter", 0.25), ("half", 0.5), ("all", 1.0)):
        index = int(share * (len(report.resident_mib) - 1))
        sys.stdout.write(f"{report.resident_mib[index]:>10,}  MiB resident after {name} of the time\n")
    for failure in report.failures:
        sys.stdout.write(f"FAILED: {failure}\n")
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
