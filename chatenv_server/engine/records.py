"""What an episode's log has written down, column by column. What of it counts is not told here, but by a head."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import field

import numpy as np

from chatenv_client.models import ColumnRows, FidelityReport
from chatenv_client.tokens import Float32Array, GrowingArray, HashedPrefix, Int32Array
from chatenv_server.engine.conversation import SampledTurn, SpanNotes
from chatenv_server.engine.turn_table import Extent, TurnTable
from chatenv_server.values import value


@value
class Written:
    """How much of each column counts."""

    tokens: int = 0
    logprobs: int = 0
    turns: int = 0
    starts: int = 0
    reports: int = 0
    columns: int = 0
    column_bytes: int = 0


@value
class TemplatePart:
    """What the template wrote before a sampled span."""

    extent: Extent | None
    """What it covers; None where it is nothing."""
    tokens: Int32Array = field(compare=False)
    """(n,) int32."""
    starts: Sequence[int]
    """First token, in the stream, of each message that begins here, the sampled one included."""
    reports: Sequence[FidelityReport]


class Records:
    """The columns of one log. Each is written at a given place, over whatever lies from there on."""

    __slots__ = ("columns", "hashed", "logprobs", "reports", "starts", "tokens", "turns")

    def __init__(self) -> None:
        self.tokens = GrowingArray(np.int32)
        self.hashed = HashedPrefix()
        """What is hashed already of the tokens."""
        self.logprobs = GrowingArray(np.float32)
        """Of the turns that have some, in stream order."""
        self.turns = TurnTable()
        self.starts = array("i")
        """First token of each message."""
        self.reports: list[FidelityReport] = []
        self.columns: list[ColumnRows] = []
        """Columns of sampled tokens, in the order in which they came."""

    def write(
        self,
        at: Written,
        template: TemplatePart,
        sampled: Extent,
        tokens: Int32Array,
        turn: SampledTurn,
        *,
        logprobs: Float32Array | None,
        notes: SpanNotes,
        reports: Sequence[FidelityReport],
    ) -> Written:
        """Write a sampled span and what the template wrote before it.

        Args:
            at: where.
            template: what the template wrote.
            sampled: what the span covers.
            tokens: (n,) int32, the span.
            turn: the turn that the span belongs to.
            logprobs: (n,) float32, if there are any.
            notes: what else there is to know of the span.
            reports: on the span.
        """
        turns = at.turns
        if template.extent is not None:
            turns = self.turns.write_template(turns, template.extent)
        turns = self.turns.write_sampled(
            turns,
            sampled,
            turn.stop_reason,
            prompted=turn.prompted,
            has_logprobs=logprobs is not None,
            notes=notes,
        )
        self.tokens.write(at.tokens, template.tokens, tokens)
        if template.starts:
            self.starts[at.starts :] = array("i", template.starts)
        if reports or template.reports:
            self.reports[at.reports :] = (*template.reports, *reports)
        if logprobs is not None:
            self.logprobs.write(at.logprobs, logprobs)
        columns, column_bytes = at.columns, at.column_bytes
        if notes.columns:
            self.columns[columns:] = notes.columns
            columns += len(notes.columns)
            column_bytes += sum(one.rows.nbytes for one in notes.columns)
        return Written(
            at.tokens + len(template.tokens) + len(tokens),
            at.logprobs + (0 if logprobs is None else len(logprobs)),
            turns,
            at.starts + len(template.starts),
            at.reports + len(template.reports) + len(reports),
            columns,
            column_bytes,
        )
