"""Values of arguments as a template writes them: JSON, literals like Python's, and bare text that a schema types.

Induction (`induce_arguments.py`) finds out which of them a template uses, and with which quotes and words.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from chatenv_server.engine.parsing.cursor import MAX_NESTING, SURROGATE, Cursor, Malformed, parse_json
from chatenv_server.engine.parsing.types import Types, fits

_QUOTED = {quote: re.compile(rf"{quote}(?:[^{quote}\\]|\\.)*{quote}", re.DOTALL) for quote in ("'", '"')}
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|.)", re.DOTALL)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "\\": "\\", "'": "'", '"': '"', "/": "/", "\n": ""}
_SCALAR = re.compile(r"[^\s,\[\]{}():'\"<>]+")
_BARE_KEY = re.compile(r"[^:{}\[\],<>'\"]+")
_WORDS = {"True": True, "False": False, "None": None, "true": True, "false": False, "null": None}


class ValueReader(Protocol):
    """A way of writing values that says by itself where a value ends and of which type it is."""

    def read(self, cursor: Cursor) -> Any:
        """Step over one value and return it. Raises Malformed."""


@dataclass(frozen=True, slots=True)
class Json:
    """Values as JSON, however it is spaced."""

    def read(self, cursor: Cursor) -> Any:
        """Step over one value and the white space around it."""
        return cursor.json()


@dataclass(frozen=True, slots=True)
class Literals:
    """Values like Python's: quoted strings, bare words and numbers, lists and objects."""

    quote: str = ""
    """What stands on either side of a string that is written without escapes; empty: `'` or `"`, with escapes."""
    bare_keys: bool = False
    """Whether the keys of objects stand without quotes."""

    def read(self, cursor: Cursor) -> Any:
        """Step over one value."""
        return self._value(cursor, MAX_NESTING)

    def _value(self, cursor: Cursor, levels_left: int) -> Any:
        if not levels_left:
            raise Malformed(f"is nested more than {MAX_NESTING} levels deep")
        if self._at_string(cursor):
            return self._string(cursor)
        begun = cursor.text[cursor.position : cursor.position + 1]
        if begun == "{":
            return self._object(cursor, levels_left - 1)
        if begun == "[":
            return self._list(cursor, levels_left - 1)
        scalar = cursor.match(_SCALAR, "value")
        return _WORDS[scalar] if scalar in _WORDS else parse_json(scalar)

    def _at_string(self, cursor: Cursor) -> bool:
        return cursor.at(self.quote) if self.quote else cursor.at("'") or cursor.at('"')

    def _string(self, cursor: Cursor) -> str:
        if self.quote:
            cursor.expect(self.quote)
            return cursor.until(self.quote)
        quote = cursor.text[cursor.position]
        return unescaped(cursor.match(_QUOTED[quote], "end of its string")[1:-1])

    def _key(self, cursor: Cursor) -> str:
        if self.bare_keys and not self._at_string(cursor):
            return cursor.match(_BARE_KEY, "key")
        if not self._at_string(cursor):
            raise Malformed("has a key that is not a string")
        return self._string(cursor)

    def _object(self, cursor: Cursor, levels_left: int) -> dict[str, Any]:
        items: dict[str, Any] = {}
        cursor.expect("{")
        cursor.skip_space()
        while not cursor.take("}"):
            if items:
                self._next_item(cursor)
            key = self._key(cursor)
            cursor.skip_space()
            cursor.expect(":")
            cursor.skip_space()
            items[key] = self._value(cursor, levels_left)
            cursor.skip_space()
        return items

    def _list(self, cursor: Cursor, levels_left: int) -> list[Any]:
        items: list[Any] = []
        cursor.expect("[")
        cursor.skip_space()
        while not cursor.take("]"):
            if items:
                self._next_item(cursor)
            items.append(self._value(cursor, levels_left))
            cursor.skip_space()
        return items

    def _next_item(self, cursor: Cursor) -> None:
        cursor.expect(",")
        cursor.skip_space()


def unescaped(text: str) -> str:
    """A text without the escapes of Python and JSON. Raises Malformed for half a surrogate pair."""
    plain = _ESCAPE.sub(_unescape, text)
    if SURROGATE.search(plain):
        try:
            return plain.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            raise Malformed("holds half a surrogate pair") from None
    return plain


def _unescape(found: re.Match[str]) -> str:
    code = found.group(1)
    if len(code) > 1:
        point = int(code[1:], 16)
        return chr(point) if point <= 0x10FFFF else found.group()
    return _ESCAPED.get(code, found.group())


@dataclass(frozen=True, slots=True)
class BareValues:
    """Values that are written as text between two delimiters, strings as they are.

    What the schema leaves open becomes a number or constant only if that would be written the same way again, and is
    a string otherwise. So writing the arguments anew gives the text back, whichever type the model had in mind.
    """

    words: Mapping[str, Any] = field(default_factory=dict)
    """The constants, by how the template writes them."""
    containers: tuple[ValueReader, ...] = (Json(),)
    """How it writes lists and objects."""

    def value_of(self, text: str, types: Types | None) -> Any:
        """The value of `text`, which may have one of `types`; None: of any."""
        if types is None:
            return self._guess(text)
        if types == {"string"}:
            return text
        if "string" in types:
            guess = self._guess(text)
            return guess if fits(guess, types) else text
        for value in self._readings(text):
            if fits(value, types):
                return value
        return text

    def other_than_text(self, text: str) -> Any:
        """The value of `text`, which is written as strings are not. Raises Malformed."""
        try:
            return next(self._readings(text))
        except StopIteration:
            raise Malformed("has an argument that cannot be read") from None

    def _guess(self, text: str) -> Any:
        if text in self.words:
            return self.words[text]
        if text[:1] in ("[", "{"):
            return next((value for value in _values(text, self.containers) if self._may_write(value, text)), text)
        try:
            value = parse_json(text)
        except Malformed:
            return text
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return value if is_number and json.dumps(value) == text else text

    def _may_write(self, value: Any, text: str) -> bool:
        """Whether a list or an object may be written so. JSON may be spaced in any way, Python's text in one."""
        return any(isinstance(reader, Json) for reader in self.containers) or repr(value) == text

    def _readings(self, text: str) -> Iterator[Any]:
        """What the text may be, the likeliest first."""
        bare = text.strip()
        if bare in self.words:
            yield self.words[bare]
        yield from _values(bare, (*self.containers, Json(), Literals()))
        if bare in _WORDS:
            yield _WORDS[bare]


def _values(text: str, readers: Iterable[ValueReader]) -> Iterator[Any]:
    """What the whole of `text` is to each of the readers that can read it."""
    for reader in readers:
        cursor = Cursor(text)
        try:
            value = reader.read(cursor)
        except Malformed:
            continue
        if cursor.at_end:
            yield value
