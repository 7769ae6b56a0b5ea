"""What a template did to given messages: left them out, changed their texts, dropped their calls.

Told from a render and the places that the messages have in it (`locate.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet

from chatenv_client.models import FidelityKind, FidelityReport
from chatenv_server.engine.controls import is_marked, strings_in
from chatenv_server.engine.forms import PreparedMessage
from chatenv_server.engine.locate import Place
from chatenv_server.engine.searches import Searches


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
    held = _held(prepared, places, text)
    return [
        FidelityReport(kind, detail, message_index=index)
        for index, (message, place) in enumerate(zip(prepared, places, strict=True), start=first)
        for kind, detail in _faults(message, place, held, escaped)
    ]


def _faults(
    message: PreparedMessage, place: Place, held: AbstractSet[str], escaped: bool
) -> Iterator[tuple[FidelityKind, str]]:
    if place.dropped:
        yield FidelityKind.MESSAGE_DROPPED, "the chat template leaves this message out"
    elif place.altered:
        yield FidelityKind.CONTENT_ALTERED, "the chat template changes this message's text"
    if not held >= {*_names_in(message)}:
        yield FidelityKind.MESSAGE_DROPPED, "the chat template leaves out this message's tool_calls"
    if not held >= {*_thoughts_in(message)}:
        yield FidelityKind.MESSAGE_DROPPED, "the chat template leaves out this message's reasoning_content"
    if escaped and any(is_marked(own) for own in strings_in(message)):
        yield FidelityKind.CONTROL_TOKEN_ESCAPED, "control-token strings in this message were encoded as text"


def _names_in(message: PreparedMessage) -> list[str]:
    """What shows that its calls are there."""
    return [str(call.get("function", call).get("name", "")) for call in message.get("tool_calls") or ()]


def _thoughts_in(message: PreparedMessage) -> list[str]:
    reasoning = message.get("reasoning_content")
    return [reasoning.strip()] if isinstance(reasoning, str) else []


def _held(prepared: Sequence[PreparedMessage], places: Sequence[Place], text: str) -> frozenset[str]:
    """The names of calls and the thoughts that stand in the render.

    Each is looked for between its message's neighbours first, and only then everywhere.
    """
    searches = Searches(text)
    held: set[str] = set()
    missing: dict[str, None] = {}
    position = 0
    for message, (start, stop) in zip(prepared, _surroundings(places, len(text)), strict=True):
        first = position = max(position, start)
        for strings in (_names_in(message), _thoughts_in(message)):
            after = first
            for own in strings:
                if own in held:
                    continue
                found = searches.find(own, after, stop)
                if found < 0:
                    missing[own] = None
                else:
                    held.add(own)
                    after = found + len(own)
            position = max(position, after)
    held.update(own for own in missing if own not in held and searches.holds(own))
    return frozenset(held)


def _surroundings(places: Sequence[Place], length: int) -> list[tuple[int, int]]:
    """What lies between the texts of each message's neighbours, in a render of a certain length."""
    starts = [0, *(place.stop for place in places)]
    stops = [length]
    for place in reversed(places):
        stops.append(place.start if place.start < place.stop else stops[-1])
    return [*zip(starts, reversed(stops[:-1]), strict=False)]
