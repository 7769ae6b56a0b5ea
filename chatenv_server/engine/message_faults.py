"""What a template did to given messages: left them out, changed their texts, dropped their calls.

Told from a render and the places that the messages have in it (`locate.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from chatenv_client.models import FidelityKind, FidelityReport
from chatenv_server.engine.controls import is_marked, strings_in
from chatenv_server.engine.forms import PreparedMessage
from chatenv_server.engine.locate import Place


def message_reports(
    prepared: Sequence[PreparedMessage], places: Sequence[Place], first: int, text: str
) -> list[FidelityReport]:
    """A report for everything that became of the messages but what was given.

    Args:
        prepared: the messages, in the template's form.
        places: where each stands in the render.
        first: index of the first message in the conversation.
        text: the render, marks included.
    """
    escaped = is_marked(text)
    return [
        FidelityReport(kind, detail, message_index=index)
        for index, (message, place) in enumerate(zip(prepared, places, strict=True), start=first)
        for kind, detail in _faults(message, place, text, escaped)
    ]


def _faults(message: PreparedMessage, place: Place, text: str, escaped: bool) -> Iterator[tuple[FidelityKind, str]]:
    if place.dropped:
        yield FidelityKind.MESSAGE_DROPPED, "the chat template leaves this message out"
    elif place.altered:
        yield FidelityKind.CONTENT_ALTERED, "the chat template changes this message's text"
    if any(not _shows_call(call, text) for call in message.get("tool_calls") or ()):
        yield FidelityKind.MESSAGE_DROPPED, "the chat template leaves out this message's tool_calls"
    reasoning = message.get("reasoning_content")
    if isinstance(reasoning, str) and reasoning.strip() not in text:
        yield FidelityKind.MESSAGE_DROPPED, "the chat template leaves out this message's reasoning_content"
    if escaped and any(is_marked(own) for own in strings_in(message)):
        yield FidelityKind.CONTROL_TOKEN_ESCAPED, "control-token strings in this message were encoded as text"


def _shows_call(call: Mapping[str, Any], text: str) -> bool:
    return str(call.get("function", call).get("name", "")) in text
