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
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from chatenv_client.errors import TemplateRejectedError
from chatenv_server.engine.codec import shared_prefix_length
from chatenv_server.engine.controls import strings_in
from chatenv_server.engine.forms import texts_of, with_text
from chatenv_server.engine.probe_messages import unlike
from chatenv_server.engine.searches import Searches

_SHORTEST_SAFE_TEXT = 4
_STAND_IN = "qx8wj5tm"


class Place(NamedTuple):
    """Where one message's text stands. `start == stop` where it has none."""

    start: int
    stop: int
    altered: bool = False
    dropped: bool = False
    elsewhere: bool = False
    """It stands out of order, so it has no place between its neighbours."""

    def moved(self, distance: int) -> Place:
        """The same place counted from `distance` characters further on."""
        return self._replace(start=max(0, self.start - distance), stop=max(0, self.stop - distance))


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
    return _compare(text, frame, name, messages)


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
    searches = Searches(text)
    for message in messages:
        own = "".join(texts_of(message)).strip()
        found = searches.find(own, position)
        if found < 0:
            elsewhere = searches.holds(own)
            places.append(Place(position, position, dropped=not elsewhere, elsewhere=elsewhere))
        else:
            places.append(Place(found, found + len(own)))
            position = found + len(own)
    return places


def _compare(text: str, frame: str, name: str, messages: Sequence[Mapping[str, Any]]) -> list[Place]:
    """Walk through the frame, a render with stand-ins for texts, and see what stands in their places."""
    # In any case: some templates write texts in capitals.
    found = [(int(one[1]), one.span()) for one in re.finditer(f"{name}([0-9]{{1,9}})e", frame, re.IGNORECASE)]
    in_order = _longest_rise([index for index, _ in found])
    standing: dict[int, Place] = {}
    elsewhere: dict[int, bool] = {}
    """Of messages that stand out of order, whether they are altered."""
    position = 0
    searches = Searches(text)
    edges = [0, *(edge for _, span in found for edge in span), len(frame)]
    gaps = [frame[start:stop] for start, stop in zip(edges[::2], edges[1::2], strict=True)]
    for place, ((index, _), gap, following) in enumerate(zip(found, gaps, gaps[1:], strict=False)):
        own = "".join(texts_of(messages[index]))
        start = _skip(text, position, gap, searches)
        written = _written_form(text, start, own, following)
        position = start + len(written or "")
        altered = written is None or not _same(written, own)
        if place in in_order:
            standing[index] = Place(start, position, altered=altered)
        else:
            elsewhere.setdefault(index, altered)
    return list(_in_turn(messages, standing, elsewhere))


def _in_turn(
    messages: Sequence[Mapping[str, Any]], standing: Mapping[int, Place], elsewhere: Mapping[int, bool]
) -> Iterator[Place]:
    """The place of each message: where it stands, or after the message before it."""
    position = 0
    for index, message in enumerate(messages):
        if index in standing:
            position = standing[index].stop
            yield standing[index]
        elif index in elsewhere:
            yield Place(position, position, altered=elsewhere[index], elsewhere=True)
        else:
            yield Place(position, position, dropped=bool("".join(texts_of(message)).strip()))


def _longest_rise(numbers: Sequence[int]) -> set[int]:
    """Where the numbers of a longest strictly rising part of a sequence stand (patience sorting)."""
    ends: list[int] = []
    places: list[int] = []
    before: list[int] = []
    for place, number in enumerate(numbers):
        length = bisect_left(ends, number)
        before.append(places[length - 1] if length else -1)
        ends[length : length + 1], places[length : length + 1] = [number], [place]
    rise: set[int] = set()
    place = places[-1] if places else -1
    while place >= 0:
        rise.add(place)
        place = before[place]
    return rise


def _skip(text: str, position: int, gap: str, searches: Searches) -> int:
    """After `gap` in the text; where the two differ, after the first later place where the gap's end stands.

    Where that stands nowhere, after what the two have in common: the close of the turn before is a part of it.
    """
    if text.startswith(gap, position):
        return position + len(gap)
    found = searches.find(gap[-12:], position)
    if found >= 0:
        return found + len(gap[-12:])
    return position + shared_prefix_length(text[position : position + len(gap)], gap)


def _written_form(text: str, start: int, own: str, gap: str) -> str | None:
    """How the template wrote a text: verbatim, as JSON, or trimmed; None where it is none of these."""
    for form in _forms(own):
        if text.startswith(form, start) and text.startswith(gap, start + len(form)):
            return form
    return None


def _forms(own: str) -> Iterator[str]:
    yield own
    yield json.dumps(own, ensure_ascii=False)[1:-1]
    yield json.dumps(own)[1:-1]
    yield from (own.rstrip(), own.lstrip(), own.strip())


def _same(written: str, own: str) -> bool:
    return written == own or own in (_unjson(written), written)


def _unjson(text: str) -> str:
    try:
        return str(json.loads(f'"{text}"'))
    except ValueError:
        return text
