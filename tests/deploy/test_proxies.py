"""The configurations of docs/proxies.md, each run by its proxy between real clients and two real servers."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import pytest

from chatenv_client import (
    ChatAction,
    ChatEnv,
    EpisodeUnknownError,
    MessageTooLargeError,
    Reason,
    Tls,
    VectorChatEnv,
    channel_options,
)
from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client._generated.chatenv_pb2_grpc import ChatEnvServiceStub
from tests.machine import free_port

pytest.importorskip("chatenv_server", reason="the server extra is not installed", exc_type=ImportError)

from chatenv_server import Settings, serve

PAGE = Path(__file__).resolve().parents[2] / "docs" / "proxies.md"
HI = {"role": "user", "content": "hi"}

NGINX = """
daemon off; pid nginx.pid; error_log stderr error;
events {{}}
http {{
    access_log off;
    client_body_temp_path bodies; proxy_temp_path a; fastcgi_temp_path b; uwsgi_temp_path c; scgi_temp_path d;
    {block}
}}
"""
"""What a distribution's own nginx.conf has around the files of `conf.d/`."""

COMMANDS = {
    "nginx": ["nginx", "-p", "{folder}", "-c", "{config}"],
    "haproxy": ["haproxy", "-f", "{config}"],
    "yaml": ["envoy", "-c", "{config}", "--use-dynamic-base-id", "--log-level", "error"],
}


@dataclass(frozen=True)
class Proxy:
    """A proxy that runs, and what its clients trust."""

    address: str
    tls: Tls


def program(name: str) -> str:
    places = [str(Path(sys.executable).parent), "/usr/local/sbin", "/usr/sbin"]
    found = shutil.which(name) or next(filter(None, (shutil.which(name, path=place) for place in places)), None)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `certificate.pem`, `key.pem` and `both.pem`, for localhost."""
    folder = tmp_path_factory.mktemp("certificates")
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "certificate.pem")]
    name = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    new = [program("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    subprocess.run([*new, *files, *name], check=True, capture_output=True)
    folder.joinpath("both.pem").write_bytes(
        folder.joinpath("certificate.pem").read_bytes() + folder.joinpath("key.pem").read_bytes()
    )
    return folder


@pytest.fixture(scope="module")
def servers() -> Iterator[Sequence[str]]:
    """Addresses of two servers."""
    with ExitStack() as opened:
        settings = Settings(listen=("127.0.0.1:0",))
        yield [opened.enter_context(serve(settings)).addresses[0] for _ in range(2)]


@pytest.fixture(scope="module", params=list(COMMANDS))
def proxy(
    request: pytest.FixtureRequest, servers: Sequence[str], certificates: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Proxy]:
    """A proxy before both servers, with the configuration of the page."""
    language = request.param
    command = [program(COMMANDS[language][0]), *COMMANDS[language][1:]]
    (block,) = re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    port = free_port()
    for number, address in enumerate(servers, 1):
        host, _, server_port = address.rpartition(":")
        block = block.replace(f"10.0.0.{number}:50051", address)
        block = block.replace(f"10.0.0.{number}, port_value: 50051", f"{host}, port_value: {server_port}")
    for written, here in {
        "/etc/chatenv": str(certificates),
        "listen 443 ": f"listen 127.0.0.1:{port} ",
        "bind :443 ": f"bind 127.0.0.1:{port} ",
        "0.0.0.0, port_value: 443": f"127.0.0.1, port_value: {port}",
    }.items():
        block = block.replace(written, here)
    folder = tmp_path_factory.mktemp("proxy")
    config = folder / f"config.{language}"
    config.write_text(NGINX.format(block=block) if language == "nginx" else block, encoding="utf-8")
    filled = [part.format(folder=folder, config=config) for part in command]
    log = folder / "log"
    with log.open("wb") as said:
        process = subprocess.Popen(filled, stdout=said, stderr=said)
    running = Proxy(f"localhost:{port}", Tls(root_certificates=(certificates / "certificate.pem").read_bytes()))
    try:
        wait_until_it_listens(port, process, log)
        yield running
    finally:
        process.terminate()
        process.wait(30)


def wait_until_it_listens(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + 20
    while time.monotonic() < until and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise AssertionError(log.read_text(errors="replace"))


def client(proxy: Proxy) -> ChatEnv:
    return ChatEnv(proxy.address, tls=proxy.tls, affinity=True)


def test_every_episode_stays_on_the_server_that_has_it(proxy: Proxy, servers: Sequence[str]) -> None:
    with ExitStack() as opened:
        clients = [opened.enter_context(client(proxy)) for _ in range(32)]
        for number, env in enumerate(clients):
            env.reset(episode_id=f"episode-{number}")
        live = [opened.enter_context(ChatEnv(server)).server_info().live_episodes for server in servers]
        assert min(live) > 0
        assert sum(live) >= len(clients)
        for step in range(1, 4):
            assert {env.step(HI).observation.step_count for env in clients} == {step}


def test_a_batch_goes_to_the_server_that_has_its_episodes(proxy: Proxy) -> None:
    with VectorChatEnv(proxy.address, 8, tls=proxy.tls, affinity=True) as vector:
        vector.reset()
        assert len(vector.step([HI] * 8)) == 8


def test_a_message_of_twenty_megabytes_passes_both_ways(proxy: Proxy) -> None:
    with client(proxy) as env:
        env.reset(messages=[HI])
        env.step(ChatAction(tokens=np.full(5_000_000, 97, np.int32)))
        assert len(env.state().token_ids) > 5_000_000


def test_a_stream_may_carry_more_than_a_body_of_a_request_may_by_default(proxy: Proxy) -> None:
    stuck_to = (("chatenv-affinity", "one"),)
    with grpc.secure_channel(proxy.address, proxy.tls.credentials(), channel_options(affinity=True)) as channel:
        stub = ChatEnvServiceStub(channel)
        episode_id = stub.Reset(pb.ResetRequest(), metadata=stuck_to).observation.episode_id
        step = pb.StepRequest(episode_id=episode_id, tokens=[97] * 100_000)
        requests = (pb.StreamStepsRequest(request_id=number, step=step) for number in range(10))
        answers = list(stub.StreamSteps(requests, timeout=30, metadata=stuck_to))
    assert [answer.WhichOneof("result") for answer in answers] == ["response"] * 10


def test_an_error_keeps_its_reason(proxy: Proxy) -> None:
    with client(proxy) as env, pytest.raises(EpisodeUnknownError) as error:
        env.resume("nobody")
    assert error.value.reason is Reason.EPISODE_UNKNOWN


def test_nginx_as_it_comes_refuses_what_is_large_and_the_client_says_why(
    servers: Sequence[str], tmp_path: Path
) -> None:
    port, config, log = free_port(), tmp_path / "nginx.conf", tmp_path / "log"
    block = f"server {{ listen 127.0.0.1:{port} http2; location / {{ grpc_pass grpc://{servers[0]}; }} }}"
    config.write_text(NGINX.format(block=block), encoding="utf-8")
    with log.open("wb") as said:
        process = subprocess.Popen([program("nginx"), "-p", tmp_path, "-c", config], stderr=said)
    try:
        wait_until_it_listens(port, process, log)
        with ChatEnv(f"127.0.0.1:{port}") as env:
            env.reset()
            with pytest.raises(MessageTooLargeError, match="413; a proxy between here and the server answered"):
                env.step({"role": "user", "content": "x" * 2_000_000})
            assert env.step(HI).observation.step_count == 1
    finally:
        process.terminate()
        process.wait(30)
