from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import pytest

from chatenv_client._version import __version__
from chatenv_client.distribution import DISTRIBUTION

Run = Callable[..., "subprocess.CompletedProcess[str]"]

SERVER_PACKAGES = {"chatenv_server", "jinja2", "tokenizers", "torch", "transformers"}


def packages_loaded_by(statement: str) -> set[str]:
    """Top-level packages that a statement adds in a fresh interpreter, the standard library left out."""
    program = (
        f"import sys; before = set(sys.modules); {statement}; loaded = set(sys.modules) - before; "
        "print(*{name.partition('.')[0] for name in loaded} - set(sys.stdlib_module_names))"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(finished.stdout.split())


def package_file(package: str, *parts: str) -> Path:
    """A file of an installed package, found without importing the package."""
    spec = find_spec(package)
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(next(iter(spec.submodule_search_locations)), *parts)


def stated_floor(requirement: str) -> tuple[int, ...]:
    """The lowest version of a base dependency that the distribution says it works with."""
    for line in metadata.requires(DISTRIBUTION) or []:
        if match := re.fullmatch(rf"{requirement}\S*>=([\d.]+)", line):
            return tuple(map(int, match[1].split(".")))
    raise AssertionError(f"{requirement} has no stated floor")


def generator_version(stub: str, pattern: str) -> tuple[int, ...]:
    text = package_file("chatenv_client", "_generated", stub).read_text(encoding="utf-8")
    match = re.search(pattern, text)
    assert match is not None
    return tuple(map(int, match[1].split(".")))


def distribution_files() -> set[str]:
    files = {str(path) for path in metadata.files(DISTRIBUTION) or []}
    if "chatenv_client/_version.py" not in files:
        pytest.skip("an editable install lists no files; .ci/run checks the wheel")
    return files


def test_the_version_of_the_distribution_is_the_one_the_client_states() -> None:
    assert metadata.version(DISTRIBUTION) == __version__


def test_importing_the_client_loads_nothing_of_the_server() -> None:
    assert packages_loaded_by("import chatenv_client").isdisjoint(SERVER_PACKAGES)


def test_importing_the_server_does_not_load_torch() -> None:
    pytest.importorskip("transformers", reason="the server extra is not installed", exc_type=ImportError)
    assert "torch" not in packages_loaded_by("import chatenv_server")


@pytest.mark.parametrize("package", ["chatenv_client", "chatenv_server"])
def test_a_package_says_that_it_is_typed(package: str) -> None:
    assert package_file(package, "py.typed").is_file()


def test_the_stubs_accept_the_lowest_grpcio_stated() -> None:
    made_for = generator_version("chatenv_pb2_grpc.py", r"GRPC_GENERATED_VERSION = '([\d.]+)'")
    assert made_for <= stated_floor("grpcio")


def test_the_stubs_accept_the_lowest_protobuf_stated() -> None:
    made_for = generator_version("chatenv_pb2.py", r"Protobuf Python Version: ([\d.]+)")
    assert made_for <= stated_floor("protobuf")


def test_the_schema_folder_is_no_python_package() -> None:
    checkout = Path(__file__).resolve().parent.parent
    assert not list(checkout.joinpath("proto").rglob("__init__.py"))


def test_the_wheel_holds_the_stubs_and_their_types() -> None:
    generated = {Path(name).name for name in distribution_files() if "_generated/" in name}
    assert generated >= {"chatenv_pb2.py", "chatenv_pb2.pyi", "chatenv_pb2_grpc.py", "chatenv_pb2_grpc.pyi"}


def test_the_wheel_holds_the_schema() -> None:
    assert any(name.endswith("share/chatenv/proto/chatenv/v1/chatenv.proto") for name in distribution_files())


def test_the_wheel_holds_nothing_but_the_two_packages_and_its_metadata() -> None:
    roots = {Path(name).parts[0] for name in distribution_files() if not name.startswith("..")}
    packages = {root for root in roots if not root.endswith(".dist-info")}
    assert packages == {"chatenv_client", "chatenv_server"}


CLIENT_ALONE = ("grpc", "google", "numpy", "numpy.libs", "typing_extensions.py", "chatenv_client", "chatenv_server")
"""What `site-packages` holds where no extra is installed, as far as it matters here."""


@pytest.fixture
def run_client_alone(tmp_path: Path) -> Run:
    """Runs a module where nothing can be imported but the standard library and what the client needs."""
    paths = [Path(folder) for folder in sys.path if folder] + [Path(__file__).resolve().parent.parent]
    for name in CLIENT_ALONE:
        found = next((folder / name for folder in paths if (folder / name).exists()), None)
        if found is not None:  # numpy.libs is not everywhere
            tmp_path.joinpath(name).symlink_to(found)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-S", *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    return run


NOBODY = ("--address", "localhost:1")


@pytest.mark.parametrize("command", [["health"], ["info"], ["state", "an-id"], ["chat"]], ids=lambda words: words[0])
def test_without_the_server_extra_the_commands_that_talk_to_a_server_work(
    run_client_alone: Run, command: list[str]
) -> None:
    done = run_client_alone("-m", "chatenv_server.commands.cli", *command, *NOBODY)
    assert "UNAVAILABLE" in done.stdout + done.stderr
    assert done.returncode == 1


@pytest.mark.parametrize(("command", "extra"), [(["view", "a.jsonl"], "view"), (["completion", "bash"], "completion")])
def test_without_a_commands_extra_it_says_in_one_line_what_to_install(
    run_client_alone: Run, command: list[str], extra: str
) -> None:
    done = run_client_alone("-m", "chatenv_server.commands.cli", *command)
    (line,) = done.stderr.splitlines()
    assert line.endswith(f": pip install 'chatenv-rl[{extra}]'")
    assert (done.returncode, done.stdout) == (2, "")


@pytest.mark.parametrize(
    "command",
    [
        ["-m", "chatenv_server"],
        ["-m", "chatenv_server", "--help"],
        ["-m", "chatenv_server.commands.cli", "doctor", "bytes"],
        ["-m", "chatenv_server.running.healthcheck"],
    ],
    ids=" ".join,
)
def test_without_the_server_extra_what_needs_it_says_in_one_line_what_to_install(
    run_client_alone: Run, command: list[str]
) -> None:
    done = run_client_alone(*command)
    (line,) = done.stderr.splitlines()
    assert line.endswith(": pip install 'chatenv-rl[server]'")
    assert (done.returncode, done.stdout) == (2, "")


def test_without_the_server_extra_the_environment_says_what_to_install(run_client_alone: Run) -> None:
    done = run_client_alone("-c", "from chatenv_server import ChatEnvironment")
    assert done.stderr.splitlines()[-1].endswith("pip install 'chatenv-rl[server]'")


NOT_OURS = re.compile(r"""install\W[^\n]*?(?<![\w./-])['"]?chatenv(?=[\['"\s]|$)""", re.MULTILINE)
TEXTS = ("*", "docs/*.md", "deploy/**/*.*", ".ci/*", "chatenv_*/**/*.py", "tests/**/*.py", "examples/*", "tools/*")


def test_nobody_is_told_to_install_the_package_of_somebody_else() -> None:
    assert all(map(NOT_OURS.search, ("pip install 'chatenv[server]'", "pip install -q chatenv", "install chatenv[x]")))
    checkout = Path(__file__).resolve().parent.parent
    texts = {path for pattern in TEXTS for path in checkout.glob(pattern) if path.is_file()}
    found = [path for path in texts - {Path(__file__).resolve()} if NOT_OURS.search(path.read_text(encoding="utf-8"))]
    assert found == []


def test_every_command_of_the_distribution_can_be_loaded() -> None:
    pytest.importorskip("transformers", reason="the server extra is not installed", exc_type=ImportError)
    commands = metadata.distribution(DISTRIBUTION).entry_points.select(group="console_scripts")
    assert {command.name for command in commands} == {"chatenv-rl", "chatenv-server"}
    assert all(callable(command.load()) for command in commands)
