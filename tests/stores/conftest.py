"""Real backends for tests of stores: SQLite files, and Redis servers that are started for them."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

pytest.importorskip("chatenv_server", reason="the server extra is not installed", exc_type=ImportError)

from chatenv_server.stores.opening import open_store as open_by_url
from chatenv_server.stores.store import Store

OpenStore = Callable[[], Store]
"""Opens one more store on the same backend, which was empty at first."""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


class RedisServer:
    """A server of one's own: a Redis, or a Valkey."""

    def __init__(self, folder: Path, *options: str) -> None:
        pytest.importorskip("redis", reason="the package redis is not installed")
        self.command = next(filter(shutil.which, ("redis-server", "valkey-server")), "")
        if not self.command:
            pytest.skip("neither redis-server nor valkey-server is installed")
        self.folder = folder
        self.options = options
        self.port = free_port()
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start it, or start it again with what it has on its disk; back when it answers."""
        settings = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder), "--save", ""]
        kept = ["--appendonly", "yes", "--appendfsync", "always"]
        with (self.folder / "redis.log").open("a") as log:
            self.process = subprocess.Popen([self.command, *settings, *kept, *self.options], stdout=log, stderr=log)
        until = time.monotonic() + 20
        while not self.answers():
            assert self.process.poll() is None, (self.folder / "redis.log").read_text()
            assert time.monotonic() < until, "it doesn't answer"
            time.sleep(0.02)

    def answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(7) in {b"+PONG\r\n", b"-NOAUTH"}
        except OSError:
            return False

    def __call__(self, *command: str | int) -> object:
        """What it answers to a command."""
        import redis

        with redis.Redis(port=self.port) as client:
            return client.execute_command(*command)

    def kill(self) -> None:
        """As a machine's end would."""
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One for all tests that leave it well."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.kill()


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """One for a test that ill-treats it."""
    server = RedisServer(tmp_path)
    yield server
    server.kill()


@pytest.fixture(scope="session")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A cluster of one node, for all tests that leave it well."""
    server = RedisServer(
        tmp_path_factory.mktemp("cluster"), "--cluster-enabled", "yes", "--cluster-port", str(free_port())
    )
    server("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
    until = time.monotonic() + 20
    while "cluster_state:ok" not in str(server("CLUSTER", "INFO")):
        assert time.monotonic() < until
        time.sleep(0.05)
    yield server
    server.kill()


@pytest.fixture(params=["sqlite", "redis", "cluster"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of an empty backend of each kind."""
    if request.param == "sqlite":
        return f"sqlite://{tmp_path}/episodes.db"
    server: RedisServer = request.getfixturevalue(f"shared_{request.param}")
    server("FLUSHALL")
    return server.url if request.param == "redis" else f"redis+cluster://127.0.0.1:{server.port}"


@pytest.fixture
def open_store(store_url: str) -> Iterator[OpenStore]:
    """Each kind of backend."""
    with ExitStack() as opened:

        def open_one() -> Store:
            store = open_by_url(store_url)
            assert store is not None
            opened.callback(store.close)
            return store

        yield open_one


@pytest.fixture
def store(open_store: OpenStore) -> Store:
    """An empty store of each kind."""
    return open_store()
