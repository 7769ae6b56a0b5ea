"""What stands around calls: what opens them, parts them and closes them, put together to a notation."""

from __future__ import annotations

import re
from typing import NamedTuple

from chatenv_server.engine.parsing import probes
from chatenv_server.engine.parsing.calls import MarkedCalls, Notation, Section, Unit, UnmarkedCalls
from chatenv_server.engine.parsing.evidence import Evidence
from chatenv_server.engine.parsing.literal import FIRST_TAG, Fixed, before_open_tag, pattern_of, shared_start

_TAG = re.compile(r"<[^<>\n]+>|\[/?[A-Z_]+\]")
_NUMBER = re.compile(r"\d+")
_FEW = 3
"""Letters and digits that a literal has at least that no text has by chance."""


class Parts(NamedTuple):
    """What follows a call."""

    close: str
    """What closes it."""
    between: str | None
    """What stands between two; None: there is never a second."""
    end: str
    """What stands after the last."""


def is_telling(literal: str) -> bool:
    """Whether no text has a literal by chance."""
    return sum(letter.isalnum() for letter in literal) >= _FEW


def parts_after(after: str, sep: str | None) -> Parts:
    """The parts around a call, from what follows the last call, and what stands between one and the next."""
    if sep is None:
        return Parts(after.rstrip(), None, "")
    close = sep if sep == after else before_open_tag(shared_start([sep, after]))
    return Parts(close, sep[len(close) :], after[len(close) :].rstrip())


def notation_of(name: str, evidence: Evidence, before: str, parts: Parts, unit: Unit, looks: str) -> Notation:
    """The notation of calls that are written as `unit` reads them.

    Args:
        before: what stands before the first call.
        looks: the source of a pattern for how a call begins.
    """
    close, sep, end = parts
    marked = is_telling(before)
    alone = sep is not None and marked and _core(_uncounted(sep)) == _core(_uncounted(before))
    counts = sep is not None and _counts(_core(before), _core(sep))
    section = Section(
        Fixed.of(before, numbered=counts),
        None if sep is None or alone else Fixed.of(sep, numbered=counts),
        Fixed.of("" if alone else end),
    )
    if marked:
        closer = _last_tag(end if end.strip() and not alone else close)
        return MarkedCalls(name, _opener(before, evidence), closer, section, unit)
    begins = re.compile(rf"(?P<calls>{pattern_of(before.lstrip(), numbered=counts)}{looks})")
    return UnmarkedCalls(name, begins, section, unit, beside_text=evidence.shows_text_beside_calls)


def _counts(before: str, sep: str) -> bool:
    """Whether what stands before the second call ends as what stands before the first does, but for a number."""
    return not sep.endswith(before) and _uncounted(sep).endswith(_uncounted(before))


def _uncounted(text: str) -> str:
    """A text with one number for all: what stands before a call may count the calls."""
    return _NUMBER.sub("0", text)


def _core(text: str) -> str:
    return "".join(text.split())


def _opener(before: str, evidence: Evidence) -> str:
    """The beginning of what stands before a call, as far as it tells a call from all else that the template writes."""
    tag = FIRST_TAG.match(before)
    others = [evidence.turn(message) or "" for message in probes.PROBE_MESSAGES[:2]]
    if tag is not None and not any(tag.group() in other for other in others):
        return tag.group().strip()
    return before.strip()


def _last_tag(text: str) -> str:
    """What a span that cannot be read ends in; empty: it reaches to the end."""
    tags = _TAG.findall(text)
    return tags[-1] if tags else ""
