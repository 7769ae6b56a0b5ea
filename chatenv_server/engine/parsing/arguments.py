"""Arguments after the name of a function: one value, or keys and values with fixed text between them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

from chatenv_server.engine.parsing.cursor import Cursor, Malformed
from chatenv_server.engine.parsing.literal import Fixed, filled, has_marks, pattern_of, unmarked
from chatenv_server.engine.parsing.types import Types
from chatenv_server.engine.parsing.values import BareValues, ValueReader

_WORD_KEY, _TAG_KEY = r"[\w.$@-]+?", r"[^\n<>\"]+?"
_MOST_ENDS = 64
"""Places at which a value may end that are tried. Hostile text must not cost more."""


class Arguments(Protocol):
    """What follows the name of a function: its arguments, through what closes the call."""

    @property
    def begins(self) -> str:
        """The source of a pattern for how they begin."""

    def read(self, cursor: Cursor, name: str, types: Mapping[str, Types]) -> dict[str, Any]:
        """Step over the arguments and the call's close. Raises Malformed."""


class ObjectArguments:
    """Arguments as one value."""

    def __init__(self, lead: str, reader: ValueReader, close: str, empty: str | None, *, numbered: bool) -> None:
        """Make the patterns.

        Args:
            lead: the literal before the value.
            reader: reads the value.
            close: what closes the call.
            empty: what stands there where a call has no arguments; None where that is an empty value.
            numbered: digits in the literals count calls.
        """
        self._lead = Fixed.of(lead, numbered=numbered)
        self._reader = reader
        self._close = Fixed.of(close, numbered=numbered)
        self._empty = None if empty is None else Fixed.of(empty, numbered=numbered)
        self.begins = self._lead.pattern.pattern + r"\s*\{" + (f"|{self._empty.pattern.pattern}" if self._empty else "")

    def read(self, cursor: Cursor, name: str, types: Mapping[str, Types]) -> dict[str, Any]:  # noqa: ARG002
        """Step over the value and what closes the call."""
        after_lead = self._lead.pattern.match(cursor.text, cursor.position)
        if self._empty is not None and (after_lead is None or not cursor.text.startswith("{", after_lead.end())):
            self._empty.expect(cursor)
            return {}
        self._lead.expect(cursor)
        value = self._reader.read(cursor)
        if not isinstance(value, dict):
            raise Malformed("has arguments that are not a JSON object")
        self._close.expect(cursor)
        return value


@dataclass(frozen=True, slots=True)
class Kind:
    """How a kind of values stands among pairs: after its key, before the next key, and before the call's end."""

    after_key: str
    before_next: str
    close: str
    reader: ValueReader | None = None
    """Reads the value where it says by itself where it ends; None: it is text up to what follows it."""
    is_text: bool = False
    """Whether values of this kind are strings, and nothing else."""


class PairArguments:
    """Arguments as keys and values, one after the other, with fixed text between them."""

    def __init__(
        self, first: str, kinds: Sequence[Kind], bare: BareValues, empty: str | None, follows: str = ""
    ) -> None:
        """Make the patterns.

        Args:
            first: the literal before the first key.
            kinds: the kinds of values; the one with the longest literal after the key is tried first.
            bare: reads values that are written as text.
            empty: what stands there where a call has no arguments.
            follows: the source of a pattern for what follows the close of a call.
        """
        self._follows = follows
        self._kinds = sorted(kinds, key=lambda kind: -len(kind.after_key))
        self._bare = bare
        in_tag = not kinds[0].after_key.strip().startswith("=")
        self._key = f"(?P<key>{_TAG_KEY if in_tag else _WORD_KEY})" + self._after_key()
        self._first = re.compile(pattern_of(first) + self._key)
        self._empty = empty
        self.begins = pattern_of(first) + (f"|{pattern_of(unmarked(empty))}" if empty else "")

        self._groups: dict[str | None, tuple[Kind, re.Pattern[str] | None]] = {
            f"kind{i}": (kind, None if _repeats_names(kind) else self._ends_of(kind.before_next, kind.close, kind))
            for i, kind in enumerate(self._kinds)
        }

    def _after_key(self) -> str:
        sources = (
            f"(?P<kind{i}>{pattern_of(kind.after_key, bare_after=kind.reader is None)})"
            for i, kind in enumerate(self._kinds)
        )
        return f"(?:{'|'.join(sources)})"

    def read(self, cursor: Cursor, name: str, types: Mapping[str, Types]) -> dict[str, Any]:
        """Step over all pairs and what closes the call."""
        arguments: dict[str, Any] = {}
        empty = None if self._empty is None else _pattern_of(filled(self._empty, name))
        # A key may look like a close, but hardly the other way round.
        if empty is not None and empty.pattern and cursor.take_match(empty):
            return arguments
        found = self._first.match(cursor.text, cursor.position)
        if found is None and not (empty is not None and cursor.take_match(empty)):
            raise Malformed("has no arguments where they are due")
        while found is not None:
            key, (kind, fixed) = found["key"], self._groups[found.lastgroup]
            cursor.position = found.end()
            ends = fixed or self._ends_of(filled(kind.before_next, name, key), filled(kind.close, name, key), kind)
            arguments[key], end = self._value(cursor, kind, ends, types.get(key))
            cursor.position = end.end()
            found = end if end.lastgroup is not None else None
        return arguments

    def _value(
        self, cursor: Cursor, kind: Kind, ends: re.Pattern[str], types: Types | None
    ) -> tuple[Any, re.Match[str]]:
        """The value that begins here, and what follows it: the next key, or the close."""
        start = cursor.position
        if kind.reader is not None:
            value = kind.reader.read(cursor)
            found = ends.match(cursor.text, cursor.position)
            if found is None:
                raise Malformed("holds text that is no argument")
            return value, found
        found = cursor.search(ends, start)
        for _ in range(_MOST_ENDS):
            if found is None:
                break
            try:
                return self._text(kind, cursor.text[start : found.start()], types), found
            except Malformed:
                found = ends.search(cursor.text, found.start() + 1)
        raise Malformed("has an argument without an end")

    def _text(self, kind: Kind, text: str, types: Types | None) -> Any:
        if kind.is_text:
            return text
        if len(self._kinds) > 1:
            return self._bare.other_than_text(text)
        return self._bare.value_of(text, types)

    def _ends_of(self, before_next: str, close: str, kind: Kind) -> re.Pattern[str]:
        return _ends_of(self._key, before_next, close, self._follows, kind.reader is None)


def _repeats_names(kind: Kind) -> bool:
    return has_marks(kind.before_next) or has_marks(kind.close)


@lru_cache(maxsize=256)
def _pattern_of(literal: str) -> re.Pattern[str]:
    return re.compile(pattern_of(literal))


@lru_cache(maxsize=256)
def _ends_of(key: str, before_next: str, close: str, follows: str, bare: bool) -> re.Pattern[str]:
    following, closing = pattern_of(before_next, bare_before=bare), pattern_of(close, bare_before=bare)
    ends = f"{closing}(?={follows})" if follows else closing
    # A key may look like a close, but hardly the other way round.
    return re.compile(f"{ends}|{following}{key}" if close.strip() else f"{following}{key}|{ends}")
