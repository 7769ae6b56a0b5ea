"""From the decoded text of a sampled assistant turn to a message: content, reasoning and tool calls.

Pure functions of text; tokens and templates are the engine's.
"""

from __future__ import annotations

from chatenv_server.engine.parsing.choice import choose_parser
from chatenv_server.engine.parsing.probes import PROBE_MESSAGES
from chatenv_server.engine.parsing.response_template import ResponseTemplateParser
from chatenv_server.engine.parsing.turn import ParsedTurn, ProbeRender, ToolCall, TurnParser

__all__ = [
    "PROBE_MESSAGES",
    "ParsedTurn",
    "ProbeRender",
    "ResponseTemplateParser",
    "ToolCall",
    "TurnParser",
    "choose_parser",
]
