"""Segments that are sealed: what an episode showed its models before its history changed.

Theory of operation. A segment is one append-only stream (`log.py`). When messages change that are part of the committed
stream, or the template now writes them otherwise, the stream cannot go on. It is sealed as it is up to its last sampled
token: the tail after that was read by no model, and goes. A new segment begins with the full rendering of the history.

Mostly two neighbours begin alike. So a sealed segment holds only what the one before lacks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np

from chatenv_client.models import ColumnRows, FidelityReport, Segment, Turn, segment_of
from chatenv_client.tokens import EMPTY_TOKENS, Float32Array, Int32Array, shared_length
from chatenv_server.engine.records import Records, Written
from chatenv_server.engine.turn_table import TurnTable

BYTES_OF_A_TOKEN: Final = 4


class SealedSegment(NamedTuple):
    """A segment that nothing is written to any more."""

    shared: int
    """Leading tokens that it has in common with the segment before; all of them are its opening's."""
    own: Int32Array
    """(n - shared,) int32, the tokens after those."""
    table: TurnTable
    """Its turns; those after `turn_count` are not its own."""
    turn_count: int
    logprobs: Float32Array
    """Of the turns that have some, in stream order."""
    reports: tuple[FidelityReport, ...]
    column_rows: tuple[ColumnRows, ...]
    message_count: int
    """Messages of the conversation when it ended."""
    held_tokens: int
    """Tokens that this segment and those before it hold; columns count as many as they take the bytes of."""

    @property
    def length(self) -> int:
        """Tokens of the whole segment."""
        return self.shared + len(self.own)

    @property
    def turns(self) -> tuple[Turn, ...]:
        """Its turns, made when somebody asks: a table of them is a tenth as large."""
        return self.table.first(self.turn_count)

    @property
    def last_step(self) -> int:
        """The step that sampled its last token."""
        return self.table.last_step(self.turn_count)


def sealed_with(
    before: tuple[SealedSegment, ...], records: Records, written: Written, message_count: int
) -> tuple[SealedSegment, ...]:
    """The sealed segments, with one more: what is written of `records`."""
    tokens, table, count = records.tokens.view(0, written.tokens), records.turns, written.turns
    shared = shared_with(before, tokens, table.opening_length(count))
    own = tokens[shared:].copy()
    held = (before[-1].held_tokens if before else 0) + len(own) + written.column_bytes // BYTES_OF_A_TOKEN
    logprobs = records.logprobs.view(0, written.logprobs).copy()
    reports = tuple(records.reports[: written.reports])
    columns = tuple(records.columns[: written.columns])
    return (*before, SealedSegment(shared, own, table, count, logprobs, reports, columns, message_count, held))


def shared_with(before: Sequence[SealedSegment], tokens: Int32Array, opening_length: int) -> int:
    """How many leading tokens a segment, whose opening is so long, has in common with the last one before it."""
    if not before or not opening_length:
        return 0
    return shared_length(last_tokens(before), tokens[:opening_length])


def last_tokens(sealed: Sequence[SealedSegment]) -> Int32Array:
    """(n,) int32, all tokens of the last segment; costs what it returns."""
    pieces: list[Int32Array] = []
    needed = sealed[-1].length
    for segment in reversed(sealed):
        pieces.append(segment.own[: max(0, needed - segment.shared)])
        needed = min(needed, segment.shared)
        if not needed:
            break
    return np.concatenate(pieces[::-1])


def opened(sealed: Sequence[SealedSegment]) -> Iterator[Segment]:
    """The sealed segments as callers see them, in order."""
    tokens = EMPTY_TOKENS
    for one in sealed:
        tokens = np.concatenate([tokens[: one.shared], one.own])
        yield segment_of(
            tokens, one.turns, one.logprobs, one.reports, shared_length=one.shared, column_rows=one.column_rows
        )
