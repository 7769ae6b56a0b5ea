"""What follows from a log: its stream, messages, turns, reports and segments, derived from where it stands."""

from __future__ import annotations

from chatenv_client.models import (
    ColumnRows,
    FidelityReport,
    MessageSnapshot,
    Origin,
    Rows,
    Segment,
    StopReason,
    Turn,
    segment_of,
)
from chatenv_client.tokens import Float32Array, Int32Array, TokenSnapshot
from chatenv_server.engine.continuations import Continuations
from chatenv_server.engine.conversation import RenderOptions
from chatenv_server.engine.log_head import Head
from chatenv_server.engine.reading_back import conversation_at
from chatenv_server.engine.records import Records
from chatenv_server.engine.renderer import Renderer
from chatenv_server.engine.segments import BYTES_OF_A_TOKEN, SealedSegment, opened, shared_with


class LogReading:
    """The part of a log that changes nothing; `EpisodeLog` is the whole."""

    __slots__ = ("_continuations", "head", "options", "renderer")

    def __init__(self, renderer: Renderer, options: RenderOptions) -> None:
        self.options = options
        self.renderer = renderer
        """Renders and reads for it."""
        self._continuations = Continuations(renderer, options)
        self.head = Head(Records(), messages=[])
        """Where the log stands."""

    def __len__(self) -> int:
        return self.head.written.tokens + len(self.head.tail.tokens)

    @property
    def stream(self) -> TokenSnapshot:
        """The token stream as it is now; costs no copy."""
        head = self.head
        return TokenSnapshot(head.committed, head.tail.tokens, head.records.hashed)

    @property
    def held_tokens(self) -> int:
        """Tokens that it holds, those of sealed segments included; columns count as what they take."""
        sealed, columns = self.head.sealed, self.head.written.column_bytes
        return len(self) + columns // BYTES_OF_A_TOKEN + (sealed[-1].held_tokens if sealed else 0)

    def column_rows(self) -> tuple[ColumnRows, ...]:
        """Columns of the segment's sampled tokens, in the order in which they came."""
        return tuple(self.head.records.columns[: self.head.written.columns])

    def last_rows(self, column: str) -> Rows | None:
        """The rows that were given last of a column of the segment; None: it has no such column."""
        columns, count = self.head.records.columns, self.head.written.columns
        return next((columns[index].rows for index in reversed(range(count)) if columns[index].name == column), None)

    @property
    def sealed(self) -> tuple[SealedSegment, ...]:
        """The segments before the current one."""
        return self.head.sealed

    def segments(self) -> tuple[Segment, ...]:
        """All segments, the current one last; costs time proportional to all of them."""
        stream, turns = self.stream.token_ids, self.turns()
        opening_length = turns[0].length if turns and turns[0].origin is Origin.TEMPLATE else 0
        shared = shared_with(self.head.sealed, stream, opening_length)
        current = segment_of(
            stream, turns, self.logprobs(), self.reports(), shared_length=shared, column_rows=self.column_rows()
        )
        return (*opened(self.head.sealed), current)

    @property
    def sampled_messages(self) -> frozenset[int]:
        """The messages of the conversation that a model said, in this segment or an earlier one."""
        return self.head.said.union(self.head.records.turns.sampled(self.head.written.turns))

    @property
    def last_sampled(self) -> int | None:
        """The last token of the last span of the segment; None: there is no span, or it has no tokens."""
        head = self.head
        if head.last is None or not head.records.turns.last_length(head.written.turns):
            return None
        return head.written.tokens - 1

    def last_turn(self) -> tuple[Int32Array, Float32Array | None]:
        """(tokens, logprobs) of the last sampled message: (n,) int32, and (n,) float32 where all spans of it have some.

        Raises:
            LookupError: there is no such message.
        """
        head = self.head
        if head.last is None:
            raise LookupError("nothing was sampled in this segment")
        spans = head.records.turns.last_spans(head.written.turns)
        tokens = head.committed[spans[0].start :]
        if not all(span.has_logprobs for span in spans):
            return tokens.copy(), None
        count = sum(span.length for span in spans)
        return tokens.copy(), head.records.logprobs.view(head.written.logprobs - count, head.written.logprobs).copy()

    def sampled_steps(self) -> frozenset[int]:
        """The steps that brought sampled tokens, in any segment."""
        return frozenset(turn.step for turn in self._sampled_turns())

    def ends_of_turns(self) -> list[int]:
        """The step that ended each turn of the model, in any segment, in order."""
        return [turn.step for turn in self._sampled_turns() if turn.stop_reason is not StopReason.ABORT]

    def _sampled_turns(self) -> list[Turn]:
        turns = [turn for sealed in self.sealed for turn in sealed.turns] + list(self.turns())
        return [turn for turn in turns if turn.origin is Origin.SAMPLED]

    @property
    def stop_reason(self) -> StopReason | None:
        """Why sampling of the last span stopped; None: there is no span in the segment."""
        return None if self.head.last is None else self.head.last.stop_reason

    @property
    def message_count(self) -> int:
        """Messages of the conversation."""
        return self.head.message_count

    @property
    def conversation(self) -> MessageSnapshot:
        """The messages as they are now; costs no copy."""
        return conversation_at(self.head, self.head.message_count, self.renderer)

    @property
    def generation_prompt_length(self) -> int:
        """How many trailing tokens ask the model to speak."""
        return self.head.tail.generation_prompt_length

    def fingerprint(self) -> str:
        """Fingerprint of the stream; costs the tail, and what was committed since it was asked for last."""
        head = self.head
        return head.records.hashed.fingerprint(head.committed, head.tail.tokens)

    def turns(self) -> tuple[Turn, ...]:
        """All turns of the segment, the pending tail last."""
        committed, extent = self.head.records.turns.first(self.head.written.turns), self.head.tail_extent
        if extent is None:
            return committed
        return (*committed, Turn(Origin.TEMPLATE, **extent._asdict()))

    def reports(self) -> tuple[FidelityReport, ...]:
        """Everything that is not exact in the segment, the pending tail's reports last."""
        return (*self.head.records.reports[: self.head.written.reports], *self.head.tail.reports)

    def logprobs(self) -> Float32Array:
        """Logprobs of all turns of the segment that have them, in stream order."""
        logprobs: Float32Array = self.head.records.logprobs.view(0, self.head.written.logprobs).copy()
        return logprobs

    def message_spans(self) -> tuple[tuple[int, int], ...]:
        """(start, stop) of each message's part of the stream."""
        written, tail = self.head.written, self.head.tail
        starts = [
            *self.head.records.starts[: written.starts],
            *(written.tokens + start for start in tail.message_starts),
        ]
        end = len(self) - self.generation_prompt_length
        return tuple(zip(starts, [*starts[1:], end], strict=True)) if starts else ()
