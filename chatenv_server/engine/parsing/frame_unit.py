"""A call as fixed text with slots in it: for the name of the function, perhaps for an id, then the arguments."""

from __future__ import annotations

import re
from collections.abc import Sequence

from chatenv_server.engine.parsing.arguments import Arguments
from chatenv_server.engine.parsing.calls import function_call
from chatenv_server.engine.parsing.cursor import Cursor, Malformed
from chatenv_server.engine.parsing.literal import pattern_of
from chatenv_server.engine.parsing.turn import ToolCall
from chatenv_server.engine.parsing.types import ToolTypes

_EDGE = r"[^\s<>{}\[\]()\"'|,=]"
_NAME = rf"{_EDGE}(?:[^\n<>{{}}\[\]()\"'|,=]*?{_EDGE})??"
_ID = r"[^\s<>{}\[\]\"']+?"
_IN_WORD = r"[^\s<>|\[\]{}()\"']*"
_WORD_BEFORE, _WORD_AFTER = re.compile(rf"{_IN_WORD}\Z"), re.compile(_IN_WORD)
_LONGEST_WORD = 256
_NAMING_ID = re.compile(r"(?:functions\.)?(?P<name>.+?)(?::\d+)?")


class FrameUnit:
    """A call as fixed text with slots in it."""

    def __init__(self, slots: Sequence[tuple[str, str]], arguments: Arguments, *, numbered: bool) -> None:
        """Make the patterns.

        Args:
            slots: what stands in each slot, `name` or `id`, and the literal before it.
            arguments: what follows the last slot.
            numbered: digits in the frame count calls.
        """
        self._arguments = arguments
        self._numbered = numbered
        self._slots = tuple(slot for slot, _ in slots)
        self.writes_ids = numbered or "id" in self._slots
        """Whether an id stands in each call."""
        source = ""
        for slot, literal in slots:
            source += (
                r"\s+" if literal.isspace() else pattern_of(literal, numbered=numbered)
            ) + f"(?P<{slot}>{_NAME if slot == 'name' else _ID})"
        self.looks = rf"{source}(?={arguments.begins})"
        """The source of a pattern for how a call begins."""
        self._begins = re.compile(self.looks)

    def read(self, cursor: Cursor, types: ToolTypes) -> list[ToolCall]:
        """Step over a call and what closes it."""
        found = self._begins.match(cursor.text, cursor.position)
        if found is None:
            raise Malformed("has no function name where one is due")
        cursor.position = found.end()
        call_id = found["id"] if "id" in self._slots else None
        name = found["name"] if "name" in self._slots else _named_by(found["id"])
        if self._numbered:
            call_id = self._number(cursor.text, found)
        arguments = self._arguments.read(cursor, name, types.get(name, {}))
        return [function_call(name, arguments, call_id)]

    def _number(self, text: str, found: re.Match[str]) -> str:
        """The word that a counted name stands in, such as `functions.lookup:0`."""
        start, end = found.span("name")
        before = _WORD_BEFORE.search(text, max(start - _LONGEST_WORD, 0), start)
        after = _WORD_AFTER.match(text, end)
        return (before.group() if before else "") + found["name"] + (after.group() if after else "")


def _named_by(call_id: str) -> str:
    """The function that an id names where no name is written; an id of another form is the name."""
    found = _NAMING_ID.fullmatch(call_id)
    return found["name"] if found else call_id
