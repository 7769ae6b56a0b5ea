"""Paths of bad fields, both ways: as Python names the arguments, and as the schema names its fields."""

from __future__ import annotations

import re
from typing import Final

_TO_WIRE: Final = (
    (re.compile(r"^(tools|chat_template_kwargs|metadata|task_args)$"), r"\1_json"),
    (re.compile(r"(tool_calls\[\d+\])\.function\.name$"), r"\1.name"),
    (re.compile(r"(tool_calls\[\d+\])\.function\.arguments$"), r"\1.arguments_json"),
)
_TO_PYTHON: Final = (
    (re.compile(r"^(tools|chat_template_kwargs|metadata|task_args)_json$"), r"\1"),
    (re.compile(r"(tool_calls\[\d+\])\.name$"), r"\1.function.name"),
    (re.compile(r"(tool_calls\[\d+\])\.arguments_json$"), r"\1.function.arguments"),
)


def field_to_wire(path: str) -> str:
    """The schema's path of an argument, e.g. `tools_json` for `tools`."""
    return _translated(path, _TO_WIRE)


def field_from_wire(path: str) -> str:
    """The argument of a path in the schema."""
    return _translated(path, _TO_PYTHON)


def _translated(path: str, rules: tuple[tuple[re.Pattern[str], str], ...]) -> str:
    for pattern, replacement in rules:
        path, replaced = pattern.subn(replacement, path)
        if replaced:
            break
    return path
