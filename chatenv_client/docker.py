"""Starts a server in a container of its own, and removes the container in the end. Needs the extra `docker`."""

from __future__ import annotations

import contextlib
import os
import socket
import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, TypedDict

import grpc

from chatenv_client._version import __version__
from chatenv_client.distribution import needing
from chatenv_client.errors import UnavailableError
from chatenv_client.health import is_serving

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container
    from typing_extensions import Self

DEFAULT_START_TIMEOUT_S: Final = 120.0

_PORT: Final = 50051
"""Where the server listens inside a container with a network of its own."""
_PAUSE_S: Final = 0.1
_LOG_LINES: Final = 40
_TOKENIZER_FOLDER: Final = "/run/tokenizer"

# A server that is still loading is asked again soon, rather than after gRPC's backoff of up to two minutes.
_IMPATIENT: Final = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 500)]


class ContainerOptions(TypedDict, total=False):
    """Keywords of `ServerContainer`, all optional."""

    env: Mapping[str, str]
    """Environment variables, which is how a server in a container is set."""
    port: int
    """Port on 127.0.0.1; default: a free one."""
    start_timeout_s: float
    """Seconds until it has to serve, without those that pulling the image takes; default: 120."""
    tokenizer: str
    """A folder on this machine, a Hugging Face name, or `bytes`; default: what the image was built with."""
    network_mode: str
    """`host`: share this machine's network, where Docker has no bridge; default: Docker's own."""


class ServerContainer:
    """A chatenv server in a container, reachable from this machine alone; a context manager.

        with ServerContainer("chatenv:latest") as server, VectorChatEnv(server.address, 64) as env:
            ...

    The container is removed by `remove`, at the end of the block, when the object is gone, and when the interpreter
    ends; not when the interpreter is killed. Such leftovers carry the label `chatenv`:
    `docker rm -f $(docker ps -aqf label=chatenv)`.
    """

    def __init__(
        self,
        image: str,
        *,
        env: Mapping[str, str] | None = None,
        port: int | None = None,
        start_timeout_s: float = DEFAULT_START_TIMEOUT_S,
        tokenizer: str | None = None,
        network_mode: str | None = None,
        token: str | None = None,
    ) -> None:
        """Start a container, and return once its server serves. An image that is not on this machine is pulled.

        Args:
            image: name of the image.
            env: see `ContainerOptions`.
            port: see `ContainerOptions`.
            start_timeout_s: see `ContainerOptions`.
            tokenizer: see `ContainerOptions`.
            network_mode: see `ContainerOptions`.
            token: bearer token that calls will have to carry.

        Raises:
            ImportError: the package docker is not installed.
            UnavailableError: no Docker engine answers, or it cannot start the container, or the server does not come
                up; then the message ends with the last lines of its log.
        """
        on_host = network_mode == "host"
        if on_host and port is None:
            port = _free_port()
        keywords = {
            "environment": _environment(f"127.0.0.1:{port}" if on_host else f"0.0.0.0:{_PORT}", tokenizer, token, env),
            "volumes": _volumes(tokenizer),
            "network_mode": network_mode,
            "ports": {} if on_host else {_PORT: ("127.0.0.1", port) if port else ("127.0.0.1",)},
        }
        self._container = _start(image, {name: value for name, value in keywords.items() if value})
        self._finalizer = weakref.finalize(self, _remove, self._container, os.getpid())
        try:
            self.address = self._wait_until_serving(f"127.0.0.1:{port}" if on_host else None, start_timeout_s)
            """Where it serves: `host:port`."""
        except BaseException:
            self.remove()
            raise

    def remove(self) -> None:
        """End the server at once, and remove the container. Removing twice is fine."""
        self._finalizer()

    def log(self) -> str:
        """The last lines that the server wrote."""
        return self._container.logs(tail=_LOG_LINES).decode(errors="replace")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.remove()

    def _wait_until_serving(self, address: str | None, timeout_s: float) -> str:
        until = time.monotonic() + timeout_s
        while time.monotonic() < until:
            self._container.reload()
            if self._container.status in {"exited", "dead"}:
                code = self._container.attrs["State"]["ExitCode"]
                raise self._failure(f"ended with exit code {code} before it served")
            address = address or _published(self._container)
            if address and _answers(address, max(0.0, min(1.0, until - time.monotonic()))):
                return address
            time.sleep(_PAUSE_S)
        raise self._failure(f"did not serve within {timeout_s:g} s")

    def _failure(self, what: str) -> UnavailableError:
        image = self._container.attrs["Config"]["Image"]
        return UnavailableError(f"the container of {image} {what}; its log ends with:\n{self.log()}")


def _environment(
    address: str, tokenizer: str | None, token: str | None, given: Mapping[str, str] | None
) -> dict[str, str]:
    environment = {"CHATENV_LISTEN": address, "CHATENV_ALLOW_PLAINTEXT": "true"}
    if token is not None:
        environment["CHATENV_BEARER_TOKEN"] = token
    if tokenizer is not None:
        is_folder = Path(tokenizer).is_dir()
        environment["CHATENV_TOKENIZER"] = _TOKENIZER_FOLDER if is_folder else tokenizer
        # Images are offline by default, but a tokenizer that is named may have to be downloaded.
        environment["HF_HUB_OFFLINE"] = "1" if is_folder else "0"
    return {**environment, **(given or {})}


def _volumes(tokenizer: str | None) -> dict[str, dict[str, str]]:
    if tokenizer is None or not Path(tokenizer).is_dir():
        return {}
    return {str(Path(tokenizer).resolve()): {"bind": _TOKENIZER_FOLDER, "mode": "ro"}}


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _start(image: str, keywords: Mapping[str, Any]) -> Container:
    engine = _connect()
    from docker.errors import DockerException

    try:
        return engine.containers.run(image, detach=True, labels={"chatenv": __version__}, **keywords)
    except DockerException as error:
        engine.close()
        raise UnavailableError(f"Docker cannot start a container of {image}: {error}") from error


def _connect() -> DockerClient:
    with needing("docker", "starting containers"):
        import docker
    try:
        return docker.from_env()
    except docker.errors.DockerException as error:
        raise UnavailableError(
            f"no Docker engine answers ({error}); start one, or name another one in DOCKER_HOST"
        ) from error


def _published(container: Container) -> str | None:
    """Where Docker publishes the port; None as long as it does not."""
    bindings = container.attrs["NetworkSettings"]["Ports"].get(f"{_PORT}/tcp")
    return f"127.0.0.1:{bindings[0]['HostPort']}" if bindings else None


def _answers(address: str, timeout_s: float) -> bool:
    with grpc.insecure_channel(address, _IMPATIENT) as channel:
        return is_serving(channel, timeout_s=timeout_s)


def _remove(container: Container, process: int) -> None:
    from docker.errors import NotFound

    if os.getpid() != process:  # this is a fork, and the process that started the container still needs it
        return
    with contextlib.suppress(NotFound):
        container.remove(force=True, v=True)
    if container.client is not None:
        container.client.close()
