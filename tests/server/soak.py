"""Many clients, killed and cut off at random, at servers that are killed, too; nothing is lost, and nothing done twice.

    python -m tests.server.soak --clients 64 --seconds 300 --kinds memory sqlite redis rolling

Every client is a process. At the end every episode that is not closed is compared with its client's journal, and the
servers may hold no others. What the kinds are, `servers_of` says. Without a store no server is killed, somebody reads a
stream slowly beside the clients, and a new server must know no episode. With one, all servers are killed before the
comparison.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
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
from tests.server.soak_client import Episode, Journal, Operation, expected_stream, play, step_request
from tests.server.soak_servers import KINDS, PAUSE_S, Servers, servers_of

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


def soak(clients: int, seconds: float, folder: Path, kind: str = "memory") -> Report:
    """Run it, with journals and logs in a folder."""
    report = Report()
    paths = [folder / f"client-{index}.jsonl" for index in range(clients)]
    with servers_of(kind, folder) as servers:
        until = time.time() + seconds
        beside = _disturb if servers.keep else read_slowly
        thread = Thread(target=_noting, args=[beside, servers, until, report])
        thread.start()
        _drive(paths, servers, until, report)
        thread.join()
        if servers.keep:
            servers.restart()
        live = _compare(paths, servers, report)
        if not servers.keep:
            servers.restart()
            _look_for_lost(live, servers.target(0), report)
        report.failures += servers.errors()
    return report


def _noting(work: Callable[[Servers, float, Report], None], servers: Servers, until: float, report: Report) -> None:
    try:
        work(servers, until, report)
    except Exception:  # noqa: BLE001 - whatever it is, the soak has to tell
        report.failures.append(traceback.format_exc())


def _disturb(servers: Servers, until: float, report: Report) -> None:
    """Kill or replace servers until the time is over."""
    while time.time() + PAUSE_S < until:
        time.sleep(PAUSE_S)
        servers.disturb(report.counts)


def _drive(paths: list[Path], servers: Servers, until: float, report: Report) -> None:
    """Keep a client at each journal, and kill one after the other, until the time is over."""
    # A client that is forked from a process that has imported everything is there in milliseconds.
    context = get_context("forkserver")
    context.set_forkserver_preload([play.__module__])

    def start(index: int) -> ForkServerProcess:
        process = context.Process(target=play, args=[paths[index], servers.target(random.randrange(64)), until])
        process.start()
        return process

    playing = [start(index) for index in range(len(paths))]
    while time.time() < until:
        time.sleep(KILL_PAUSE_S)
        if not servers.keep:
            report.resident_mib.append(servers.resident_mib())
        begun = [index for index, path in enumerate(paths) if path.exists() and path.stat().st_size]
        if not begun:
            continue
        index = random.choice(begun)
        playing[index].kill()
        playing[index].join()
        report.counts["clients killed"] += 1
        playing[index] = start(index)
    for path, process in zip(paths, playing, strict=True):
        process.join(LONGEST_END_S)
        if process.exitcode != 0:
            report.failures.append(f"the last client of {path.name} ended with {process.exitcode}")
            process.kill()
            process.join()


def read_slowly(servers: Servers, until: float, report: Report) -> None:
    """Step through a stream and lag behind with reading its long answers, until the time is over."""
    sent: list[Operation] = [{"say": "begin"}, {"sample": [65] * 20_000}]
    lag = Semaphore(LARGEST_LAG)

    def requests() -> Iterator[pb.StreamStepsRequest]:
        yield from (pb.StreamStepsRequest(step=step_request(SLOW, index, first)) for index, first in enumerate(sent))
        while lag.acquire() and time.time() < until:
            sent.append({"sample": [len(sent) % 256]} if len(sent) % 2 else {"say": f"{len(sent)}"})
            yield pb.StreamStepsRequest(step=step_request(SLOW, len(sent) - 1, sent[-1]))

    with open_channel(servers.target(0)) as channel:
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


def _compare(paths: list[Path], servers: Servers, report: Report) -> list[str]:
    """Hold what the servers have against the journals; the ids of the live episodes, the slow reader's aside."""
    live: list[str] = []
    with open_channel(servers.target(0)) as channel:
        env = ChatEnv(channel)
        for path in paths:
            journal = Journal(path)
            _count(journal, report)
            left = [episode for episode in journal.episodes() if not episode.closed]
            live += [episode.episode_id for episode in left if _is_live(env, episode, report)]
        held = env.server_info().live_episodes
    report.counts["live episodes compared"] = len(live)
    expected = len(live) if servers.keep else len(live) + 1
    if held != expected:
        report.failures.append(f"the servers hold {held} episodes, and {expected} were expected")
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


_COUNTED: Final = {
    "done": "steps of the clients",
    "cut off": "steps cut off and asked for again",
    "closed": "episodes compared and closed",
    "overtaken": "overtaken by steps of the dead",
    "unavailable": "calls done again after a server was gone",
    "resumed": "episodes taken up",
}
"""By entry of a journal."""


def _count(journal: Journal, report: Report) -> None:
    for entry in journal.entries():
        if (what := _COUNTED.get(entry["what"])) is not None:
            report.counts[what] += 1
        if entry["what"] == "resumed":
            report.counts["of them with steps begun"] += entry["pending"] > 0
            report.counts["of them with such steps applied"] += entry["applied"] > 0
        if entry["what"] == "failed":
            report.failures.append(entry["why"])


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
    parser.add_argument(
        "--kinds", nargs="+", choices=KINDS, default=KINDS, help="of servers (all, one after the other)"
    )
    options = parser.parse_args()
    return max([_soak_and_print(kind, options) for kind in options.kinds])


def _soak_and_print(kind: str, options: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory() as folder:
        report = soak(options.clients, options.seconds, Path(folder), kind)
    sys.stdout.write(f"\n{kind}\n")
    for name, count in report.counts.items():
        sys.stdout.write(f"{count:>10,}  {name}\n")
    if report.resident_mib:
        for name, share in (("a quarter", 0.25), ("half", 0.5), ("all", 1.0)):
            index = int(share * (len(report.resident_mib) - 1))
            sys.stdout.write(f"{report.resident_mib[index]:>10,}  MiB resident after {name} of the time\n")
    for failure in report.failures:
        sys.stdout.write(f"FAILED: {failure}\n")
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
