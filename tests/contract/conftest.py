"""A server to put under the contract: the one at CHATENV_ADDRESS, else one of our own in this process."""

from __future__ import annotations

import inspect
import os
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import grpc
import pytest

from chatenv_client import ChatAction, ChatEnv, ServerInfo, channel_options
from chatenv_client._generated.chatenv_pb2_grpc import ChatEnvServiceStub
from tests.contract.cutting_proxy import CuttingProxy

Sampler = Callable[..., ChatAction]
Serving = Callable[..., AbstractContextManager[str]]


@pytest.fixture(scope="session")
def target() -> Iterator[str]:
    """Address of the server."""
    given = os.environ.get("CHATENV_ADDRESS")
    if given:
        yield given
        return
    with start_server() as address:
        yield address


@pytest.fixture
def serving() -> Callable[..., AbstractContextManager[str]]:
    """Starts a server with settings and parts of one's own, for as long as the block; its address."""
    return start_server


@contextmanager
def start_server(settings: dict[str, Any] | None = None, **parts: Any) -> Iterator[str]:
    process = pytest.importorskip("chatenv_server.running.process", reason="no server is installed")
    made = pytest.importorskip("chatenv_server.settings.settings").Settings(
        **{"listen": ("127.0.0.1:0",), **(settings or {})}
    )
    server = process.start(made, **parts)
    try:
        yield server.addresses[0]
    finally:
        server.stop(1.0)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Play what needs no more than a channel in this process, too."""
    if "channel" not in metafunc.fixturenames:
        return
    named = set(inspect.signature(metafunc.function).parameters)
    needs_server = metafunc.definition.get_closest_marker("served") or named & {"target", "serving", "proxy"}
    metafunc.parametrize("channel", ["served"] if needs_server else ["served", "local"], indirect=True, scope="session")


@pytest.fixture(scope="session")
def channel(request: pytest.FixtureRequest) -> Iterator[grpc.Channel]:
    """One channel for all tests, as a trainer would have it; to a server, or to none."""
    if request.param == "local":
        in_process = pytest.importorskip("chatenv_server.running.in_process", reason="no server is installed")
        channel = in_process.open_in_process("")
    else:
        channel = grpc.insecure_channel(request.getfixturevalue("target"), channel_options())
    with channel:
        yield channel


@pytest.fixture(scope="session")
def stub(channel: grpc.Channel) -> ChatEnvServiceStub:
    """The bare RPCs, for what the client would never send."""
    return ChatEnvServiceStub(channel)


@pytest.fixture(scope="session")
def info(channel: grpc.Channel) -> ServerInfo:
    """What the server says that it is."""
    return ChatEnv(channel).server_info()


@pytest.fixture
def env(channel: grpc.Channel) -> Iterator[ChatEnv]:
    """A client without an episode yet."""
    with ChatEnv(channel) as env:
        yield env


@pytest.fixture
def proxy(target: str) -> Iterator[CuttingProxy]:
    if ":" not in target or "/" in target:
        pytest.skip(f"{target} is no host:port that a proxy could stand before")
    proxy = CuttingProxy(target)
    yield proxy
    proxy.close()


@pytest.fixture
def sample(info: ServerInfo) -> Sampler:
    """Makes sampled turns of any ids but control tokens, with logprobs, ended by a stop token unless `stop=False`."""
    rng = random.Random(20)
    special = {token.id for token in info.special_tokens}
    stops = info.stop_ids

    def sample(length: int = 8, *, stop: bool = True) -> ChatAction:
        ids = [
            token for token in (rng.randrange(info.vocabulary_size) for _ in range(2 * length)) if token not in special
        ]
        tokens = ids[:length] + stops[: int(stop)]
        return ChatAction(tokens=tokens, logprobs=[-rng.random() for _ in tokens], model_version="v1")

    return sample
