"""Where a rendered text holds the messages it was rendered from, and which it altered or left out.

A message is looked for by its own text. Where that text is so plain that the template could have written it, or is
not found as it was given, the tail is rendered once more with sentinels in place of the texts, and the two renders
are compared.
"""

from __future__ import annotations

import itertools
import json
import re
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from chatenv_client.errors import TemplateRejectedError
from chatenv_server.engine.controls import strings_in
from chatenv_server.engine.forms import texts_of, with_text
from chatenv_server.engine.probe_messages import unlike

_SHORTEST_SAFE_TEXT = 4
_STAND_IN = "qx8wj5tm"


class Place(NamedTuple):
    """Where one message's text stands. `start == stop` where it has none."""

    start: int
    stop: int
    altered: bool = False
    dropped: bool = False

    def moved(self, distance: int) -> Place:
        """The same place counted from `distance` characters further on."""
        return Place(max(0, self.start - distance), max(0, self.stop - distance), self.altered, self.dropped)


def locate(
    text: str,
    messages: Sequence[Mapping[str, Any]],
    render: Callable[[Sequence[Mapping[str, Any]]], str],
    literal_text: str,
) -> list[Place]:
    """Find each message in `text`, in order.

    Args:
        text: what was rendered.
        messages: in the template's form, marks included.
        render: renders other messages in the place of these.
        literal_text: what the template can write by itself.
    """
    places = _find_plainly(text, messages, literal_text)
    if places is not None:
        return places
    name = unlike(_STAND_IN, (own.lower() for own in strings_in(messages)))
    stand_ins = [
        with_text(message, f"{name}{index}e") if texts_of(message) else message
        for index, message in enumerate(messages)
    ]
    try:
        frame = render(stand_ins)
    except TemplateRejectedError:
        return _find_roughly(text, messages)
    return _compare(text, _Frame(frame, name), messages)


class _Frame:
    """A render with stand-ins for texts, read from left to right."""

    def __init__(self, text: str, name: str) -> None:
        self._text = text
        # In any case: some templates write texts in capitals.
        found = re.finditer(f"{name}([0-9]{{1,9}})e", text, re.IGNORECASE)
        self._stand_ins = [(int(one[1]), one.start(), one.end()) for one in found]
        self._starts: dict[int, list[int]] = {}
        """Where in that list each message's stand-ins are."""
        for place, (index, _, _) in enumerate(self._stand_ins):
            self._starts.setdefault(index, []).append(place)
        self._next = 0
        self._position = 0

    def before(self, index: int) -> str | None:
        """What it has up to a message's stand-in, to read on after that; None where there is none."""
        places = self._starts.get(index, [])
        later = bisect_left(places, self._next)
        if later == len(places):
            return None
        _, start, stop = self._stand_ins[places[later]]
        gap = self._text[self._position : start]
        self._position, self._next = stop, places[later] + 1
        return gap

    def up_to_later_than(self, index: int) -> str:
        """What follows, up to the next stand-in for a later message."""
        followers = itertools.islice(self._stand_ins, self._next, None)
        stop = next((start for other, start, _ in followers if other > index), len(self._text))
        return self._text[self._position : stop]


def _find_plainly(text: str, messages: Sequence[Mapping[str, Any]], literal_text: str) -> list[Place] | None:
    """All messages verbatim and in order; None where one is not, or could be something else's text."""
    places = []
    found_texts: list[tuple[str, int]] = []
    position = 0
    for message in messages:
        start: int | None = None
        for own in texts_of(message):
            bare = own.strip()
            if len(bare) < _SHORTEST_SAFE_TEXT or bare in literal_text:
                return None
            found = text.find(own, position)
            if found < 0:
                return None
            start = found if start is None else start
            position = found + len(own)
            found_texts.append((bare, position - len(own.lstrip())))
        places.append(Place(position if start is None else start, position))
    return None if _any_again(text, found_texts) else places


def _any_again(text: str, found: Sequence[tuple[str, int]]) -> bool:
    """Whether one of the texts that were found stands once more before the next one, and so may have its place there.

    What a template writes of several pieces may spell a message's text: `<|im_end|>`, a newline and `<|im_start|>` hold
    `_end|>`, a newline and `<`. Looked for up to the next text alone, this takes linear time; the last text that was
    found in a wrong place has its true place before the next.
    """
    for (bare, start), follower in itertools.zip_longest(found, found[1:]):
        end = len(text) if follower is None else follower[1]
        if text.find(bare, start + 1, end) >= 0:
            return True
    return False


def _find_roughly(text: str, messages: Sequence[Mapping[str, Any]]) -> list[Place]:
    places = []
    position = 0
    for message in messages:
        own = "".join(texts_of(message)).strip()
        found = text.find(own, position)
        if found < 0:
            places.append(Place(position, position, dropped=True))
        else:
            places.append(Place(found, found + len(own)))
            position = found + len(own)
    return places


def _compare(text: str, frame: _Frame, messages: Sequence[Mapping[str, Any]]) -> list[Place]:
    """Walk through the frame and see what stands in the stand-ins' places."""
    places = []
    position = 0
    for index, message in enumerate(messages):
        if not texts_of(message):
            places.append(Place(position, position))
            continue
        own = "".join(texts_of(message))
        gap = frame.before(index)
        if gap is None:
            places.append(Place(position, position, dropped=bool(own.strip())))
            continue
        start = _skip(text, position, gap)
        written = _written_form(text, start, own, frame.up_to_later_than(index))
        position = start + len(written if written is not None else "")
        places.append(Place(start, position, altered=written is None or not _same(written, own)))
    return places


def _skip(text: str, position: int, gap: str) -> int:
    """After `gap` in the text; where the two differ, after the first later place where the gap's end stands."""
    if text.startswith(gap, position):
        return position + len(gap)
    found = text.find(gap[-12:], position)
    return position if found < 0 else found + len(gap[-12:])


def _written_form(text: str, start: int, own: str, gap: str) -> str | None:
    """How the template wrote a text: verbatim, as JSON, or trimmed; None where it is none of these."""
    as_json = json.dumps(own, ensure_ascii=False)[1:-1]
    as_ascii_json = json.dumps(own)[1:-1]
    for form in (own, as_json, as_ascii_json, own.rstrip(), own.lstrip(), own.strip()):
        if text.startswith(form, start) and text.startswith(gap, start + len(form)):
            return form
    return None


def _same(written: str, own: str) -> bool:
    return written == own or own in (_unjson(written), written)


def _unjson(text: str) -> str:
    try:
        return str(json.loads(f'"{text}"'))
    except ValueError:
        return text
