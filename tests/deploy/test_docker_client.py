"""`ChatEnv.from_docker_image` and `ServerContainer` against a real engine."""

from __future__ import annotations

import gc
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest

from chatenv_client import AccessError, ChatEnv, ServerContainer, UnavailableError, VectorChatEnv
from chatenv_client.health import is_serving
from tests.deploy.conftest import CHECKOUT, DeriveImage

if TYPE_CHECKING:
    from docker import DockerClient

HI = {"role": "user", "content": "hi"}

with_engine = [pytest.mark.container, pytest.mark.timeout(1200)]


def containers_of(engine: DockerClient, image: str) -> list[str]:
    return [str(container.id) for container in engine.containers.list(all=True, filters={"ancestor": image})]


class TestWithAnEngine:
    pytestmark = with_engine

    def test_an_episode_runs_in_a_container_that_is_gone_after_close(self, engine: DockerClient, image: str) -> None:
        env = ChatEnv.from_docker_image(image, network_mode="host")
        assert env.reset(messages=[HI]).observation.messages == [HI]
        assert len(containers_of(engine, image)) == 1
        env.close()
        assert containers_of(engine, image) == []

    def test_it_is_gone_when_the_block_raised(self, engine: DockerClient, image: str) -> None:
        with pytest.raises(ZeroDivisionError), ChatEnv.from_docker_image(image, network_mode="host") as env:
            raise ZeroDivisionError(env.server_info())
        assert containers_of(engine, image) == []

    @pytest.mark.parametrize("last_words", ["", "raise SystemExit(3)", "1 / 0"], ids=["end", "exit", "error"])
    def test_it_is_gone_when_the_interpreter_ended(self, engine: DockerClient, image: str, last_words: str) -> None:
        program = f"""
from chatenv_client import ChatEnv
env = ChatEnv.from_docker_image({image!r}, network_mode="host")
env.reset()
print("started")
{last_words}
"""
        ended = subprocess.run(
            [sys.executable, "-c", program], cwd=CHECKOUT, capture_output=True, text=True, check=False
        )
        assert ended.stdout == "started\n", ended.stderr
        assert containers_of(engine, image) == []

    def test_a_fork_of_the_interpreter_leaves_it_alone(self, image: str) -> None:
        program = f"""
import os, sys
from chatenv_client import ServerContainer
server = ServerContainer({image!r}, network_mode="host")
if os.fork() == 0:
    sys.exit()
os.wait()
print(server.log() != "")
"""
        ended = subprocess.run(
            [sys.executable, "-c", program], cwd=CHECKOUT, capture_output=True, text=True, check=False
        )
        assert ended.stdout == "True\n", ended.stderr

    def test_a_server_that_fails_to_start_is_quoted_and_removed(
        self, engine: DockerClient, derive: DeriveImage
    ) -> None:
        broken = derive("ENV CHATENV_TOKENIZER=/not/there")
        with pytest.raises(UnavailableError, match=r"(?s)ended with exit code 2 .*'/not/there' does not exist"):
            ChatEnv.from_docker_image(broken, network_mode="host")
        assert containers_of(engine, broken) == []

    def test_a_server_that_never_serves_is_quoted_and_removed(self, engine: DockerClient, derive: DeriveImage) -> None:
        silent = derive('ENTRYPOINT ["sh", "-c", "echo thinking; exec sleep 60"]')
        with pytest.raises(UnavailableError, match=r"(?s)did not serve within 2 s.*thinking"):
            ChatEnv.from_docker_image(silent, network_mode="host", start_timeout_s=2)
        assert containers_of(engine, silent) == []

    def test_an_image_that_is_nowhere_is_named(self, engine: DockerClient) -> None:
        assert engine.ping()
        with pytest.raises(UnavailableError, match="chatenv-nowhere"):
            ChatEnv.from_docker_image("chatenv-nowhere", network_mode="host")

    def test_environment_port_token_and_tokenizer_reach_the_server(self, image: str, conformance_dir: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        options = {"network_mode": "host", "port": port, "token": "s3cret", "env": {"CHATENV_MAX_STEPS": "1"}}
        folder = str(conformance_dir / "tokenizers" / "gpt2")
        with ServerContainer(image, tokenizer=folder, **options) as server:
            assert server.address == f"127.0.0.1:{port}"
            with ChatEnv(server.address, token="s3cret") as env:
                assert env.server_info().vocabulary_size == 50257
                env.reset()
                assert env.step(HI).done
            with ChatEnv(server.address) as stranger, pytest.raises(AccessError):
                stranger.reset()

    def test_the_other_clients_use_the_container_by_its_address(self, engine: DockerClient, image: str) -> None:
        with ServerContainer(image, network_mode="host") as server, VectorChatEnv(server.address, 2) as env:
            assert len(env.reset(messages=[HI])) == 2
        assert containers_of(engine, image) == []

    def test_the_port_is_published_on_this_machine_alone(self, engine: DockerClient, image: str) -> None:
        if not engine.networks.list(names=["bridge"]):
            pytest.skip("the engine has no bridge")
        with ChatEnv.from_docker_image(image) as env:
            assert env.reset(messages=[HI]).observation.messages == [HI]
            (container,) = engine.containers.list(filters={"ancestor": image})
            assert {binding["HostIp"] for binding in container.ports["50051/tcp"] or ()} == {"127.0.0.1"}


# The package docker leaves a socket behind where it cannot connect.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_without_an_engine_the_error_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("docker", reason="the package docker is not installed")
    monkeypatch.setenv("DOCKER_HOST", "unix:///not/there.sock")
    with pytest.raises(UnavailableError, match="no Docker engine answers"):
        ChatEnv.from_docker_image("chatenv")
    gc.collect()


def test_without_the_package_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "docker", None)
    with pytest.raises(ImportError, match=r"pip install 'chatenv-rl\[docker\]'"):
        ChatEnv.from_docker_image("chatenv")


def test_nobody_is_not_serving() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    with grpc.insecure_channel(address) as channel:
        assert not is_serving(channel, timeout_s=0.2)
