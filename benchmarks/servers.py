"""The servers under measurement, each a process of its own for as long as a block lasts."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Server:
    """A server that runs."""

    target: str
    """host:port"""
    pid: int
    startup_s: float
    """From the start of the process until it says that it serves."""

    def resident_bytes(self) -> int:
        """Memory that it holds now. Linux only."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * 4096

    def modules(self) -> str:
        """The libraries that are mapped into it. Linux only."""
        return Path(f"/proc/{self.pid}/maps").read_text()


@contextmanager
def chatenv(tokenizer: str, cores: Collection[int] = (), arguments: Sequence[str] = ()) -> Iterator[Server]:
    """`chatenv-server` with its defaults and more arguments; on the given cores alone, if any are given."""
    usual = ["-m", "chatenv_server", "--listen", "127.0.0.1:0", "--tokenizer", tokenizer, "--log-format", "json"]
    with _process([*usual, *arguments], "stderr", cores, until="addresses") as (line, server_of):
        yield server_of(json.loads(line)["addresses"])


@contextmanager
def echo(*arguments: str) -> Iterator[Server]:
    """A bare gRPC server; see `echo_server`."""
    with _process(["-m", "benchmarks.echo_server", *arguments], "stdout") as (line, server_of):
        yield server_of(f"127.0.0.1:{int(line)}")


@contextmanager
def peer(tokenizer: str, cores: Collection[int] = ()) -> Iterator[Server]:
    """The HTTP/WebSocket + JSON chat environment, on cores as `chatenv`; only where `why_no_peer` is silent."""
    with _process(["-m", "benchmarks.peer_server", tokenizer], "stdout", cores) as (line, server_of):
        yield server_of(f"127.0.0.1:{int(line)}")


def why_no_peer() -> str:
    """Why the peer cannot be measured; empty where it can."""
    is_there = importlib.util.find_spec("openenv") is not None
    return "" if is_there else "peer: openenv is not installed (`make bench` installs it)"


@contextmanager
def _process(
    arguments: list[str], says_so_on: str, cores: Collection[int] = (), until: str = ""
) -> Iterator[tuple[str, Callable[[str], Server]]]:
    """A process and its first line with `until` in it, and what makes a Server of its address."""
    began = time.perf_counter()
    pipes: dict[str, Any] = {says_so_on: subprocess.PIPE}
    with _held_to(cores):
        command = [sys.executable, *arguments]
        process = subprocess.Popen(command, cwd=CHECKOUT, env=_plain_environment(), text=True, **pipes)
    try:
        stream = getattr(process, says_so_on)
        line = next((line for line in stream if until in line), "")
        took = time.perf_counter() - began
        if not line:
            raise RuntimeError(f"{' '.join(arguments)} ended with {process.wait()} before it served")
        yield line, lambda target: Server(target, process.pid, took)
    finally:
        process.terminate()
        process.communicate(timeout=30)


def _plain_environment() -> dict[str, str]:
    """This process's environment without settings of ours."""
    return {name: value for name, value in os.environ.items() if not name.startswith("CHATENV_")}


@contextmanager
def _held_to(cores: Collection[int]) -> Iterator[None]:
    """Processes that are started meanwhile run on these cores alone. Linux only, where cores are given."""
    if not cores:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
