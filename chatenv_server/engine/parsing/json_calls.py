"""Calls as JSON between two tags: Hermes and Qwen, Phi-4, Command, Nemotron Nano 2."""

from __future__ import annotations

from functools import partial

from chatenv_server.engine.parsing.calls import Tagged, calls_from_json
from chatenv_server.engine.parsing.cursor import Cursor
from chatenv_server.engine.parsing.turn import ToolCall


def _read(cursor: Cursor, closer: str) -> list[ToolCall]:
    calls = calls_from_json(cursor.json())
    cursor.expect(closer)
    return calls


def _between(name: str, opener: str, closer: str) -> Tagged:
    return Tagged(name, opener, closer, partial(_read, closer=closer))


HERMES = _between("hermes", "<tool_call>", "</tool_call>")
PHI4 = _between("phi4", "<|tool_call|>", "<|/tool_call|>")
COMMAND = _between("command", "<|START_ACTION|>", "<|END_ACTION|>")
NEMOTRON_NANO2 = _between("nemotron_nano2", "<TOOLCALL>", "</TOOLCALL>")
