"""Gemma 4 and FunctionGemma: `call:NAME{key:value,…}` between two tags.

Keys are bare, and strings stand between quote tokens.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from chatenv_server.engine.parsing.calls import Tagged, function_call
from chatenv_server.engine.parsing.cursor import MAX_NESTING, Cursor, Malformed, parse_json
from chatenv_server.engine.parsing.turn import ToolCall

_KEY = re.compile(r"[^:{}\[\],<>]+")
_SCALAR = re.compile(r"[^{}\[\],<>]+")


@dataclass(frozen=True, slots=True)
class _Reader:
    closer: str
    quote: str

    def __call__(self, cursor: Cursor) -> list[ToolCall]:
        cursor.expect("call:")
        name = cursor.match(_KEY, "function name")
        arguments = self._object(cursor, MAX_NESTING)
        cursor.expect(self.closer)
        return [function_call(name, arguments)]

    def _value(self, cursor: Cursor, levels_left: int) -> Any:
        if not levels_left:
            raise Malformed(f"is nested more than {MAX_NESTING} levels deep")
        if cursor.take(self.quote):
            return cursor.until(self.quote)
        if cursor.at("{"):
            return self._object(cursor, levels_left)
        if cursor.at("["):
            return self._list(cursor, levels_left)
        return parse_json(cursor.match(_SCALAR, "value"))

    def _object(self, cursor: Cursor, levels_left: int) -> dict[str, Any]:
        cursor.expect("{")
        items: dict[str, Any] = {}
        while not cursor.take("}"):
            if items:
                cursor.expect(",")
            key = cursor.until(self.quote) if cursor.take(self.quote) else cursor.match(_KEY, "key")
            cursor.expect(":")
            items[key] = self._value(cursor, levels_left - 1)
        return items

    def _list(self, cursor: Cursor, levels_left: int) -> list[Any]:
        cursor.expect("[")
        items: list[Any] = []
        while not cursor.take("]"):
            if items:
                cursor.expect(",")
            items.append(self._value(cursor, levels_left - 1))
        return items


GEMMA = Tagged("gemma", "<|tool_call>", "<tool_call|>", _Reader("<tool_call|>", '<|"|>'))
FUNCTION_GEMMA = Tagged(
    "function_gemma",
    "<start_function_call>",
    "<end_function_call>",
    _Reader("<end_function_call>", "<escape>"),
)
