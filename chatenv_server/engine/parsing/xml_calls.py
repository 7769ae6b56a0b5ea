"""Calls as nested tags: Qwen3-Coder, Qwen3.5 and 3.6, Nemotron 3, GLM-4.5.

Strings are written bare, constants as JSON or Python, lists and objects as JSON. A call ends at the first
closing tag, so an argument that holds that very tag makes the call malformed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

from chatenv_server.engine.parsing.calls import Tagged, function_call
from chatenv_server.engine.parsing.cursor import Cursor, Malformed
from chatenv_server.engine.parsing.turn import ToolCall
from chatenv_server.engine.parsing.values import json_or_string, python_or_string

_OPENER, _CLOSER = "<tool_call>", "</tool_call>"
_GLM_NAME = re.compile(r"[^<>{}\s]+")
_QWEN_NAME = re.compile(r"[^<>\n]+")


def _read_qwen(cursor: Cursor, value_of: Callable[[str], Any]) -> list[ToolCall]:
    call = Cursor(cursor.until(_CLOSER))
    call.skip_space()
    call.expect("<function=")
    name = call.match(_QWEN_NAME, "function name")
    call.expect(">")
    arguments = {}
    call.skip_space()
    while call.take("<parameter="):
        key = call.match(_QWEN_NAME, "parameter name")
        call.expect(">")
        # Exactly one newline on either side is the notation's; more of them are the value's own.
        call.take("\n")
        arguments[key] = value_of(call.until("</parameter>").removesuffix("\n"))
        call.skip_space()
    call.expect("</function>")
    _expect_end(call)
    return [function_call(name, arguments)]


def _read_glm(cursor: Cursor) -> list[ToolCall]:
    call = Cursor(cursor.until(_CLOSER))
    call.skip_space()
    name = call.match(_GLM_NAME, "function name")
    arguments = {}
    call.skip_space()
    while call.take("<arg_key>"):
        key = call.until("</arg_key>")
        call.skip_space()
        call.expect("<arg_value>")
        arguments[key] = json_or_string(call.until("</arg_value>"))
        call.skip_space()
    _expect_end(call)
    return [function_call(name, arguments)]


def _expect_end(call: Cursor) -> None:
    call.skip_space()
    if call.position != len(call.text):
        raise Malformed("holds text that is no argument")


QWEN3_XML = Tagged("qwen3_xml", _OPENER, _CLOSER, partial(_read_qwen, value_of=json_or_string))
QWEN3_XML_PYTHON = Tagged("qwen3_xml_python", _OPENER, _CLOSER, partial(_read_qwen, value_of=python_or_string))
GLM = Tagged("glm", _OPENER, _CLOSER, _read_glm)
