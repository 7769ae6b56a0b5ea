"""What every test file may rely on: the property profiles and the recorded conformance data."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

CHECKOUT = Path(__file__).resolve().parent.parent

settings.register_profile("default", max_examples=150, deadline=None)
settings.register_profile("quick", max_examples=20, deadline=None)
settings.register_profile("deep", max_examples=10_000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture(scope="session")
def conformance_dir() -> Path:
    """The folder of recorded tokenizers and templates; a test that asks for it skips where it is absent."""
    folder = Path(os.environ.get("CHATENV_CONFORMANCE", CHECKOUT.parent / "shared" / "conformance"))
    if not folder.is_dir():
        pytest.skip(f"no conformance data at {folder} (CHATENV_CONFORMANCE names another folder)")
    return folder
