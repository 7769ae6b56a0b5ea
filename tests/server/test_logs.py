"""What the log shows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any


def test_a_tokenizer_without_a_chat_template_is_warned_of_in_one_line(
    launch: Callable[..., Any], conformance_dir: Path
) -> None:
    server = launch("--tokenizer", str(conformance_dir / "tokenizers" / "gpt2"))
    warning, serving = server.log
    assert "WARNING tokenizer" in warning
    assert "has no chat template" in warning
    assert "serving" in serving
