"""The messages that the engine makes up: for the probe, for heads, and in the place of others.

Their texts are unlike anything that a caller sends, for templates that compare messages.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

SENTINEL = "Zq7xK2vW"
"""Letters and digits only, so that no template trims, splits or tests it."""
HEAD_TEXT = "Zq7xH4nB"
"""What the user says in the constant head. Unlike anything a caller sends, for templates that compare messages."""
PROBE_CALL_ID = "callZq7x1"
"""Nine letters and digits, the strictest form that a known template asks for."""

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


def calling(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """An assistant message of one call."""
    call = {"id": PROBE_CALL_ID, "type": "function", "function": {"name": "lookup", "arguments": dict(arguments)}}
    return {"role": "assistant", "content": "", "tool_calls": [call]}


def tool_result(text: str) -> dict[str, Any]:
    """A tool's answer."""
    return {"role": "tool", "content": text, "tool_call_id": PROBE_CALL_ID, "name": "lookup"}


DEEPER_HEADS: tuple[list[dict[str, Any]], ...] = (
    [user("a"), assistant("b"), user("c")],
    [user("a"), assistant("b"), user("c"), assistant("d"), user("e")],
    [user("a"), calling({"key": "b"}), tool_result("c"), assistant("d"), user("e")],
    [user("a"), calling({"key": "b"}), tool_result("c")],
    [user("a"), calling({"key": "b"}), tool_result("c"), calling({"key": "d"}), tool_result("e")],
    [
        user("a"),
        calling({"key": "b"}),
        tool_result("c"),
        assistant("d"),
        user("e"),
        calling({"key": "f"}),
        tool_result("g"),
    ],
)
"""Conversations that differ in what came before the last turn."""

_ROUNDS = ([user("a"), assistant("b")], [user("a"), assistant("")])
_CALL_ROUND = [user("a"), calling({"key": "b"}), tool_result("c"), assistant("d")]
LONGER_HEADS: tuple[tuple[list[dict[str, Any]], list[dict[str, Any]]], ...] = tuple(
    ([*before, *plain, *plain, *after], [*before, *(plain * count), *after])
    for plain in _ROUNDS
    for count in (3, 4, 7)
    for before, after in (
        ([], [user("e")]),
        (_CALL_ROUND, [user("e")]),
        ([], [*_CALL_ROUND, user("e")]),
        ([], _CALL_ROUND[:3]),
    )
)
"""Pairs that differ in how many plain questions and answers came in a row: two, and more."""
