"""The image, built and run by a real engine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.deploy.conftest import BAKED, RunContainer

if TYPE_CHECKING:
    from docker.models.containers import Container

pytestmark = [pytest.mark.container, pytest.mark.timeout(1200)]

LONGEST_START_S = 60.0

EPISODE = """
import json
import os
from chatenv_client import ChatEnv
with ChatEnv("127.0.0.1:50051") as env:
    opening = env.reset(messages=[{"role": "user", "content": "hi"}]).observation.token_ids.tolist()
    print(json.dumps([env.server_info().tokenizer_name, opening]))
"""


def run_inside(container: Container, *command: str) -> str:
    code, output = container.exec_run(list(command))
    assert code == 0, output
    assert isinstance(output, bytes)
    return output.decode()


def wait_for_health(container: Container) -> str:
    """What the engine says of its health once it has made up its mind."""
    until = time.monotonic() + LONGEST_START_S
    while time.monotonic() < until:
        container.reload()
        health = container.attrs["State"].get("Health", {}).get("Status", "none")
        if container.status != "running" or health != "starting":
            return str(health)
        time.sleep(0.2)
    raise AssertionError(container.logs().decode())


def test_it_becomes_healthy_with_nothing_to_write_on_and_no_network(run_container: RunContainer) -> None:
    assert wait_for_health(run_container()) == "healthy"


def test_it_becomes_unhealthy_where_the_health_check_finds_no_server(run_container: RunContainer) -> None:
    once = {"interval": 1_000_000_000, "retries": 1, "start_period": 1_000_000}
    container = run_container(entrypoint=["sleep", "60"], healthcheck=once)
    assert wait_for_health(container) == "unhealthy"


def test_it_becomes_healthy_on_a_unix_socket_with_tls_beside_it(run_container: RunContainer, tmp_path: Path) -> None:
    make_certificate(tmp_path)
    container = run_container(
        environment={
            "CHATENV_LISTEN": "unix:///run/chatenv/chatenv.sock,0.0.0.0:50051",
            "CHATENV_ALLOW_PLAINTEXT": "false",
            "CHATENV_TLS_CERTIFICATE": "/tls/certificate.pem",
            "CHATENV_TLS_KEY": "/tls/key.pem",
        },
        tmpfs={"/run/chatenv": "uid=10001,mode=700"},
        volumes={str(tmp_path): {"bind": "/tls", "mode": "ro"}},
    )
    assert wait_for_health(container) == "healthy"
    with_tls = ["--address", "127.0.0.1:50051", "--tls-ca", "/tls/certificate.pem", "--tls-name", "localhost"]
    run_inside(container, "python", "-m", "chatenv_server.running.healthcheck", *with_tls)


def test_a_trainer_of_another_user_reaches_the_socket_through_the_group_they_share(
    run_container: RunContainer, tmp_path: Path
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder to another group")
    # As a pod's fsGroup does with an emptyDir.
    os.chown(tmp_path, 0, 10001)
    tmp_path.chmod(0o2770)
    shared = {"volumes": {str(tmp_path): {"bind": "/run/chatenv", "mode": "rw"}}}
    target = "unix:///run/chatenv/chatenv.sock"
    server = run_container(environment={"CHATENV_LISTEN": target, "CHATENV_SOCKET_MODE": "660"}, **shared)
    assert wait_for_health(server) == "healthy"
    program = ["python", "-c", EPISODE.replace("127.0.0.1:50051", target)]
    member = run_container(entrypoint=program, user="1000:1000", group_add=["10001"], **shared)
    assert member.wait()["StatusCode"] == 0, member.logs().decode()
    stranger = run_container(entrypoint=program, user="1000:1000", **shared)
    assert stranger.wait()["StatusCode"] != 0


def make_certificate(folder: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "certificate.pem")]
    name = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    subprocess.run([*command, *files, *name], check=True, capture_output=True)
    folder.chmod(0o755)
    folder.joinpath("key.pem").chmod(0o644)


def test_the_server_is_process_one_and_not_root(run_container: RunContainer) -> None:
    container = run_container()
    assert run_inside(container, "cat", "/proc/1/cmdline").rstrip("\0").split("\0")[-1].endswith("/chatenv-server")
    assert run_inside(container, "id", "-u").strip() == "10001"
    assert container.image is not None
    assert container.image.attrs["Config"]["User"] == "10001:10001"


def test_told_to_end_it_drains_and_ends_with_zero(run_container: RunContainer) -> None:
    container = run_container()
    assert wait_for_health(container) == "healthy"
    container.stop(timeout=20)
    assert container.wait()["StatusCode"] == 0
    assert container.logs().decode().rstrip().endswith("stopped")


def test_nothing_is_in_it_that_builds_or_trains(run_container: RunContainer) -> None:
    container = run_container(entrypoint=["sleep", "60"])
    packages = ["torch", "grpc_tools", "pip", "setuptools", "pytest"]
    found = f"import importlib.util as u; print([p for p in {packages} if u.find_spec(p)])"
    assert run_inside(container, "python", "-c", found).strip() == "[]"
    assert run_inside(container, "python3", "-c", found).strip() == "[]"
    commands = ["gcc", "cc", "g++", "ld", "make", "pip", "pip3", "protoc", "git", "curl"]
    found = f"import shutil; print([c for c in {commands} if shutil.which(c)])"
    assert run_inside(container, "python", "-c", found).strip() == "[]"


def test_the_baked_tokenizer_is_served_as_it_is_in_its_folder(
    run_container: RunContainer, conformance_dir: Path
) -> None:
    from chatenv_server import ChatEnvironment
    from chatenv_server.tokenizer_files.loading import load_tokenizer

    container = run_container()
    assert wait_for_health(container) == "healthy"
    name, opening = json.loads(run_inside(container, "python", "-c", EPISODE))
    here = ChatEnvironment(load_tokenizer(str(conformance_dir / BAKED)))
    assert name == Path(BAKED).name
    assert opening == here.reset(messages=[{"role": "user", "content": "hi"}]).token_ids.tolist()
