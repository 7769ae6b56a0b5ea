"""The committed turns of one episode, 24 bytes each: a server holds many episodes."""

from __future__ import annotations

import itertools
from array import array
from bisect import bisect_left
from collections.abc import Iterator
from typing import Final, NamedTuple

from chatenv_client.models import Origin, StopReason, Turn
from chatenv_server.engine.conversation import NO_NOTES, SpanNotes

_STOP_REASONS: Final = tuple(StopReason)
_TEMPLATE: Final = 0
"""The kind of a turn that the template wrote; sampled ones have other kinds."""
_SAMPLED, _HAS_LOGPROBS, _PROMPTED, _STOP_REASON_SHIFT = 1, 2, 4, 3


class Extent(NamedTuple):
    """What a turn covers, in the terms of `Turn`."""

    start: int
    length: int
    step: int
    first_message: int
    message_count: int


_COLUMNS: Final = len(Extent._fields) + 1
"""An extent, and the kind."""
_FIRST_MESSAGE: Final = Extent._fields.index("first_message")


class SampledSpan(NamedTuple):
    """Where the tokens of a sampled message stand."""

    start: int
    stop: int
    prompted: bool
    """Whether a generation prompt stands before it."""


class LastSpan(NamedTuple):
    """A sampled span, as far as a turn that it is part of asks."""

    start: int
    length: int
    has_logprobs: bool


class TurnTable:
    """A table of turns; each is written at a given place, over whatever lies from there on."""

    __slots__ = ("_model_versions", "_rows", "_runs")

    def __init__(self) -> None:
        self._rows = array("i")
        self._model_versions: dict[int, str] = {}
        self._runs: dict[int, SpanNotes] = {}
        """Of the few turns that have runs of tokens to tell apart."""

    def first(self, count: int) -> tuple[Turn, ...]:
        """The first `count` turns."""
        return tuple(map(self._turn, range(count)))

    def _row(self, index: int) -> tuple[Extent, int]:
        *extent, kind = self._rows[index * _COLUMNS : (index + 1) * _COLUMNS]
        return Extent._make(extent), kind

    def _turn(self, index: int) -> Turn:
        extent, kind = self._row(index)
        notes = self._runs.get(index, NO_NOTES)
        origin = Origin.SAMPLED if kind & _SAMPLED else Origin.TEMPLATE
        return Turn(
            origin,
            **extent._asdict(),
            stop_reason=_STOP_REASONS[kind >> _STOP_REASON_SHIFT] if kind & _SAMPLED else None,
            model_version=self._model_versions.get(index, ""),
            has_logprobs=bool(kind & _HAS_LOGPROBS),
            sampled_runs=notes.sampled_runs,
            model_version_runs=notes.model_version_runs,
        )

    def opening_length(self, count: int) -> int:
        """Tokens of the first of `count` turns, where the template wrote it; else 0."""
        if not count:
            return 0
        extent, kind = self._row(0)
        return 0 if kind & _SAMPLED else extent.length

    def last_step(self, count: int) -> int:
        """The step of the last of `count` turns, of which there is one."""
        return self._row(count - 1)[0].step

    def last_length(self, count: int) -> int:
        """Tokens of the last of `count` turns, of which there is one."""
        return self._row(count - 1)[0].length

    def last_spans(self, count: int) -> list[LastSpan]:
        """The spans of the message that the last of `count` turns, a sampled one, belongs to, in order."""
        spans: list[LastSpan] = []
        message: int | None = None
        for extent, kind in map(self._row, reversed(range(count))):
            if not kind & _SAMPLED or message not in (None, extent.first_message):
                break
            message = extent.first_message
            spans.append(LastSpan(extent.start, extent.length, bool(kind & _HAS_LOGPROBS)))
            if extent.message_count:
                break
        return spans[::-1]

    def span_of(self, message: int, count: int) -> SampledSpan:
        """The span of a sampled message: one or several of the first `count` turns, each going on with another."""
        indices = range(count)
        found = bisect_left(indices, message, key=lambda index: self._rows[index * _COLUMNS + _FIRST_MESSAGE])
        rows = itertools.takewhile(lambda row: row[0].first_message == message, map(self._row, indices[found:]))
        (first, kind), *more = (row for row in rows if row[1] & _SAMPLED)
        last = more[-1][0] if more else first
        return SampledSpan(first.start, last.start + last.length, bool(kind & _PROMPTED))

    def sampled(self, count: int) -> Iterator[int]:
        """The message of each sampled turn among the first `count` turns."""
        return (extent.first_message for extent, kind in map(self._row, range(count)) if kind & _SAMPLED)

    def said(self, count: int) -> Iterator[tuple[int, int, int]]:
        """(message, start, stop) of each message among the first `count` turns that was sampled as a whole."""
        sampled = (extent for extent, kind in map(self._row, range(count)) if kind & _SAMPLED)
        for message, spans in itertools.groupby(sampled, lambda extent: extent.first_message):
            first, *more = spans
            last = more[-1] if more else first
            if first.message_count:  # else it begins with a prefill, which a caller gave
                yield message, first.start, last.start + last.length

    def write_template(self, at: int, extent: Extent) -> int:
        """Write what the template wrote as turn number `at`; the number of turns there are then."""
        self._write(at, (*extent, _TEMPLATE))
        return at + 1

    def write_sampled(
        self,
        at: int,
        extent: Extent,
        stop_reason: StopReason,
        *,
        prompted: bool,
        has_logprobs: bool,
        notes: SpanNotes,
    ) -> int:
        """Write a sampled span as turn number `at`; the number of turns there are then."""
        kind = _SAMPLED | _HAS_LOGPROBS * has_logprobs | _PROMPTED * prompted
        kind |= _STOP_REASONS.index(stop_reason) << _STOP_REASON_SHIFT
        self._write(at, (*extent, kind))
        model_version = notes.model_version
        if notes.sampled_runs or notes.model_version_runs:
            self._runs[at] = notes
        if model_version:
            versions = self._model_versions
            # Most turns have the version of the turn before: one text for all of them.
            known = next(reversed(versions.values()), "")
            versions[at] = known if known == model_version else model_version
        return at + 1

    def _write(self, at: int, row: tuple[int, ...]) -> None:
        count = len(self._rows) // _COLUMNS
        if at < count:  # a step was taken back
            for written in range(at, count):
                self._model_versions.pop(written, None)
                self._runs.pop(written, None)
            del self._rows[at * _COLUMNS :]
        self._rows.extend(row)
