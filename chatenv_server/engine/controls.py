"""Control-token strings in what callers give: found, marked before rendering, told apart afterwards.

A message that spells `<|im_end|>` must not end a turn. Marks are two rare characters around the string; templates pass
them through, and the codec encodes what stands between them as ordinary text. Agrees with transformers'
`sanitize_control_tokens`, which leaves keys alone.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from chatenv_server.engine.spellings import Spellings

# They are symbols without case that may be printed, so that Python writes them as they are where a template writes a
# list or mapping. No text in a language holds them; one that does is written with an escape.
OPEN: Final = "\U0001d200"
CLOSE: Final = "\U0001d201"
_ESCAPE: Final = "\U0001d202"
_ESCAPED: Final = {OPEN: "\U0001d203", CLOSE: "\U0001d204", _ESCAPE: "\U0001d205"}
_UNESCAPED: Final = {written: own for own, written in _ESCAPED.items()}
_TO_ESCAPE: Final = re.compile(f"[{OPEN}{CLOSE}{_ESCAPE}]")
_MARKS: Final = re.compile(f"{_ESCAPE}([{''.join(_UNESCAPED)}])|[{OPEN}{CLOSE}]")
_PIECES: Final = re.compile(f"({OPEN}[^{OPEN}{CLOSE}]*{CLOSE}|[{OPEN}{CLOSE}])")
_MARKED: Final = re.compile(f"{OPEN}([^{OPEN}{CLOSE}]*){CLOSE}")

_BY_ASCII: Final = {json.dumps(mark)[1:-1]: mark for mark in (OPEN, CLOSE, _ESCAPE, *_UNESCAPED)}
_ASCII_MARKS: Final = re.compile("|".join(map(re.escape, _BY_ASCII)))


class ControlTokens:
    """The strings that a chat template writes as control tokens. Immutable.

    Args:
        control: finds them.
        added: finds every added token of the tokenizer.
    """

    def __init__(self, control: Spellings, added: Spellings) -> None:
        self.control = control
        self._added = added

    def occur_in(self, value: Any) -> bool:
        """Whether a message, or anything made of strings, lists and mappings, holds a control-token string."""
        return any(map(self.occur_in_text, strings_in(value)))

    def occur_in_text(self, text: str) -> bool:
        """Whether one text holds a control-token string, or anything else that has to be marked."""
        return self.control.occur_in(text) or has_marks(text)

    def are_spelt_in(self, value: Any) -> bool:
        """Whether it holds a control-token string."""
        return any(map(self.control.occur_in, strings_in(value)))

    def escape(self, value: Any) -> Any:
        """A copy of `value` in which nothing is marked, and what looks like a mark is none."""
        return map_strings(value, _escape)

    def found_in(self, value: Any) -> Counter[str]:
        """The control-token strings that a value holds, each as often as it does."""
        return Counter(text[start:stop] for text in strings_in(value) for start, stop in self.control.in_(text))

    def mark(self, value: Any) -> Any:
        """A copy of `value` with every control-token string in it marked, in texts and in keys."""
        return map_strings(value, self._mark_text)

    def _mark_text(self, text: str) -> str:
        return mark_spans(text, self.control.in_(text), _escape)

    def unmarked_in(self, rendered: str) -> list[tuple[int, int]]:
        """Where a rendered text spells control tokens that are not marked, as `Spellings.in_`."""
        if not has_marks(rendered):
            return self.control.in_(rendered)
        found, position = [], 0
        for piece in _PIECES.split(rendered):
            if not self._is_marked_piece(piece):
                found += [(start + position, stop + position) for start, stop in self.control.in_(piece)]
            position += len(piece)
        return found

    def _is_marked_piece(self, piece: str) -> bool:
        return piece[:1] == OPEN and piece[-1:] == CLOSE and self._is_spelt(piece[1:-1])

    def split(self, rendered: str) -> list[tuple[str, bool]]:
        """The rendered text in pieces of (text, is_control_text), without the marks.

        A lone mark, left over where a template cut a string in two, is dropped but still parts the text.
        """
        if not has_marks(rendered):
            return [(rendered, False)]
        pieces: list[tuple[str, bool]] = []
        position = 0
        for found in _MARKED.finditer(rendered):
            # Marks may be left over from two strings, with the template's own text between them.
            if self._is_spelt(found[1]):
                pieces += _between_lone_marks(rendered[position : found.start()])
                pieces.append((found[1], True))
                position = found.end()
        pieces += _between_lone_marks(rendered[position:])
        return [piece for piece in pieces if piece[0]]

    def _is_spelt(self, text: str) -> bool:
        return text in self._added.texts or self._added.in_(text) == [(0, len(text))]


def is_marked(text: str) -> bool:
    """Whether the text holds a marked control-token string."""
    return OPEN in text


def has_marks(text: str) -> bool:
    """Whether anything in the text is marked or escaped."""
    # At once for most text: a string knows whether it holds any character as high as these.
    return OPEN in text or CLOSE in text or _ESCAPE in text


def without_marks(text: str) -> str:
    """The text as a reader sees it."""
    return _MARKS.sub(_own, text) if has_marks(text) else text


def seen_before(text: str, characters: Iterable[int]) -> list[int]:
    """For each of some characters of a marked text, how many a reader sees before it. Takes one pass for all."""
    ends, hidden = [0], [0]
    for found in _MARKS.finditer(text):
        ends.append(found.end())
        hidden.append(hidden[-1] + len(found[0]) - len(_own(found)))
    return [character - hidden[bisect_right(ends, character) - 1] for character in characters]


def unmarked_length(text: str, wanted: int) -> int:
    """How many characters of a marked text a reader sees as `wanted` characters, closing marks at the end included."""
    for found in _MARKS.finditer(text):
        if found.start() > wanted or (found.start() == wanted and found[0] != CLOSE):
            break
        wanted += len(found[0]) - len(_own(found))
    return wanted


def with_marks_as_they_are(written: str) -> str:
    """JSON text in which all letters are ASCII, but for the marks, which nothing may hide."""
    # Half of a pair of escapes never stands alone there: whatever looks like a mark is one.
    return _ASCII_MARKS.sub(lambda found: _BY_ASCII[found[0]], written)


def mark_spans(text: str, spans: Iterable[tuple[int, int]], change: Callable[[str], str] = str) -> str:
    """A text with marks around certain parts of it, and `change` applied to all parts."""
    marked, position = [], 0
    for start, stop in spans:
        marked += [change(text[position:start]), OPEN, change(text[start:stop]), CLOSE]
        position = stop
    return "".join([*marked, change(text[position:])])


def _escape(text: str) -> str:
    # A caller must be able to forge no mark.
    return _TO_ESCAPE.sub(lambda found: _ESCAPE + _ESCAPED[found[0]], text)


def _own(found: re.Match[str]) -> str:
    """What a reader sees of a mark, which is nothing, or of an escape."""
    return _UNESCAPED[found[1]] if found[1] else ""


def _between_lone_marks(text: str) -> list[tuple[str, bool]]:
    return [(without_marks(part), False) for part in re.split(f"[{OPEN}{CLOSE}]", text)]


def strings_in(value: Any) -> list[str]:
    """Every string in a structure of lists and mappings, keys of mappings included."""
    found: list[str] = []
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            found.append(item)
        elif isinstance(item, (dict, Mapping)):
            waiting += item.keys()
            waiting += item.values()
        elif isinstance(item, (list, tuple)):
            waiting += item
    return found


def map_strings(value: Any, change: Callable[[str], str]) -> Any:
    """A copy of a structure of lists and mappings with every string changed, keys of mappings included."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {map_strings(key, change): map_strings(item, change) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [map_strings(item, change) for item in value]
    return value
