"""The recorded tokenizers and templates: where they are, and what becomes of tests that need them where they are not.

Such tests skip in a clean clone. Where CHATENV_CONFORMANCE_REQUIRED is set, as CI does, nothing skips for want of them.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, NoReturn

import pytest

CONFORMANCE: Final = Path(
    os.environ.get("CHATENV_CONFORMANCE", Path(__file__).resolve().parents[2] / "shared" / "conformance")
)
REQUIRED: Final = bool(os.environ.get("CHATENV_CONFORMANCE_REQUIRED"))


def why_missing(path: Path) -> str:
    """Why a test cannot have the data at `path`; empty where it is there."""
    if path.is_file() or (path.is_dir() and any(path.iterdir())):
        return ""
    return f"no conformance data at {path} (CHATENV_CONFORMANCE names another folder)"


def do_without(reason: str) -> NoReturn:
    """Skip the test that asks; fail it where the data is required."""
    if REQUIRED:
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)
