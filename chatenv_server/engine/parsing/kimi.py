"""Kimi K2: a section of calls, each an id such as `functions.NAME:0` and JSON."""

from __future__ import annotations

import re

from chatenv_server.engine.parsing.calls import Tagged, function_call, read_section
from chatenv_server.engine.parsing.cursor import Cursor, Malformed
from chatenv_server.engine.parsing.turn import ToolCall

_SECTION, _SECTION_END = "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"
_CALL, _ARGUMENTS, _CALL_END = "<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>"
_ID = re.compile(r"(?:functions\.)?(?P<name>.+):\d+")


def _read(cursor: Cursor) -> list[ToolCall]:
    return read_section(cursor, _CALL, _SECTION_END, _read_call)


def _read_call(cursor: Cursor) -> ToolCall:
    call_id = cursor.until(_ARGUMENTS).strip()
    found = _ID.fullmatch(call_id)
    if found is None:
        raise Malformed(f"has an id that names no function: {call_id!r}")
    arguments = cursor.json()
    cursor.expect(_CALL_END)
    return function_call(found["name"], arguments, call_id)


KIMI = Tagged("kimi", _SECTION, _SECTION_END, _read)
