"""From the decoded text of a sampled assistant turn to a message: content, reasoning and tool calls.

Pure functions of text; tokens and templates are the engine's.
"""

from __future__ import annotations

from chatenv_server.engine.parsing.calls import VERBATIM
from chatenv_server.engine.parsing.choice import learn_reader
from chatenv_server.engine.parsing.probes import PROBE_MESSAGES, PROBE_TOOLS
from chatenv_server.engine.parsing.response_template import ResponseTemplateParser
from chatenv_server.engine.parsing.turn import ParsedTurn, ProbeRender, ToolCall, TurnParser
from chatenv_server.engine.parsing.types import ToolTypes, types_of_tools

__all__ = [
    "PROBE_MESSAGES",
    "PROBE_TOOLS",
    "VERBATIM",
    "ParsedTurn",
    "ProbeRender",
    "ResponseTemplateParser",
    "ToolCall",
    "ToolTypes",
    "TurnParser",
    "learn_reader",
    "types_of_tools",
]
