"""Induces how a template writes arguments after the name of a function: as one value, or as keys and values."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

from chatenv_server.engine.parsing import probes
from chatenv_server.engine.parsing.arguments import Arguments, Kind, ObjectArguments, PairArguments
from chatenv_server.engine.parsing.cursor import Cursor, Malformed
from chatenv_server.engine.parsing.evidence import Evidence
from chatenv_server.engine.parsing.literal import pattern_of, with_marks
from chatenv_server.engine.parsing.surroundings import Parts, is_telling, parts_after
from chatenv_server.engine.parsing.values import BareValues, Json, Literals, ValueReader

_KEY, _NEXT_KEY = probes.KEYS
_VALUE, _NEXT_VALUE = probes.VALUES
_NAME = probes.NAMES[0]
_ONE = {_KEY: _VALUE}
Second = tuple[str, str, int]
"""The last text of the first call, a turn of two calls, and where the first slot of its second call begins."""


def arguments_after(
    evidence: Evidence, turn: str, end: int, second: Second | None, *, numbered: bool
) -> Iterator[tuple[str, Arguments, Parts]]:
    """What the arguments may be that follow the last slot of a call at `end` of `turn`, the likeliest first.

    Each with its form, and with what stands around the call.
    """
    yield from _objects(evidence, turn, end, second, numbered=numbered)
    yield from _pairs(evidence, end, second)


def _objects(
    evidence: Evidence, turn: str, end: int, second: Second | None, *, numbered: bool
) -> Iterator[tuple[str, Arguments, Parts]]:
    own = _quotes(evidence, turn, end)
    readers: list[ValueReader] = [Json(), Literals(), *(Literals(quote, bare_keys=True) for quote in ("", *own))]
    for begin in (found.start() for found in re.finditer("{", turn[: turn.find(_KEY)]) if found.start() >= end):
        for reader in readers:
            cursor = Cursor(turn, begin)
            try:
                value = reader.read(cursor)
            except Malformed:
                continue
            if value != _ONE:
                continue
            value_end = len(turn[: cursor.position].rstrip())
            sep = None if second is None else _after_object(reader, second)
            parts = parts_after(turn[value_end:], sep)
            empty = _without_arguments(evidence, parts)
            if empty is not None and empty.startswith(turn[end:begin] + "{"):
                empty = None
            yield (
                "tagged_json" if isinstance(reader, Json) else "tagged_literals",
                ObjectArguments(turn[end:begin], reader, parts.close, empty, numbered=numbered),
                parts,
            )


def _after_object(reader: ValueReader, second: Second) -> str | None:
    text, two, start = second
    for found in re.finditer("{", two[: two.find(text)]):
        cursor = Cursor(two, found.start())
        try:
            if reader.read(cursor) == _ONE:
                return two[len(two[: cursor.position].rstrip()) : start]
        except Malformed:
            continue
    return None


def _quotes(evidence: Evidence, turn: str, end: int) -> list[str]:
    """What stands on either side of a string, and of no number: quotes of the template's own."""
    number = evidence.calls({_KEY: probes.NUMBER})
    if number is None or str(probes.NUMBER) not in number:
        return []
    text = _between(turn, _KEY, _VALUE, end)
    other = _between(number, _KEY, str(probes.NUMBER), end)
    quote = text.removeprefix(other)
    return [quote] if quote != text and quote and turn[turn.find(_VALUE) + len(_VALUE) :].startswith(quote) else []


def _pairs(evidence: Evidence, end: int, second: Second | None) -> Iterator[tuple[str, Arguments, Parts]]:
    around_text = _around(evidence, _VALUE, end)
    if around_text is None:
        return
    first, after_key, before_next, after = around_text
    sep = None
    if second is not None:
        text, two, start = second
        sep = two[two.rfind(text, 0, start) + len(text) : start]
    parts = parts_after(after, sep)
    closing = with_marks(parts.close, _NAME, _KEY)
    next_literal = with_marks(before_next, _NAME, _KEY)
    empty = _without_arguments(evidence, parts)
    bare = _words(evidence, end)
    open_kind = Kind(after_key, next_literal, closing)
    other = _around(evidence, probes.NUMBER, end)
    if other is not None and (other.after_key, other.before_next) != (after_key, before_next):
        others = parts_after(other.after, None) if sep is None else _tail_like(other.after, parts, after)
        plain = Kind(other.after_key, with_marks(other.before_next, _NAME, _KEY), with_marks(others.close, _NAME, _KEY))
        quote = after_key.removeprefix(other.after_key) if after_key.startswith(other.after_key) else ""
        readers: list[ValueReader] = [Json(), Literals()]
        if quote.strip("'\" "):
            readers.append(Literals(quote, bare_keys=True))
        for reader in readers:
            yield "pairs", PairArguments(first, [replace(plain, reader=reader)], bare, empty), others
        kinds = [replace(open_kind, is_text=True), plain]
        yield "pairs", PairArguments(first, kinds, bare, empty, _following(first, others)), others
    yield "pairs", PairArguments(first, [open_kind], bare, empty, _following(first, parts)), parts


def _following(first: str, parts: Parts) -> str:
    """The source of a pattern for what follows the close of a call, where the close itself may stand in a text."""
    close, sep, end = parts
    if is_telling(close):
        return ""
    ends = pattern_of(end) if end.strip() else r"\s*\Z"
    return ends if sep is None else rf"{ends}|{pattern_of(sep)}[\w.-]+{pattern_of(first)}"


def _tail_like(after: str, parts: Parts, text_after: str) -> Parts:
    """The parts around a call that ends in another kind of value, whose close may lack a quote."""
    section = text_after[len(parts.close) :]
    close = after[: len(after) - len(section)] if after.endswith(section) else after
    return parts._replace(close=close)


class _Around(NamedTuple):
    """What stands around keys and values of one kind."""

    first: str
    """Before the first key."""
    after_key: str
    """Between a key and its value."""
    before_next: str
    """Between a value and the next key."""
    after: str
    """After the last value."""


def _around(evidence: Evidence, value: Any, end: int) -> _Around | None:
    """What stands around such a value."""
    one, two = evidence.calls({_KEY: value}), evidence.calls({_KEY: value, _NEXT_KEY: _NEXT_VALUE})
    shown = str(value)
    if one is None or two is None or shown not in one or _NEXT_KEY not in two or shown not in two:
        return None
    key = one.find(_KEY, end)
    at = one.find(shown, key)
    if key < 0 or at < 0:
        return None
    in_two = two.find(shown, key)
    following = two[in_two + len(shown) : two.find(_NEXT_KEY, in_two)]
    return _Around(one[end:key], one[key + len(_KEY) : at], following, one[at + len(shown) :])


def _words(evidence: Evidence, end: int) -> BareValues:
    """How the template writes constants, lists and objects where it writes them bare."""
    around = _around(evidence, probes.NUMBER, end)
    words: dict[str, Any] = {}
    containers: dict[str, ValueReader] = {}
    if around is None:
        return BareValues()
    for value in (True, False, None, {"qa": "qb"}, ["qa"]):
        turn = evidence.calls({_KEY: value}) or ""
        start = turn.find(_KEY + around.after_key, end)
        if start < 0 or not turn.endswith(around.after):
            continue
        written = turn[start + len(_KEY + around.after_key) : len(turn) - len(around.after)]
        if isinstance(value, (dict, list)):
            quote = "'" if "'" in written else '"'
            containers[quote] = Literals() if quote == "'" else Json()
        elif written:
            words.setdefault(written, value)
    return BareValues(words, tuple(containers.values()) or (Json(),))


def _without_arguments(evidence: Evidence, parts: Parts) -> str | None:
    """What stands after the last slot of a call without arguments, through its close."""
    turn = evidence.calls({})
    if turn is None:
        return None
    slots = [turn.find(text) + len(text) for text in (_NAME, evidence.ids[0]) if text in turn]
    rest = turn[max(slots) :] if slots else ""
    bare = rest.rstrip()
    return with_marks(bare.removesuffix(parts.end), _NAME) if slots else None


def _between(text: str, left: str, right: str, start: int) -> str:
    after = text.find(left, start) + len(left)
    return text[after : text.find(right, after)]
