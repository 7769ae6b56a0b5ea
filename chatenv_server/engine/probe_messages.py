"""The messages that the engine makes up: for the probe, for heads, and in the place of others.

Their texts are unlike anything that a caller sends, for templates that compare messages.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

SENTINEL = "Zq7xK2vW"
"""Letters and digits only, so that no template trims, splits or tests it."""
HEAD_TEXT = "Zq7xH4nB"
"""What the user says in the constant head. Unlike anything a caller sends, for templates that compare messages."""
PROBE_CALL_ID = "callZq7x1"
"""Nine letters and digits, the strictest form that a known template asks for."""

PROBE_SYSTEM: Mapping[str, Any] = {"role": "system", "content": "Zq7xS0"}
"""A system prompt, for templates that want one."""

PROBE_CLOCK = 1_700_000_000.0
"""When the probe takes place."""

PROBE_TOOL = {
    "type": "function",
    "function": {
        "name": "lookup",
        "description": "Looks a word up.",
        "parameters": {
            "type": "object",
            "properties": {"key": {"type": "string", "description": "A word."}},
            "required": ["key"],
        },
    },
}
"""A tool, for templates that list them."""


def unlike(stand_in: str, texts: Iterable[str]) -> str:
    """A stand-in that stands in none of the texts: itself, or a longer one."""
    others = list(texts)
    while any(stand_in in other for other in others):
        # Twice as long each time: a text may be made to hold many.
        stand_in += stand_in[-1] * len(stand_in)
    return stand_in


def user(text: str = HEAD_TEXT) -> dict[str, Any]:
    """A user message."""
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, Any]:
    """An assistant message of text."""
    return {"role": "assistant", "content": text}


def calling(
    arguments: Mapping[str, Any], content: str | None = "", *, ids: Sequence[str] = (PROBE_CALL_ID,)
) -> dict[str, Any]:
    """An assistant message of one call, or of one for each id."""
    calls: list[dict[str, Any]] = [
        {"id": call_id, "type": "function", "function": {"name": "lookup", "arguments": dict(arguments)}}
        for call_id in ids
    ]
    return {"role": "assistant", "content": content, "tool_calls": calls}


def tool_result(text: str, call_id: str = PROBE_CALL_ID) -> dict[str, Any]:
    """A tool's answer."""
    return {"role": "tool", "content": text, "tool_call_id": call_id, "name": "lookup"}
