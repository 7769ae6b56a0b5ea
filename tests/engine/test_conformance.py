"""Every chat template at hand plays the doctor's conversations: each step exact, or with a report that says why not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from chatenv_server.doctor.examine import Verdict, examine
from chatenv_server.doctor.reference import Reference
from chatenv_server.doctor.stand_in import stand_in
from chatenv_server.engine import TokenEngine
from tests.engine.archetypes import ARCHETYPES, UNUSUAL_TOKENS

DATA = Path(os.environ.get("CHATENV_CONFORMANCE", "../shared/conformance"))


@pytest.mark.parametrize("habit", ARCHETYPES)
def test_no_step_is_inexact_without_a_report(habit: str) -> None:
    source = ARCHETYPES[habit]
    tokenizer = stand_in(source, None, [token for token in UNUSUAL_TOKENS if token in source])
    engine = TokenEngine.load(tokenizer)
    inexact = [
        (examination.scenario, examination.faults)
        for examination in examine(engine, Reference(tokenizer, engine))
        if examination.verdict is Verdict.INEXACT
    ]
    assert inexact == []


def doctor(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "chatenv_server.cli", "doctor", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)


def test_every_recorded_tokenizer_and_template_is_exact_or_says_why_not() -> None:
    if not DATA.is_dir():
        pytest.skip(f"no conformance data at {DATA}")
    done = doctor("--all", str(DATA))
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(done.stdout.splitlines()) > len(list(DATA.glob("templates/*.jinja")))


def test_the_doctor_tells_machines_the_same_as_people() -> None:
    done = doctor("bytes", "--json")
    assert done.returncode == 0
    assert isinstance(json.loads(done.stdout), dict)


def test_a_tokenizer_that_is_not_there_is_a_usage_error() -> None:
    done = doctor("no-such-folder/anywhere")
    assert done.returncode == 2
    assert "no-such-folder" in done.stderr
