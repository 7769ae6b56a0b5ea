"""Without the recorded tokenizers and templates tests skip, and CI fails."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent
NEEDY = "tests/engine/test_token_bytes.py::test_the_text_of_tokens_is_what_the_library_decodes"


def run_without_the_data(**environment: str) -> subprocess.CompletedProcess[str]:
    """Run a test that needs the data, as in a clean clone that has no folder beside it."""
    pytest.importorskip("chatenv_server", reason="the server extra is not installed", exc_type=ImportError)
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", NEEDY],
        env=os.environ | {"CHATENV_CONFORMANCE": "/nowhere", "CHATENV_CONFORMANCE_REQUIRED": ""} | environment,
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_clean_clone_skips_what_needs_the_data_and_says_so() -> None:
    ran = run_without_the_data()
    assert ran.returncode == 0, ran.stdout
    assert "no conformance data at /nowhere/tokenizers/gpt2" in ran.stdout


def test_where_the_data_is_required_nothing_skips_for_want_of_it() -> None:
    ran = run_without_the_data(CHATENV_CONFORMANCE_REQUIRED="1")
    assert ran.returncode == pytest.ExitCode.USAGE_ERROR, ran.stdout
    assert "no conformance data at /nowhere/templates" in ran.stderr
