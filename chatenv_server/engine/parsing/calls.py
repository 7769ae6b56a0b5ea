"""Calls in a text: where they stand, and what of a text was meant to be one.

A notation finds the spans of a text that are calls. A span that begins like a call and is none is a problem, and stays
text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final, Protocol

from chatenv_server.engine.parsing.cursor import Cursor, Malformed, parse_json
from chatenv_server.engine.parsing.literal import Fixed
from chatenv_server.engine.parsing.turn import ToolCall
from chatenv_server.engine.parsing.types import ToolTypes

VERBATIM: Final = "verbatim"
"""Name of the notation of a template whose calls cannot be read."""


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
        """What it is like: `json`, `tagged`, ..."""

    @property
    def writes_ids(self) -> bool:
        """Whether ids of calls stand in turns."""

    def spans(self, text: str, types: ToolTypes) -> list[Span]:
        """All spans in order, not overlapping; never raises."""


class Unit(Protocol):
    """One call, or one list of calls, with what closes it."""

    @property
    def writes_ids(self) -> bool:
        """Whether an id stands in each call."""

    def read(self, cursor: Cursor, types: ToolTypes) -> list[ToolCall]:
        """Step over a unit, its close included. Raises Malformed."""


@dataclass(frozen=True, slots=True)
class Verbatim:
    """The notation of a template whose calls, if it has any, cannot be read."""

    name: str = VERBATIM
    writes_ids: bool = False

    def spans(self, text: str, types: ToolTypes) -> list[Span]:  # noqa: ARG002 - the protocol's signature
        """No text is a call."""
        return []


@dataclass(frozen=True, slots=True)
class Section:
    """Units between what opens them and what closes them, one after the other."""

    before: Fixed
    """What stands before the first unit."""
    between: Fixed | None
    """What stands between two units; None where each is a section of its own."""
    after: Fixed
    """What stands after the last unit."""

    def read(self, unit: Unit, cursor: Cursor, types: ToolTypes) -> list[ToolCall]:
        """Step over a section, and return its calls. Raises Malformed."""
        self.before.expect(cursor)
        calls = unit.read(cursor, types)
        while self.between is not None and not self._ends(cursor) and cursor.take_match(self.between.pattern):
            calls += unit.read(cursor, types)
        self.after.expect(cursor)
        return calls

    def _ends(self, cursor: Cursor) -> bool:
        found = self.after.pattern.match(cursor.text, cursor.position)
        return found is not None and (found.end() > cursor.position or cursor.at_end)


@dataclass(frozen=True, slots=True)
class MarkedCalls:
    """Calls that a literal announces which is found nowhere else, wherever in the text it stands."""

    name: str
    opener: str
    closer: str
    """Text through which a malformed span reaches; empty: to the end."""
    section: Section
    unit: Unit

    @property
    def writes_ids(self) -> bool:
        """Whether ids of calls stand in turns."""
        return self.unit.writes_ids

    def spans(self, text: str, types: ToolTypes) -> list[Span]:
        """All spans in order. A malformed one is not looked into again: hostile text must not cost more."""
        start = text.find(self.opener)
        if start < 0:
            return []
        spans = []
        cursor = Cursor(text)
        while start >= 0:
            cursor.position = start
            spans.append(self._span(cursor, types))
            start = text.find(self.opener, max(spans[-1].end, start + 1))
        return spans

    def _span(self, cursor: Cursor, types: ToolTypes) -> Span:
        text, start = cursor.text, cursor.position
        try:
            calls = self.section.read(self.unit, cursor, types)
        except Malformed as malformed:
            inside = start + len(self.opener)
            closed = text.find(self.closer, inside) if self.closer else len(text)
            if closed < 0:
                return Span(start, len(text), problem=f"a tool call is cut off before {self.closer!r}")
            return Span(start, closed + len(self.closer), problem=f"a tool call {malformed}")
        return Span(start, cursor.position, tuple(calls))


@dataclass(frozen=True, slots=True)
class UnmarkedCalls:
    """Calls that nothing announces but how they begin.

    Where the template writes no text beside calls, a turn is calls, all of it, or none of it is.
    """

    name: str
    begins: re.Pattern[str]
    section: Section
    unit: Unit
    beside_text: bool
    """Whether a text may stand before and after the calls."""

    @property
    def writes_ids(self) -> bool:
        """Whether ids of calls stand in turns."""
        return self.unit.writes_ids

    def spans(self, text: str, types: ToolTypes) -> list[Span]:
        """All spans in order; what only begins like a call is one with a problem."""
        lead = _LEAD.match(text)
        begin = self.begins.match(text, lead.end() if lead else 0)
        if begin is None and self.beside_text:
            begin = self.begins.search(text)
        if begin is None:
            return []
        start = begin.start() if self.beside_text else 0
        cursor = Cursor(text, begin.start())
        try:
            calls = self.section.read(self.unit, cursor, types)
            end = cursor.position
            cursor.skip_space()
            if not self.beside_text:
                cursor.expect_end()
        except NoCall:
            return []
        except Malformed as malformed:
            return [Span(start, len(text), problem=f"a tool call {malformed}")]
        return [Span(start, len(text) if cursor.at_end else end, tuple(calls))]


_LEAD = re.compile(r"\s*(?:<[^<>]*>\s*)?")
"""White space and a tag that models write before a call that has no announcement of its own."""


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


class NoCall(Malformed):
    """A well-formed value that is not meant as a call: it has no arguments."""
