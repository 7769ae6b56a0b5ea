"""What the log shows."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from chatenv_server.observing.logs import JsonFormatter, TextFormatter


def test_a_tokenizer_without_a_chat_template_is_warned_of_in_one_line(
    launch: Callable[..., Any], conformance_dir: Path
) -> None:
    server = launch("--tokenizer", str(conformance_dir / "tokenizers" / "gpt2"))
    warning, serving = server.log
    assert "WARNING tokenizer" in warning
    assert "has no chat template" in warning
    assert "serving" in serving


def logged(form: str, **extra: Any) -> str:
    """One line, as the server logs it."""
    formatter = JsonFormatter() if form == "json" else TextFormatter()
    record = logging.LogRecord("chatenv_server.x", logging.INFO, "", 0, "call %s", ("failed",), None)
    vars(record).update(extra, created=0.0)
    return formatter.format(record)


def test_a_line_for_people_has_its_fields_behind_the_message() -> None:
    line = logged("text", method="/x/Step", where="a b", field="")
    assert line == '1970-01-01T00:00:00.000+00:00 INFO    call failed method=/x/Step where="a b"'


def test_a_line_for_machines_is_one_json_object() -> None:
    line = logged("json", method="/x/Step", where='a "b"\nc', field="")
    assert "\n" not in line
    assert json.loads(line) == {
        "time": "1970-01-01T00:00:00.000+00:00",
        "level": "info",
        "logger": "chatenv_server.x",
        "message": "call failed",
        "method": "/x/Step",
        "where": 'a "b"\nc',
    }


def test_nobody_can_forge_a_line() -> None:
    assert "\n" not in logged("text", field="a\n1970 INFO all is well")
