"""The messages to render at load, from which a reader of turns is induced, and the tools that they call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chatenv_server.engine.parsing.types import ToolTypes

TEXT = "Probe answer seven"
THOUGHT = "Probe thought nine"
NAMES = ("probe_first", "probe_second")
KEYS = ("kqprobea", "kqprobeb")
VALUES = ("vqprobec", "vqprobed")
IDS = ("probe0001", "probe0002")
"""Nine letters and digits, the strictest form that a known template asks for."""
NAMING_IDS = tuple(f"functions.{name}:{index}" for index, name in enumerate(NAMES))
"""Ids that name their function, for templates that write nothing else of it."""
NUMBER = 40719


def call(index: int, arguments: dict[str, Any], call_id: str | None = None) -> dict[str, Any]:
    """The call of that number."""
    function = {"name": NAMES[index], "arguments": arguments}
    return {"id": call_id or IDS[index], "type": "function", "function": function}


def calling(*calls: dict[str, Any], text: str = "", thought: str | None = None) -> dict[str, Any]:
    """An assistant message of calls."""
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if thought is not None:
        message["reasoning_content"] = thought
    return {**message, "tool_calls": list(calls)}


_ARGUMENTS: tuple[tuple[dict[str, Any], str], ...] = (
    ({"query": "red apple"}, "string"),
    ({"limit": 3, "ratio": -1.5}, "number"),
    ({"exact": True, "loose": False}, "boolean"),
    ({"nothing": None}, "null"),
    ({"items": ["a", 2, ["b"]]}, "array"),
    ({"nested": {"deep": {"list": ["a", 2.5]}, "flag": True}}, "object"),
)
_LINES = 'def f(x):\n    return "x"\n\n# It\'s\t\\ é 🙂 <b>'
BATTERY: tuple[dict[str, Any], ...] = (
    *(arguments for arguments, _ in _ARGUMENTS),
    {},
    {"query": _LINES, "title": " padded "},
    {"query": "007", "title": "true"},
    {"query": "a, b", "title": "c) d"},
    {"nested": {"text": _LINES, "none": None}, "query": "x"},
)
"""Arguments that tell one way of writing from another. A template may write some of them in a way that nobody can
read; the others count."""

_TYPES = {key: frozenset({name}) for arguments, name in _ARGUMENTS for key in arguments}
_TYPES |= dict.fromkeys(("title", *KEYS), frozenset({"string"}))
PROBE_TYPES: ToolTypes = dict.fromkeys(NAMES, _TYPES)
"""The types of the probes' arguments."""


def _tool(name: str) -> dict[str, Any]:
    # One property is enough: some templates take milliseconds for each.
    properties = {"query": {"type": "string", "description": "A value."}}
    parameters = {"type": "object", "properties": properties, "required": []}
    return {"type": "function", "function": {"name": name, "description": "A tool.", "parameters": parameters}}


PROBE_TOOLS: list[dict[str, Any]] = [_tool(name) for name in NAMES]
"""The tools that the probes call, for templates that look."""

_FIRST = call(0, {"exact": True, "limit": 3, "nested": {"list": ["a", 2.5]}, "query": "red apple"})
_SECOND = call(1, {"query": "left side", "ratio": -1.5})


def with_naming_ids(message: Mapping[str, Any]) -> dict[str, Any]:
    """A probe message whose calls have ids that name their functions."""
    if "tool_calls" not in message:
        return dict(message)
    return {
        **message,
        "tool_calls": [{**one, "id": new} for one, new in zip(message["tool_calls"], NAMING_IDS, strict=False)],
    }


PROBE_MESSAGES: tuple[dict[str, Any], ...] = (
    {"role": "assistant", "content": TEXT},
    {"role": "assistant", "content": TEXT, "reasoning_content": THOUGHT},
    calling(_FIRST),
    calling(_FIRST, _SECOND),
    calling(_FIRST, text=TEXT),
    calling(_FIRST, thought=THOUGHT),
    calling(_FIRST, _SECOND, text=TEXT, thought=THOUGHT),
)
"""Text, thought and text, one call, two calls, text and a call, thought and a call, and all of it.

A template may reject or drop any of them but the first.
"""
