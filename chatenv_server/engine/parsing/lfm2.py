"""LFM2: a list of Python calls with keyword arguments, `[f(a='x', n=1), g()]`, between two tags.

The template writes a string argument between single quotes without escaping anything, objects as JSON,
and all else as Python.
"""

from __future__ import annotations

import re
from typing import Any

from chatenv_server.engine.parsing.calls import Tagged, function_call
from chatenv_server.engine.parsing.cursor import MAX_NESTING, Cursor, Malformed, parse_json
from chatenv_server.engine.parsing.turn import ToolCall

_OPENER, _CLOSER = "<|tool_call_start|>", "<|tool_call_end|>"
_NAME = re.compile(r"[\w.-]+")
_BARE_STRING = re.compile(r"'(?P<text>.*?)'(?=\s*(?:,\s*[\w.-]+=|\)))", re.DOTALL)
_QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"", re.DOTALL)
_SCALAR = re.compile(r"[\w.+-]+")
_ESCAPE = re.compile(r"\\.", re.DOTALL)
_ESCAPES = {r"\n": "\n", r"\t": "\t", r"\r": "\r", r"\\": "\\", r"\'": "'", r"\"": '"'}
_CONSTANTS = {"True": True, "False": False, "None": None, "true": True, "false": False, "null": None}


def _read(cursor: Cursor) -> list[ToolCall]:
    calls: list[ToolCall] = []
    cursor.expect("[")
    while not calls or not cursor.take("]"):
        if calls:
            _expect_comma(cursor)
        name = cursor.match(_NAME, "function name")
        calls.append(function_call(name, _read_arguments(cursor)))
        cursor.skip_space()
    cursor.expect(_CLOSER)
    return calls


def _read_arguments(cursor: Cursor) -> dict[str, Any]:
    cursor.expect("(")
    arguments: dict[str, Any] = {}
    while not cursor.take(")"):
        if arguments:
            _expect_comma(cursor)
        key = cursor.match(_NAME, "argument name")
        cursor.expect("=")
        arguments[key] = _read_argument(cursor)
    return arguments


def _read_argument(cursor: Cursor) -> Any:
    if cursor.at("'"):
        return cursor.match(_BARE_STRING, "end of its string")[1:-1]
    return cursor.json() if cursor.at("{") else _read_literal(cursor, MAX_NESTING)


def _read_literal(cursor: Cursor, levels_left: int) -> Any:
    if not levels_left:
        raise Malformed(f"is nested more than {MAX_NESTING} levels deep")
    if cursor.at("'") or cursor.at('"'):
        return _ESCAPE.sub(_unescape, cursor.match(_QUOTED, "end of its string")[1:-1])
    if cursor.at("["):
        return _read_list(cursor, levels_left - 1)
    if cursor.at("{"):
        return _read_object(cursor, levels_left - 1)
    scalar = cursor.match(_SCALAR, "value")
    return _CONSTANTS[scalar] if scalar in _CONSTANTS else parse_json(scalar)


def _read_list(cursor: Cursor, levels_left: int) -> list[Any]:
    cursor.expect("[")
    items: list[Any] = []
    while not cursor.take("]"):
        if items:
            _expect_comma(cursor)
        items.append(_read_literal(cursor, levels_left))
    return items


def _read_object(cursor: Cursor, levels_left: int) -> dict[str, Any]:
    cursor.expect("{")
    items: dict[str, Any] = {}
    while not cursor.take("}"):
        if items:
            _expect_comma(cursor)
        key = _read_literal(cursor, levels_left)
        if not isinstance(key, str):
            raise Malformed("has a key that is not a string")
        cursor.expect(":")
        cursor.skip_space()
        items[key] = _read_literal(cursor, levels_left)
    return items


def _expect_comma(cursor: Cursor) -> None:
    cursor.expect(",")
    cursor.skip_space()


def _unescape(found: re.Match[str]) -> str:
    return _ESCAPES.get(found.group(), found.group())


LFM2 = Tagged("lfm2", _OPENER, _CLOSER, _read)
