"""A reading position in a text, shared by the notations of tool calls, and strict JSON."""

from __future__ import annotations

import json
import math
import re
from typing import Any

MAX_NESTING = 64
"""Levels of lists and objects in arguments. Deeper ones would exhaust the stack of what serialises them."""

_SPACE = re.compile(r"\s*")
SURROGATE = re.compile("[\ud800-\udfff]")
"""Half of a pair, which no Unicode text holds."""


class Malformed(Exception):  # noqa: N818 - a signal between a notation and its scanner, seen by nobody else
    """The text at hand is no tool call; the message completes the sentence "a tool call …"."""


class Cursor:
    """A position in `text` that only moves forward."""

    __slots__ = ("_absent", "position", "text")

    def __init__(self, text: str, position: int = 0) -> None:
        self.text = text
        self.position = position
        self._absent: tuple[re.Pattern[str], ...] = ()

    def at(self, literal: str) -> bool:
        """Whether `literal` comes next."""
        return self.text.startswith(literal, self.position)

    def take(self, literal: str) -> bool:
        """Step over `literal` if it comes next; says whether it did."""
        found = self.at(literal)
        if found:
            self.position += len(literal)
        return found

    def expect(self, literal: str) -> None:
        """Step over `literal`.

        Raises:
            Malformed: something else comes next.
        """
        if not self.take(literal):
            raise Malformed(f"has no {literal!r} where one is due")

    def match(self, pattern: re.Pattern[str], noun: str) -> str:
        """Step over what `pattern` matches here, and return it.

        Raises:
            Malformed: it does not match; the message says that there is no `noun`.
        """
        found = pattern.match(self.text, self.position)
        if found is None:
            raise Malformed(f"has no {noun} where one is due")
        self.position = found.end()
        return found.group()

    def take_match(self, pattern: re.Pattern[str]) -> bool:
        """Step over what `pattern` matches here, if it does; says whether it did."""
        found = pattern.match(self.text, self.position)
        if found is not None:
            self.position = found.end()
        return found is not None

    @property
    def at_end(self) -> bool:
        """Whether nothing comes any more."""
        return self.position == len(self.text)

    def expect_end(self) -> None:
        """Raise Malformed where something comes yet."""
        if not self.at_end:
            raise Malformed("holds text after its end")

    def search(self, pattern: re.Pattern[str], start: int) -> re.Match[str] | None:
        """The next place from `start` on that `pattern` matches. What was not found once is not looked for again."""
        if pattern in self._absent:
            return None
        found = pattern.search(self.text, start)
        if found is None:
            self._absent += (pattern,)
        return found

    def skip_space(self) -> None:
        """Step over whitespace, if any."""
        if self.text[self.position : self.position + 1].isspace():
            self.match(_SPACE, "whitespace")

    def until(self, literal: str) -> str:
        """Step over `literal`, wherever it is next, and return what stood before it.

        Raises:
            Malformed: it does not come any more.
        """
        end = self.text.find(literal, self.position)
        if end < 0:
            raise Malformed(f"has no {literal!r} where one is due")
        before = self.text[self.position : end]
        self.position = end + len(literal)
        return before

    def json(self) -> Any:
        """Step over one JSON value, whitespace around it included, and return it.

        Raises:
            Malformed: no JSON value comes next, or one that is not plain JSON (see `parse_json`).
        """
        self.skip_space()
        try:
            value, self.position = _DECODER.raw_decode(self.text, self.position)
        except (ValueError, RecursionError) as error:
            raise Malformed(f"holds JSON that cannot be read ({_reason(error)})") from None
        _require_plain(value, MAX_NESTING)
        self.skip_space()
        return value


def parse_json(text: str) -> Any:
    """`text` as one JSON value. A repeated key keeps its last value.

    Raises:
        Malformed: it is none, or holds NaN, an infinity, half a surrogate pair or too many levels.
    """
    cursor = Cursor(text)
    value = cursor.json()
    if cursor.position != len(text):
        raise Malformed("holds text after its JSON")
    return value


def _require_plain(value: Any, levels_left: int) -> None:
    if not levels_left:
        raise Malformed(f"is nested more than {MAX_NESTING} levels deep")
    if isinstance(value, str) and SURROGATE.search(value):
        raise Malformed("holds half a surrogate pair")
    if isinstance(value, float) and not math.isfinite(value):
        raise Malformed("holds a number that is not finite")
    if isinstance(value, (dict, list)):
        items = [*value, *value.values()] if isinstance(value, dict) else value
        for item in items:
            _require_plain(item, levels_left - 1)


def _reason(error: Exception) -> str:
    return error.msg if isinstance(error, json.JSONDecodeError) else "too large or too deep"


def _reject_constant(name: str) -> None:
    raise json.JSONDecodeError(f"{name} is not JSON", name, 0)


_DECODER = json.JSONDecoder(parse_constant=_reject_constant)
