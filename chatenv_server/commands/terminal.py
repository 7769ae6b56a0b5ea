"""What a terminal can show: colours where it has some and nobody minds, and lines of its width.

Where output goes into a pipe or a file, texts stay as they are: no colours, and no line is wrapped.
"""

from __future__ import annotations

import os
import shutil
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple, TextIO

_STYLES: Final = {
    "bold": "1",
    "soft": "2",
    "red": "31",
    "green": "32",
    "yellow": "33",
    "blue": "34",
    "violet": "35",
    "orange": "38;5;208",
}
_NARROWEST: Final = 20
"""Columns that are filled, however narrow the terminal is."""


class Cell(NamedTuple):
    """A stretch of text that is not parted."""

    text: str
    """Printable, without a line break."""
    style: str = ""
    """Names of styles, with spaces between."""


class Terminal(NamedTuple):
    """Where a command's output goes."""

    has_colour: bool = False
    width: int | None = None
    """Columns; None: it is no terminal, and nothing is wrapped."""

    @classmethod
    def of(cls, stream: TextIO) -> Terminal:
        """That of a stream. NO_COLOR (https://no-color.org), and TERM=dumb, turn colours off."""
        if not stream.isatty():
            return cls()
        has_colour = not os.environ.get("NO_COLOR") and os.environ.get("TERM", "") not in ("", "dumb")
        return cls(has_colour, shutil.get_terminal_size().columns)

    def paint(self, text: str, style: str) -> str:
        """The text in a style, where there are colours."""
        if not (self.has_colour and style and text):
            return text
        codes = ";".join(_STYLES[name] for name in style.split())
        return f"\x1b[{codes}m{text}\x1b[0m"

    def flow(self, cells: Iterable[Cell], *, indent: str = "") -> Iterator[str]:
        """Cells side by side, with a space between, in as many lines as the width asks for."""
        room = None if self.width is None else self._room - columns(indent)
        line: list[Cell] = []
        taken = 0
        for cell in cells:
            needed = columns(cell.text) + bool(line)
            if line and room is not None and taken + needed > room:
                yield indent + self._painted(line)
                line, taken, needed = [], 0, columns(cell.text)
            line.append(cell)
            taken += needed
        if line:
            yield indent + self._painted(line)

    @property
    def _room(self) -> int:
        return max(_NARROWEST, self.width or 0)

    def _painted(self, cells: Iterable[Cell]) -> str:
        return " ".join(self.paint(cell.text, cell.style) for cell in cells)

    def wrapped(self, text: str, *, lead: str = "", indent: str = "    ") -> Iterator[str]:
        """A text in lines of the width; those after the first begin with an indent.

        Args:
            text: printable; line breaks are kept.
            lead: what stands before it, unpainted; its width counts on the first line.
            indent: see above.
        """
        if self.width is None:
            yield from text.split("\n")
            return
        first = columns(lead)
        for line in text.split("\n"):
            yield from self._lines_of(line, first, indent)
            first = -1

    def _lines_of(self, line: str, first: int, indent: str) -> Iterator[str]:
        """One line of a text as several. `first`: columns that are taken already; -1: it is not the first."""
        start = "" if first >= 0 else indent
        taken = first if first >= 0 else columns(indent)
        made = ""
        for word in _words(line, self._room - columns(indent)):
            needed = columns(word.rstrip(" "))
            if taken > columns(start) and taken + needed > self._room:
                yield start + made.rstrip(" ")
                start, made, taken = indent, "", columns(indent)
                word = word.lstrip(" ")  # noqa: PLW2901 - the space that the break takes the place of
            made += word
            taken += columns(word)
        yield start + made.rstrip(" ")


def _words(line: str, longest: int) -> Iterator[str]:
    """A line in pieces: words with the spaces after them, and of words that are too long as much as fits."""
    piece, width = "", 0
    for before, one in zip(f"\0{line}", line, strict=False):
        if piece and ((before == " " and one != " ") or width + columns(one) > longest):
            yield piece
            piece, width = "", 0
        piece += one
        width += columns(one)
    if piece:
        yield piece


def columns(text: str) -> int:
    """Columns that a printable text takes: two for a wide character, none for one that stands on another."""
    if text.isascii():
        return len(text)
    return sum(2 if unicodedata.east_asian_width(one) in "WF" else not unicodedata.combining(one) for one in text)
