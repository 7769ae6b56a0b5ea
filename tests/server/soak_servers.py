"""The servers of the soak: on a store or without one, killed or replaced while clients are at work."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from tests.server.conftest import plain_environment
from tests.stores.conftest import RedisServer, free_port

LONGEST_START_S: Final = 60.0
PAUSE_S: Final = 1.0
"""Between one disturbance and the next."""

KINDS: Final = ("memory", "sqlite", "redis", "rolling")


class Server:
    """A `chatenv-server` at one address, which ends and is started again."""

    def __init__(self, log: Path, *flags: str) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self._log = log
        self._flags = flags
        self._starts = 0
        self.start()

    def start(self) -> None:
        """Start it; back when it serves."""
        command = [sys.executable, "-m", "chatenv_server", "--listen", self.address, "--log-format", "json"]
        with self._log.open("ab") as file:
            self._process = subprocess.Popen([*command, *self._flags], stderr=file, env=plain_environment())
        self._starts += 1
        self._wait_for("serving", self._starts)

    def _wait_for(self, message: str, count: int) -> None:
        until = time.monotonic() + LONGEST_START_S
        while self._said(message) < count:
            assert self._process.poll() is None, self._log.read_text(encoding="utf-8")
            assert time.monotonic() < until, "the server does not serve"
            time.sleep(0.05)

    def _said(self, message: str) -> int:
        return sum(line["message"] == message for line in self.lines())

    def lines(self) -> list[dict[str, object]]:
        """What it has said, whole lines only."""
        return [json.loads(line) for line in self._log.read_bytes().rpartition(b"\n")[0].splitlines()]

    @property
    def children(self) -> list[int]:
        """Its serving processes, where it has several."""
        pid = self._process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()]

    def kill_one_process(self) -> None:
        """Kill one of its serving processes; back when another one serves in its place."""
        ready = self._said("process ready")
        os.kill(random.choice(self.children), signal.SIGKILL)
        self._wait_for("process ready", ready + 1)

    def kill(self) -> None:
        """End it and its processes at once."""
        children = self.children
        self._process.kill()
        for child in children:
            os.kill(child, signal.SIGKILL)
        self._process.wait()
        while any(map(_is_alive, children)):
            time.sleep(0.01)

    def drain(self) -> int:
        """End it as an orchestrator does; its exit code."""
        self._process.terminate()
        return self._process.wait(LONGEST_START_S)

    def resident_mib(self) -> int:
        """Memory that it and its processes hold."""
        return sum(map(_resident_mib, [self._process.pid, *self.children]))


class Servers:
    """All servers of a soak."""

    def __init__(self, kind: str, servers: list[Server]) -> None:
        self.kind = kind
        self._servers = servers
        self._disturbed = 0

    @property
    def keep(self) -> bool:
        """Whether episodes outlive them."""
        return self.kind != "memory"

    def target(self, number: int) -> str:
        """What a client connects to: all servers, another one first each time."""
        addresses = [server.address for server in self._servers]
        first = number % len(addresses)
        return "ipv4:" + ",".join([*addresses[first:], *addresses[:first]])

    def disturb(self, counts: Counter[str]) -> None:
        """Kill or replace one of them; back when it serves again."""
        self._disturbed += 1
        if self.kind == "rolling":
            server = self._servers[self._disturbed % len(self._servers)]
            counts["servers drained and replaced"] += 1
            assert server.drain() == 0, "a server cut calls off"
            server.start()
        elif self.kind == "sqlite" and self._disturbed % 5:
            counts["serving processes killed"] += 1
            self._servers[0].kill_one_process()
        elif self.keep:
            counts["servers killed"] += 1
            server = random.choice(self._servers)
            server.kill()
            server.start()

    def restart(self) -> None:
        """Kill all of them, then start them again."""
        for server in self._servers:
            server.kill()
        for server in self._servers:
            server.start()

    def errors(self) -> Iterator[str]:
        """Lines of their logs that say of a fault of the server."""
        for server in self._servers:
            yield from (json.dumps(line) for line in server.lines() if line["level"] == "error")

    def resident_mib(self) -> int:
        """Memory that all of them hold."""
        return sum(server.resident_mib() for server in self._servers)


@contextmanager
def servers_of(kind: str, folder: Path) -> Iterator[Servers]:
    """The servers of a kind of soak, killed at the end.

    `memory`: one, without a store. `sqlite`: one with three processes. `redis`: two on a real Redis server. `rolling`:
    three on one, replaced one by one.
    """
    with ExitStack() as stack:
        count, flags = 1, []
        if kind == "sqlite":
            flags = ["--processes", "3", "--store", f"sqlite://{folder / 'episodes.db'}"]
        elif kind != "memory":
            redis = RedisServer(folder)
            stack.callback(redis.kill)
            count, flags = (2 if kind == "redis" else 3), ["--store", redis.url]
        servers = []
        for number in range(count):
            servers.append(Server(folder / f"server-{number}.log", *flags))
            stack.callback(servers[-1].kill)
        yield Servers(kind, servers)


def _is_alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _resident_mib(pid: int) -> int:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="utf-8").split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE") // 2**20
