"""A sampled turn as the package `renderers` says it."""

from __future__ import annotations

import json
from collections.abc import Iterator

from renderers.base import ParsedResponse, ParsedToolCall, ToolCallParseStatus

from chatenv_server.engine.conversation import ReadTurn


def parsed_response(read: ReadTurn) -> ParsedResponse:
    """What was read of a turn: its content, its thought, and every call that it made or tried to make."""
    message = read.message
    content, thought = str(message.get("content") or ""), message.get("reasoning_content")
    return ParsedResponse(
        content=content,
        reasoning_content=thought,
        tool_calls=[*_calls(read), *_malformed(read, content)],
        reasoning_complete=_is_thought_complete(read, content),
    )


def _calls(read: ReadTurn) -> Iterator[ParsedToolCall]:
    for call in read.message.get("tool_calls", ()):
        function = call["function"]
        yield ParsedToolCall(
            raw=json.dumps(function, ensure_ascii=False),
            name=function["name"],
            arguments=function["arguments"],
            id=call.get("id"),
        )


def _malformed(read: ReadTurn, content: str) -> Iterator[ParsedToolCall]:
    """What was no call stays in the content, where somebody can read what went wrong."""
    for _ in read.problems:
        yield ParsedToolCall(raw=content, status=ToolCallParseStatus.MALFORMED_STRUCTURE)


def _is_thought_complete(read: ReadTurn, content: str) -> bool | None:
    """Whether the turn went on after its thought; None where it says nothing at all, so that there is no telling."""
    if content or read.message.get("tool_calls"):
        return True
    thought = read.message.get("reasoning_content")
    return None if thought is None else not read.text.rstrip().endswith(thought.rstrip())
