"""Servers to test: in this process, and as processes of their own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from chatenv_client import ChatEnv
from chatenv_server.engine import TokenEngine
from chatenv_server.running.process import RunningServer, start
from chatenv_server.settings.settings import Settings
from chatenv_server.tokenizer_files.byte_tokenizer import ByteTokenizer

CHECKOUT = Path(__file__).resolve().parents[2]
TRANSFORMS = Path(__file__).parent / "transforms"

Serve = Callable[..., RunningServer]
Launch = Callable[..., "ServerProcess"]


@pytest.fixture(scope="session")
def engine() -> TokenEngine:
    """The embedded tokenizer's engine, probed once."""
    return TokenEngine.load(ByteTokenizer())


@pytest.fixture
def serve(engine: TokenEngine) -> Iterator[Serve]:
    """Starts servers in this process, on a free port unless told otherwise."""
    running: list[RunningServer] = []

    def serve(
        *,
        transform: Any = None,
        open_transform: Any = None,
        clock: Any = None,
        engine: TokenEngine = engine,
        **settings: Any,
    ) -> RunningServer:
        keywords: dict[str, Any] = {"listen": ("127.0.0.1:0",), **settings}
        options = {} if clock is None else {"clock": clock}
        opened = open_transform if transform is None else lambda: transform
        running.append(start(Settings(**keywords), engine=engine, open_transform=opened, **options))
        return running[-1]

    yield serve
    for server in running:
        server.stop(0)


@pytest.fixture
def connect() -> Iterator[Callable[..., ChatEnv]]:
    """Clients of servers, closed at the end."""
    clients: list[ChatEnv] = []

    def connect(server: RunningServer, **options: Any) -> ChatEnv:
        clients.append(ChatEnv(server.addresses[0], **options))
        return clients[-1]

    yield connect
    for client in clients:
        client.__exit__(None, None, None)


@dataclass
class ServerProcess:
    """A `chatenv-server` process; what it says is kept in `log`."""

    process: subprocess.Popen[str]
    log: list[str] = field(default_factory=list)

    def wait_until_serving(self) -> ServerProcess:
        """Read its log up to the line that says so."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line)
            if " serving " in line:
                return self
        raise AssertionError("the server ended: " + "".join(self.log))

    @property
    def addresses(self) -> list[str]:
        """Where it says that it serves."""
        found = re.search(r"addresses=(\S+)", self.log[-1])
        assert found is not None
        return found[1].split(",")

    def tell(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def ended(self) -> tuple[int, str]:
        """Its exit code and all that it said, once it has ended."""
        _, rest = self.process.communicate(timeout=30)
        return self.process.returncode, "".join(self.log) + rest


@pytest.fixture
def launch() -> Iterator[Launch]:
    """Starts `python -m chatenv_server` with flags, on a free port unless told otherwise; killed at the end."""
    launched: list[ServerProcess] = []

    def launch(*flags: str, wait: bool = True, before: Sequence[str] = (), **environment: str) -> ServerProcess:
        listen: tuple[str, ...] = () if "--listen" in flags else ("--listen", "127.0.0.1:0")
        process = subprocess.Popen(
            [*before, sys.executable, "-m", "chatenv_server", *listen, *flags],
            stderr=subprocess.PIPE,
            text=True,
            env=plain_environment() | environment,
        )
        launched.append(ServerProcess(process))
        return launched[-1].wait_until_serving() if wait else launched[-1]

    yield launch
    for server in launched:
        server.process.kill()
        server.process.communicate()


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """What a slow step leaves; see `launch_slow`."""
    return tmp_path / "mark"


def launch_slow(launch: Launch, mark: Path, *flags: str, **environment: str) -> ServerProcess:
    """A server whose steps each take a second, or SECONDS, and leave a mark when they have begun to."""
    return launch("--transform", "slow_transforms:marked_second", *flags, MARK=str(mark), **environment)


def wait_for(mark: Path) -> None:
    while not mark.exists():
        time.sleep(0.005)


def plain_environment() -> dict[str, str]:
    """This process's environment without settings of ours, and with the test transforms to import."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CHATENV_")}
    return kept | {"PYTHONPATH": os.pathsep.join([str(CHECKOUT), str(TRANSFORMS)])}
