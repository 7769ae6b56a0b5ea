"""What every test file may rely on: the property profiles and the recorded conformance data."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

from tests.conformance import CONFORMANCE, REQUIRED, do_without, why_missing
from tests.machine import OPENSSL, Certificates

# The same examples on every run: a change is judged by what it does, not by what was drawn. New ones: deep.
settings.register_profile("default", max_examples=100, deadline=None, derandomize=True)
settings.register_profile("quick", max_examples=20, deadline=None, derandomize=True)
settings.register_profile("deep", max_examples=10_000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


def pytest_configure() -> None:
    """Refuse to run without the conformance data where it is required."""
    reasons = [why_missing(CONFORMANCE / part) for part in ("tokenizers", "templates")]
    if REQUIRED and any(reasons):
        raise pytest.UsageError("\n".join(filter(None, reasons)))


@pytest.fixture(scope="session")
def conformance_dir() -> Path:
    """The folder of recorded tokenizers and templates; a test that asks for it skips where it is absent."""
    if reason := why_missing(CONFORMANCE):
        do_without(reason)
    return CONFORMANCE


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Certificates for localhost; a test that asks for them skips where openssl is absent."""
    if OPENSSL is None:
        pytest.skip("no openssl here to make certificates with")
    return Certificates(tmp_path_factory.mktemp("certificates"))
