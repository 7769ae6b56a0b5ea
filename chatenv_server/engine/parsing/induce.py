"""Induces the notation of a template's calls: what stands around names, ids, arguments, keys and values of each type.

The template can be rendered with any call one likes. Probes with names, keys and values that stand nowhere else show
what is fixed text and what is not. No form is known by a family's name: a candidate is put together from what the
renders show, and the one that recovers most of a battery of calls is taken.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from chatenv_server.engine.parsing import probes
from chatenv_server.engine.parsing.calls import Notation, Verbatim
from chatenv_server.engine.parsing.cursor import Cursor, Malformed
from chatenv_server.engine.parsing.evidence import Evidence
from chatenv_server.engine.parsing.frame_unit import FrameUnit
from chatenv_server.engine.parsing.induce_arguments import arguments_after
from chatenv_server.engine.parsing.json_unit import NAME_IS_KEY, JsonUnit, Path
from chatenv_server.engine.parsing.literal import Fixed
from chatenv_server.engine.parsing.surroundings import notation_of, parts_after

_ONE = {probes.KEYS[0]: probes.VALUES[0]}
_OTHER = {probes.KEYS[1]: probes.VALUES[1]}


def induce_notation(evidence: Evidence) -> Notation:
    """The notation that recovers most of what the template writes; verbatim if none recovers anything."""
    best: Notation = Verbatim()
    most = 0
    battery = _battery(evidence)
    for notation in _candidates(evidence):
        recovered = sum(_recovers(notation, turn, arguments) for turn, arguments in battery)
        if recovered > most:
            best, most = notation, recovered
        if most == len(battery):
            break
    return best


def _candidates(evidence: Evidence) -> Iterator[Notation]:
    turn = evidence.calls(_ONE)
    if turn is None or not all(text in turn for text in (*_ONE, *_ONE.values())):
        return
    yield from _json_calls(evidence, turn)
    if evidence.named_by_id or probes.NAMES[0] in turn:
        yield from _framed_calls(evidence, turn)


# -- calls as JSON ----------------------------------------------------------------------------------


def _json_calls(evidence: Evidence, turn: str) -> Iterator[Notation]:
    found = _json_around(turn, [probes.NAMES[0], *_ONE, *_ONE.values()])
    if found is None:
        return
    start, end, value = found
    item = value[0] if isinstance(value, list) and len(value) == 1 else value
    if not isinstance(item, dict):
        return
    name, arguments = _path_of_name(item), _path_of_arguments(item)
    if name is None or arguments is None:
        return
    call_id = _path_to(item, evidence.ids[0])
    two = evidence.calls(_ONE, _OTHER)
    after, sep = turn[end:], None
    if two is not None and all(one in two for one in probes.NAMES):
        pair = _json_around(two, [probes.NAMES[0], *_ONE.values()])
        if pair is not None and isinstance(pair[2], list) and isinstance(value, list) and len(pair[2]) == 2:
            call_id = call_id or _path_of_number(*pair[2])
        elif pair is not None:
            second = _json_around(two[pair[1] :], [probes.NAMES[1], *_OTHER.values()])
            sep = two[pair[1] :][: second[0]] if second is not None else None
    parts = parts_after(after, sep)
    unit = JsonUnit(name, arguments, call_id, frozenset(item), Fixed.of(parts.close))
    before = evidence.before_calls(turn[start:end])
    key = json.dumps(next(iter(item)))
    looks = r"\[\s*\{\s*" if isinstance(value, list) else r"\{\s*"
    looks += re.escape(key) + r"\s*:" if name[-1] is not NAME_IS_KEY else r'"'
    yield notation_of("json", evidence, before, parts, unit, looks)


def _json_around(text: str, needed: Sequence[str]) -> tuple[int, int, Any] | None:
    """The outermost JSON value of `text` that holds all of `needed`: its start, its end, and what it is."""
    last = text.rfind(needed[-1])
    for found in re.finditer(r"[\[{]", text):
        if found.start() > text.find(needed[0]):
            return None
        cursor = Cursor(text, found.start())
        try:
            value = cursor.json()
        except Malformed:
            continue
        end = cursor.position - (len(text[: cursor.position]) - len(text[: cursor.position].rstrip()))
        if end > last and all(one in text[found.start() : end] for one in needed):
            return found.start(), end, value
    return None


def _path_to(value: Any, wanted: Any) -> Path | None:
    """Where in an object `wanted` stands."""
    if value == wanted and type(value) is type(wanted):
        return ()
    for key, item in value.items() if isinstance(value, dict) else ():
        rest = _path_to(item, wanted)
        if rest is not None:
            return (key, *rest)
    return None


def _path_of_name(item: dict[str, Any]) -> Path | None:
    if list(item) == [probes.NAMES[0]]:
        return (NAME_IS_KEY,)
    return _path_to(item, probes.NAMES[0])


def _path_of_arguments(item: dict[str, Any]) -> Path | None:
    if list(item) == [probes.NAMES[0]]:
        return (NAME_IS_KEY,)
    found = _path_to(item, _ONE)
    texts = (json.dumps(_ONE, separators=separators) for separators in ((", ", ": "), (",", ":")))
    return found or next((path for text in texts if (path := _path_to(item, text))), None)


def _path_of_number(first: Any, second: Any) -> Path | None:
    """Where in the objects of two calls their number stands, as text; it is the id that the model writes."""
    if not isinstance(first, dict) or not isinstance(second, dict):
        return None
    for key, item in first.items():
        other = second.get(key)
        if isinstance(item, str) and isinstance(other, str) and item.isdigit() and other.isdigit() and item != other:
            return (key,)
    return None


# -- calls in a frame -------------------------------------------------------------------------------


def _framed_calls(evidence: Evidence, turn: str) -> Iterator[Notation]:
    named_by_id = evidence.named_by_id
    slots = _slots(turn, evidence.ids[0], named_by_id=named_by_id)
    if not any(slot == ("id" if named_by_id else "name") for slot, _, _ in slots):
        return
    start, end = slots[0][1], slots[-1][2]
    two = evidence.calls(_ONE, _OTHER)
    second = None
    if two is not None and (evidence.ids[1] if named_by_id else probes.NAMES[1]) in two:
        after_first = two.find(probes.VALUES[0])
        second = [
            (slot, left + after_first, right + after_first)
            for slot, left, right in _slots(two[after_first:], evidence.ids[1], named_by_id=named_by_id, index=1)
        ]
        if [slot for slot, _, _ in second] != [slot for slot, _, _ in slots]:
            second = None
    sep = None if second is None or two is None else (probes.VALUES[0], two, second[0][1])
    numbered = second is not None and two is not None and _counts(turn, slots, two, second)
    literals = [(slots[0][0], "")]
    literals += [(slot, turn[before[2] : left]) for before, (slot, left, _) in itertools.pairwise(slots)]
    before = evidence.before_calls(turn[start:end])
    for form, arguments, parts in arguments_after(evidence, turn, end, sep, numbered=numbered):
        unit = FrameUnit(literals, arguments, numbered=numbered)
        yield notation_of(form, evidence, before, parts, unit, unit.looks)


def _slots(turn: str, call_id: str, *, named_by_id: bool, index: int = 0) -> list[tuple[str, int, int]]:
    """What the slots of a call hold, `name` or `id`, and where they begin and end, before its arguments."""
    limit = turn.find(probes.KEYS[index])
    texts = {"id": call_id} if named_by_id else {"name": probes.NAMES[index], "id": call_id}
    found = ((slot, turn.find(text, 0, limit), len(text)) for slot, text in texts.items())
    return sorted(((slot, at, at + length) for slot, at, length in found if at >= 0), key=lambda one: one[1])


def _counts(turn: str, slots: Sequence[tuple[str, int, int]], two: str, second: Sequence[tuple[str, int, int]]) -> bool:
    """Whether the frame of the second call differs from that of the first, and in digits alone."""
    mine = turn[slots[0][2] : turn.find(probes.KEYS[0])].replace(probes.IDS[0], "")
    other = two[second[0][2] : two.find(probes.KEYS[1])].replace(probes.IDS[1], "")
    return mine != other and re.sub(r"\d+", "0", mine) == re.sub(r"\d+", "0", other)


# -- how much is recovered --------------------------------------------------------------------------


def _battery(evidence: Evidence) -> list[tuple[str, list[dict[str, Any]]]]:
    """Turns that the template writes for calls, and the arguments of the calls."""
    batches = [[one] for one in probes.BATTERY] + [[_ONE, _OTHER]]
    turns = ((evidence.calls(*arguments), arguments) for arguments in batches)
    return [(turn, arguments) for turn, arguments in turns if turn is not None]


def _recovers(notation: Notation, turn: str, arguments: Sequence[dict[str, Any]]) -> bool:
    """Whether a turn comes back with its calls."""
    spans = notation.spans(turn, probes.PROBE_TYPES)
    read = [one["function"] for span in spans for one in span.calls]
    meant = [{"name": name, "arguments": one} for name, one in zip(probes.NAMES, arguments, strict=False)]
    return same(read, meant) and not any(span.problem for span in spans)


def same(read: Any, meant: Any) -> bool:
    """Whether two JSON values are the same."""
    # As JSON, because in Python True equals 1.
    return json.dumps(read, sort_keys=True) == json.dumps(meant, sort_keys=True)


def functions_of(calls: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Names and arguments of calls, arguments as objects."""
    functions = [call["function"] for call in calls]
    return [
        [one["name"], json.loads(one["arguments"]) if isinstance(one["arguments"], str) else one["arguments"]]
        for one in functions
    ]
