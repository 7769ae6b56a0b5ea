"""DeepSeek: a section of calls, each a name and JSON.

V3 and R1 write a type before the name and a fence around the JSON, V3.1 does neither.
"""

from __future__ import annotations

from chatenv_server.engine.parsing.calls import Tagged, function_call, read_section
from chatenv_server.engine.parsing.cursor import Cursor
from chatenv_server.engine.parsing.turn import ToolCall

_CALL, _SEPARATOR, _CALL_END = "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"
_SECTION, _SECTION_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"


def _read(cursor: Cursor) -> list[ToolCall]:
    return read_section(cursor, _CALL, _SECTION_END, _read_call)


def _read_call(cursor: Cursor) -> ToolCall:
    name = cursor.until(_SEPARATOR)
    fenced = not cursor.at("{")
    if fenced:
        name = cursor.until("\n```json\n")
    arguments = cursor.json()
    if fenced:
        cursor.expect("```")
    cursor.expect(_CALL_END)
    return function_call(name, arguments)


DEEPSEEK = Tagged("deepseek", _SECTION, _SECTION_END, _read)
