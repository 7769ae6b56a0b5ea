"""A Docker engine, and the image built by it from this checkout with a tokenizer baked in."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container

CHECKOUT = Path(__file__).resolve().parents[2]
BASE = "python:3.11-slim"
IMAGE = "chatenv-test"
BAKED = "tokenizers/tiny_bytes"
SOURCES = ("Dockerfile", ".dockerignore", "LICENSE", "README.md", "pyproject.toml")
FOLDERS = ("proto", "chatenv_client", "chatenv_server", "deploy/docker")

RunContainer = Callable[..., "Container"]
DeriveImage = Callable[..., str]


@pytest.fixture(scope="session")
def engine() -> Iterator[DockerClient]:
    """The engine that answers. Where none does these tests skip; with CHATENV_DOCKER=1 they fail."""
    docker = pytest.importorskip("docker", reason="the package docker is not installed")
    try:
        client = docker.from_env(timeout=600)
        client.ping()
    except docker.errors.DockerException as error:
        if os.environ.get("CHATENV_DOCKER"):
            raise
        pytest.skip(f"no Docker engine answers: {error}")
    yield client
    client.close()


@pytest.fixture(scope="session")
def image(engine: DockerClient, conformance_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The image, with a tokenizer from a folder of the build context."""
    provide_base(engine)
    context = tmp_path_factory.mktemp("context")
    for name in SOURCES:
        shutil.copy(CHECKOUT / name, context)
    for name in FOLDERS:
        shutil.copytree(CHECKOUT / name, context / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(conformance_dir / BAKED, context / BAKED)
    build(IMAGE, context, {"CHATENV_TOKENIZER": BAKED, **registry_settings()})
    return IMAGE


def provide_base(engine: DockerClient) -> None:
    """Pull the base image, or make one where none can be pulled."""
    from docker.errors import DockerException, ImageNotFound

    try:
        engine.images.get(BASE)
    except ImageNotFound:
        try:
            engine.images.pull(BASE)
        except DockerException as error:
            if os.geteuid() != 0 or shutil.which("debootstrap") is None:
                pytest.skip(f"{BASE} can neither be pulled ({error}) nor made (needs root and debootstrap)")
            script = CHECKOUT / "deploy" / "docker" / "base-image.sh"
            subprocess.run([script, BASE], env=os.environ | {"KEEP_CA": "1"}, check=True, capture_output=True)


def registry_settings() -> dict[str, str]:
    """How pip reaches its registry from here, as far as it holds inside a container, too."""
    names = ("PIP_CERT", "PIP_CONSTRAINT", "PIP_EXTRA_INDEX_URL", "PIP_INDEX_URL")
    return {name: os.environ[name] for name in names if name in os.environ and "file:" not in os.environ[name]}


def build(tag: str, context: Path, arguments: dict[str, str]) -> None:
    flags = [f"--build-arg={name}={value}" for name, value in arguments.items()]
    command = ["docker", "build", "--network=host", f"--tag={tag}", *flags, str(context)]
    built = subprocess.run(command, check=False, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout[-5000:] + built.stderr[-5000:]


@pytest.fixture
def derive(image: str, engine: DockerClient, tmp_path: Path) -> Iterator[DeriveImage]:
    """Builds an image on top of the one under test; its name."""
    tags: list[str] = []

    def derive(*lines: str) -> str:
        tmp_path.joinpath("Dockerfile").write_text("\n".join([f"FROM {image}", *lines]), encoding="utf-8")
        tags.append(f"{image}-{tmp_path.name.replace('_', '-').strip('-')}-{len(tags)}")
        build(tags[-1], tmp_path, {})
        return tags[-1]

    yield derive
    for tag in tags:
        engine.images.remove(tag, force=True)


@pytest.fixture
def run_container(engine: DockerClient, image: str) -> Iterator[RunContainer]:
    """Starts containers as strictly as a cluster would: no network, nothing to write on, no capabilities."""
    started: list[Container] = []

    def run_container(**keywords: Any) -> Container:
        strict: dict[str, Any] = {
            "detach": True,
            "read_only": True,
            "network_mode": "none",
            "cap_drop": ["ALL"],
            "security_opt": ["no-new-privileges"],
            "healthcheck": {"interval": 1_000_000_000},
        }
        started.append(engine.containers.run(image, **{**strict, **keywords}))
        return started[-1]

    yield run_container
    for container in started:
        container.remove(force=True)
