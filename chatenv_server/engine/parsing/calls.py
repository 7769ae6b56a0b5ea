"""Notations of tool calls: what they share, whatever the notation.

A notation finds the spans of a text that are calls. A span that begins like a call and is none is a
problem, and stays text.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from chatenv_server.engine.parsing.cursor import Cursor, Malformed, parse_json
from chatenv_server.engine.parsing.turn import ToolCall

Reader = Callable[[Cursor], list[ToolCall]]
"""Reads what follows an opener, through its closer; raises Malformed."""


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch `text[start:end]` that is calls, or was meant to be: it has either calls or a problem."""

    start: int
    end: int
    calls: tuple[ToolCall, ...] = ()
    problem: str = ""


class Notation(Protocol):
    """A way of writing tool calls into text."""

    @property
    def name(self) -> str:
        """Its usual name."""

    def spans(self, text: str) -> list[Span]:
        """All spans in order, not overlapping; never raises."""


@dataclass(frozen=True, slots=True)
class Tagged:
    """A notation whose calls stand after an opener, and before a closer if it has one."""

    name: str
    opener: str
    closer: str
    read: Reader

    def spans(self, text: str) -> list[Span]:
        """All spans in order. A malformed one is not looked into again: hostile text must not cost more."""
        spans = []
        start = text.find(self.opener)
        while start >= 0:
            spans.append(self._span(text, start))
            start = text.find(self.opener, spans[-1].end)
        return spans

    def _span(self, text: str, start: int) -> Span:
        cursor = Cursor(text, start + len(self.opener))
        try:
            calls = self.read(cursor)
        except Malformed as malformed:
            closed = text.find(self.closer, start + len(self.opener)) if self.closer else len(text)
            if closed < 0:
                return Span(start, len(text), problem=f"a tool call is cut off before {self.closer!r}")
            return Span(start, closed + len(self.closer), problem=f"a tool call {malformed}")
        return Span(start, cursor.position, tuple(calls))


@dataclass(frozen=True, slots=True)
class Verbatim:
    """The notation of a template whose calls, if it has any, nobody here can read."""

    name: str = "verbatim"

    def spans(self, text: str) -> list[Span]:  # noqa: ARG002 - the protocol's signature
        """No text is a call."""
        return []


def read_section(cursor: Cursor, opener: str, closer: str, read_call: Callable[[Cursor], ToolCall]) -> list[ToolCall]:
    """Calls that each begin with `opener`, at least one of them, through the section's `closer`.

    Raises:
        Malformed: one of them is no call, or something else stands between them.
    """
    calls: list[ToolCall] = []
    while not calls or not cursor.take(closer):
        cursor.skip_space()
        cursor.expect(opener)
        calls.append(read_call(cursor))
        cursor.skip_space()
    return calls


def function_call(name: Any, arguments: Any, call_id: str | None = None) -> ToolCall:
    """A call in Hugging Face form. Arguments may be an object, or the JSON text of one.

    Raises:
        Malformed: the name is not a non-empty string, or the arguments are not an object.
    """
    if not isinstance(name, str) or not name:
        raise Malformed("has no function name")
    if isinstance(arguments, str):
        arguments = parse_json(arguments)
    if not isinstance(arguments, dict):
        raise Malformed("has arguments that are not a JSON object")
    call = {"type": "function", "function": {"name": name, "arguments": arguments}}
    return call if call_id is None else {"id": call_id, **call}


_NAME_KEYS = ("name", "tool_name")
_ARGUMENT_KEYS = ("arguments", "parameters")
_ID_KEYS = ("id", "tool_call_id")


def call_from_json(value: Any) -> ToolCall:
    """A call from an object such as `{"name": …, "arguments": {…}, "id": …}`.

    Raises:
        Malformed: it is no such object, or has a key that no message could keep.
    """
    if not isinstance(value, dict):
        raise Malformed("is not a JSON object")
    rest = {key: item for key, item in value.items() if (key, item) != ("type", "function")}
    name = _take(rest, _NAME_KEYS)
    arguments = _take(rest, _ARGUMENT_KEYS)
    call_id = _take(rest, _ID_KEYS)
    if call_id is not None and not isinstance(call_id, str):
        raise Malformed("has an id that is not a string")
    if rest:
        raise Malformed(f"has an unknown key {next(iter(rest))!r}")
    return function_call(name, arguments, call_id)


def calls_from_json(value: Any) -> list[ToolCall]:
    """The calls of one object or of a list of them.

    Raises:
        Malformed: as `call_from_json`; and the list is empty.
    """
    if not isinstance(value, list):
        return [call_from_json(value)]
    if not value:
        raise Malformed("names no function")
    return [call_from_json(item) for item in value]


def _take(mapping: dict[str, Any], keys: tuple[str, ...]) -> Any:
    return next((mapping.pop(key) for key in keys if key in mapping), None)
