"""The Dockerfile, as far as it can be judged without an engine."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

DOCKERFILE = Path(__file__).resolve().parents[2] / "Dockerfile"


def instructions() -> list[tuple[str, str]]:
    """(keyword, the rest) of each instruction, comments and line ends left out."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = re.sub(r"\\\n", " ", text).splitlines()
    return [(keyword, rest.strip()) for keyword, _, rest in (line.partition(" ") for line in lines if line.strip())]


def final_stage() -> dict[str, list[str]]:
    """The instructions after the last FROM, by keyword."""
    found: dict[str, list[str]] = {}
    for keyword, rest in instructions():
        if keyword == "FROM":
            found = {}
        found.setdefault(keyword, []).append(rest)
    return found


def test_it_is_as_hadolint_wants_it() -> None:
    beside_python = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    hadolint = shutil.which("hadolint", path=beside_python)
    if hadolint is None:
        pytest.skip("hadolint is not installed")
    checked = subprocess.run([hadolint, DOCKERFILE], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_what_builds_stays_in_a_stage_of_its_own() -> None:
    stages = [rest for keyword, rest in instructions() if keyword == "FROM"]
    assert len(stages) > 1
    assert "RUN" not in final_stage()
    assert all(copied.startswith("--from=") for copied in final_stage()["COPY"])


def test_the_server_is_not_root_and_gets_signals_itself() -> None:
    (user,) = final_stage()["USER"]
    assert min(map(int, user.split(":"))) > 0
    assert json.loads(final_stage()["ENTRYPOINT"][0]) == ["chatenv-server"]


def test_the_engine_asks_our_own_module_for_health() -> None:
    (check,) = final_stage()["HEALTHCHECK"]
    assert json.loads(check.partition("CMD ")[2]) == ["python", "-m", "chatenv_server.running.healthcheck"]


def test_a_change_of_our_sources_does_not_install_the_dependencies_anew() -> None:
    builder = [(keyword, rest) for keyword, rest in instructions() if keyword in {"COPY", "RUN"}]
    everything = builder.index(("COPY", ". ."))
    before, after = builder[:everything], builder[everything + 1 :]
    assert [rest for keyword, rest in before if keyword == "COPY"] == [
        "pyproject.toml ./",
        "chatenv_client/_version.py chatenv_client/",
    ]
    assert any('pip --python /opt/chatenv/bin/python install --no-cache-dir ".[' in rest for _, rest in before)
    assert all("--no-deps" in rest for _, rest in after if "pip --python" in rest)
