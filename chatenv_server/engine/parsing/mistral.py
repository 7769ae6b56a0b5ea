"""Mistral: a JSON list after `[TOOL_CALLS]`, or, in the newer form, a name and `[ARGS]` for each call."""

from __future__ import annotations

import re

from chatenv_server.engine.parsing.calls import Tagged, calls_from_json, function_call
from chatenv_server.engine.parsing.cursor import Cursor
from chatenv_server.engine.parsing.turn import ToolCall

_NAME = re.compile(r"[^\[\]{}\s]+")


def _read(cursor: Cursor) -> list[ToolCall]:
    cursor.skip_space()
    if cursor.at("[{"):
        return calls_from_json(cursor.json())
    name = cursor.match(_NAME, "function name")
    call_id = cursor.match(_NAME, "id") if cursor.take("[CALL_ID]") else None
    cursor.expect("[ARGS]")
    return [function_call(name, cursor.json(), call_id)]


MISTRAL = Tagged("mistral", "[TOOL_CALLS]", "", _read)
