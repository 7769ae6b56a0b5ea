"""The messages to render at load, from which `choose_parser` learns how a template writes a turn."""

from __future__ import annotations

from typing import Any

_TEXT = "Probe answer seven"
_THOUGHT = "Probe thought nine"
_CALLS: list[dict[str, Any]] = [
    {
        "id": "probe0001",
        "type": "function",
        "function": {
            "name": "probe_first",
            "arguments": {
                "exact": True,
                "limit": 3,
                "nested": {"list": ["a", None, 2.5]},
                "query": "red apple",
            },
        },
    },
    {
        "id": "probe0002",
        "type": "function",
        "function": {"name": "probe_second", "arguments": {"key": "left side", "ratio": -1.5}},
    },
]

PROBE_MESSAGES: tuple[dict[str, Any], ...] = (
    {"role": "assistant", "content": _TEXT},
    {"role": "assistant", "content": _TEXT, "reasoning_content": _THOUGHT},
    {"role": "assistant", "content": "", "tool_calls": _CALLS[:1]},
    {"role": "assistant", "content": "", "tool_calls": _CALLS},
    {"role": "assistant", "content": _TEXT, "tool_calls": _CALLS[:1]},
    {"role": "assistant", "content": "", "reasoning_content": _THOUGHT, "tool_calls": _CALLS[:1]},
    {"role": "assistant", "content": _TEXT, "reasoning_content": _THOUGHT, "tool_calls": _CALLS},
)
"""Text, thought and text, one call, two calls, text and a call, thought and a call, and all of it.

The top-level True tells templates that write constants as JSON from those that write them as Python. Ids have
the nine characters that Mistral's templates demand. A template may reject or drop any of them but the first.
"""
