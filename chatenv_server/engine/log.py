"""One episode's append-only log of turns: the committed stream, the pending tail, and everything derived from them.

T0 | S1 | T1 | S2 | ... : sampled spans S are kept bit for bit; the tail after the last one may be rendered anew until
somebody samples after it. Such a stream is a segment. Where history changes, it is sealed and another one begins
(`segments.py`); `continuations.py` says when.

Where the log stands is told by its head, an immutable value that owns every length. What is appended is written at the
head, over whatever lies there; a new segment has records of its own. So a step is taken back by putting the old head in
its place. Not safe for threads; its owner serializes. Knows nothing of limits, transforms or episode ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from chatenv_client.errors import TemplateRejectedError
from chatenv_client.models import (
    ColumnRows,
    FidelityKind,
    FidelityReport,
    HistoryPolicy,
    Message,
    MessageSnapshot,
    Origin,
    Segment,
    StopReason,
    Turn,
    segment_of,
)
from chatenv_client.tokens import Float32Array, HashedPrefix, Int32Array, TokenSnapshot, shared_length
from chatenv_server.engine import rewrites
from chatenv_server.engine.continuations import Continuation, Continuations, refuse_rewriting
from chatenv_server.engine.conversation import (
    NO_NOTES,
    KnownText,
    OpeningText,
    ReadTurn,
    RenderOptions,
    SampledTurn,
    SpanNotes,
    Tail,
)
from chatenv_server.engine.log_head import Head
from chatenv_server.engine.records import Records, Written
from chatenv_server.engine.renderer import Renderer
from chatenv_server.engine.segments import BYTES_OF_A_TOKEN, SealedSegment, opened, sealed_with, shared_with
from chatenv_server.engine.turn_table import Extent

_END_TOKENS = 16
"""How much of a stream's end decides how text after it is read."""


class Change(NamedTuple):
    """What one append did."""

    reports: tuple[FidelityReport, ...]
    """What was not exact about it."""
    held_tokens: int
    """Length of the new stream's prefix that a caller holds who saw the old one and sent this append."""
    held_messages: int
    """Number of leading messages that such a caller holds."""


class EpisodeLog:
    """The turns of one episode.

    Args:
        renderer: renders and reads for it.
        options: the episode's own.
        keeps_texts: whether to hold the texts of sampled turns beside their tokens. Else they are decoded again when
            somebody asks for the messages, which takes some twenty microseconds a turn and halves the memory.
    """

    __slots__ = ("_continuations", "_head", "_keeps_texts", "options")

    def __init__(self, renderer: Renderer, options: RenderOptions, *, keeps_texts: bool = True) -> None:
        self.options = options
        self._continuations = Continuations(renderer, options, self._read_back)
        self._keeps_texts = keeps_texts or renderer.reads_history
        self._head = Head(Records(), messages=[])

    @property
    def renderer(self) -> Renderer:
        """Renders and reads for it."""
        return self._continuations.renderer

    @renderer.setter
    def renderer(self, renderer: Renderer) -> None:
        self._continuations.renderer = renderer

    # -- reading ----------------------------------------------------------------------------------

    def __len__(self) -> int:
        return self._head.written.tokens + len(self._head.tail.tokens)

    @property
    def stream(self) -> TokenSnapshot:
        """The token stream as it is now; costs no copy."""
        return TokenSnapshot(self._committed, self._head.tail.tokens, self._head.records.hashed)

    @property
    def _committed(self) -> Int32Array:
        return self._head.records.tokens.view(0, self._head.written.tokens)

    @property
    def held_tokens(self) -> int:
        """Tokens that it holds, those of sealed segments included; columns count as what they take."""
        sealed, columns = self._head.sealed, self._head.written.column_bytes
        return len(self) + columns // BYTES_OF_A_TOKEN + (sealed[-1].held_tokens if sealed else 0)

    def column_rows(self) -> tuple[ColumnRows, ...]:
        """Columns of the segment's sampled tokens, in the order in which they came."""
        return tuple(self._head.records.columns[: self._head.written.columns])

    @property
    def sealed(self) -> tuple[SealedSegment, ...]:
        """The segments before the current one."""
        return self._head.sealed

    def segments(self) -> tuple[Segment, ...]:
        """All segments, the current one last; costs time proportional to all of them."""
        stream, turns = self.stream.token_ids, self.turns()
        shared = shared_with(self._head.sealed, stream, turns)
        current = segment_of(
            stream, turns, self.logprobs(), self.reports(), shared_length=shared, column_rows=self.column_rows()
        )
        return (*opened(self._head.sealed), current)

    @property
    def last_sampled(self) -> int | None:
        """The last token of the last span of the segment; None: there is no span."""
        return self._head.written.tokens - 1 if self._head.last is not None else None

    @property
    def message_count(self) -> int:
        """Messages of the conversation."""
        return self._head.message_count

    @property
    def conversation(self) -> MessageSnapshot:
        """The messages as they are now; costs no copy."""
        return MessageSnapshot(self._head.messages, self._head.message_count, self._read_back)

    def _read_back(self, index: int) -> Message:
        """A sampled message, read as it was when it came."""
        span = self._head.records.turns.span_of(index, self._head.written.turns)
        tokens = self._head.records.tokens
        before = tokens.view(max(0, span.start - _END_TOKENS), span.start)
        ids = tokens.view(span.start, span.stop)
        return self.renderer.read_turn(ids, before, index, prompted=span.prompted).message

    @property
    def generation_prompt_length(self) -> int:
        """How many trailing tokens ask the model to speak."""
        return self._head.tail.generation_prompt_length

    def fingerprint(self) -> str:
        """Fingerprint of the stream; costs the tail, and what was committed since it was asked for last."""
        return self.stream.fingerprint()

    def turns(self) -> tuple[Turn, ...]:
        """All turns of the segment, the pending tail last."""
        committed, extent = self._head.records.turns.first(self._head.written.turns), self._head.tail_extent
        if extent is None:
            return committed
        return (*committed, Turn(Origin.TEMPLATE, **extent._asdict(), reward=self._head.tail_reward))

    def reports(self) -> tuple[FidelityReport, ...]:
        """Everything that is not exact in the segment, the pending tail's reports last."""
        return (*self._head.records.reports[: self._head.written.reports], *self._head.tail.reports)

    def logprobs(self) -> Float32Array:
        """Logprobs of all turns of the segment that have them, in stream order."""
        logprobs: Float32Array = self._head.records.logprobs.view(0, self._head.written.logprobs).copy()
        return logprobs

    def message_spans(self) -> tuple[tuple[int, int], ...]:
        """(start, stop) of each message's part of the stream."""
        written, tail = self._head.written, self._head.tail
        starts = [
            *self._head.records.starts[: written.starts],
            *(written.tokens + start for start in tail.message_starts),
        ]
        end = len(self) - self.generation_prompt_length
        return tuple(zip(starts, [*starts[1:], end], strict=True)) if starts else ()

    # -- where the log stands ---------------------------------------------------------------------

    @property
    def head(self) -> Head:
        """Where the log stands."""
        return self._head

    def stand_at(self, head: Head) -> None:
        """Stand somewhere else: where the log stood before, to take a step back, or after what was just written.

        Snapshots of what is taken back must not be used any more.
        """
        self._head = head
        if len(head.records.hashed) > head.written.tokens:  # a step that was taken back
            head.records.hashed = HashedPrefix()

    # -- messages ---------------------------------------------------------------------------------

    def append_messages(self, messages: Sequence[Message], step: int, replace_from: int | None = None) -> Change:
        """Append messages, or put them in the place of all from `replace_from` on, and render the tail anew.

        Where the stream cannot go on so, a segment begins; see `continuations.py`.

        Raises:
            TemplateRejectedError: the template rejects them; nothing has changed.
            HistoryRewrittenError: the template would rewrite history and the policy is `strict`; nothing has changed.
        """
        head = self._head
        then = self._continuations.of(head, messages, replace_from)
        count = then.first + len(then.messages)
        held = self._held_tokens(then)
        if then.kept is not None:
            self._begin_segment(then, then.kept, step)
            return Change(then.tail.reports, held, count)
        if then.first == head.message_count:
            held_messages = head.messages
            held_messages[then.first :] = then.messages
        else:
            # Snapshots handed out share the old list, in which the messages must stay.
            held_messages = [*head.messages[: then.first], *then.messages]
        begun = head.tail_step if head.message_count > head.tail_message else step
        self.stand_at(
            head._replace(
                tail=then.tail,
                messages=held_messages,
                message_count=count,
                tail_step=begun,
                recorded=then.recorded,
                own=then.own,
            )
        )
        return Change(_news(then.tail.reports, head.tail.reports), held, count)

    def open_inside(self, messages: Sequence[Message]) -> Change:
        """Begin with an opening that ends inside its last message, an assistant's, which the model goes on with.

        Raises:
            TemplateRejectedError: the template rejects the messages, or does not write that text.
        """
        tail = self.renderer.opening_inside(messages)
        self.stand_at(self._head._replace(tail=tail, messages=list(messages), message_count=len(messages)))
        return Change(tail.reports, 0, 0)

    def _begin_segment(self, then: Continuation, kept: Sequence[Message], step: int) -> None:
        head = self._head
        self.stand_at(
            Head(
                Records(),
                tail=then.tail,
                tail_step=step,
                # What was earned on the tail that goes must not be lost with it.
                tail_reward=head.tail_reward,
                messages=[*kept, *then.messages],
                message_count=len(kept) + len(then.messages),
                recorded=then.recorded,
                own=then.own,
                sealed=sealed_with(head.sealed, head.records, head.written, head.tail_message),
            )
        )

    def preview(self, messages: Sequence[Message]) -> tuple[int, Int32Array, tuple[FidelityReport, ...]]:
        """What the stream would become: (offset, tokens from there on, reports). Changes nothing.

        Raises:
            TemplateRejectedError: the template rejects the messages.
        """
        head = self._head
        then = self._continuations.of(head, messages)
        held = self._held_tokens(then)
        if then.kept is not None:
            return held, then.tail.tokens[held:], then.tail.reports
        return held, then.tail.tokens[held - head.written.tokens :], _news(then.tail.reports, head.tail.reports)

    def _held_tokens(self, then: Continuation) -> int:
        """Length of the prefix that the new stream has in common with this one."""
        head = self._head
        if then.kept is None:
            return head.written.tokens + shared_length(head.tail.tokens, then.tail.tokens)
        tokens = then.tail.tokens
        held = shared_length(self._committed, tokens)
        return held + (shared_length(head.tail.tokens, tokens[held:]) if held == head.written.tokens else 0)

    # -- appending sampled tokens -----------------------------------------------------------------

    def append_sampled(
        self,
        tokens: Int32Array,
        step: int,
        logprobs: Float32Array | None = None,
        stop_reason: StopReason | None = None,
        notes: SpanNotes = NO_NOTES,
        message: Message | None = None,
    ) -> Change:
        """Commit the pending tail and append a sampled span: the stream becomes exactly prompt + tokens.

        A span after another one that ended without a stop token goes on with the same message.

        Args:
            tokens: the span.
            step: the step that appends it.
            logprobs: of each token; None: not given.
            stop_reason: why sampling stopped; None: told by the last token.
            notes: what else there is to know of it.
            message: the whole turn as the caller read it; None: it is read from the tokens.

        Raises:
            HistoryRewrittenError: policy `strict`, and the template would write something before this span; nothing
                has changed.
            TemplateRejectedError: the template has written nothing of the messages that are there; nothing has changed.
        """
        head, continued = self._head, self._continued_turn()
        if head.pending_messages and not len(self):
            raise TemplateRejectedError(
                "the chat template has written nothing yet: it waits for a user's message; append one, then sample",
                field="tokens",
            )
        prefill = head.tail.prefill
        if prefill is not None:
            start, index, known = prefill.start, head.message_count - 1, None
            span = np.concatenate([head.tail.tokens[start:], tokens])
            prompted, after_prompt = prefill.prompted, True
        elif continued is None:
            start, span, index, known = len(self), tokens, head.message_count, None
            prompted, after_prompt = head.tail.generation_prompt_length > 0, self.options.add_generation_prompt
        else:
            start, index = continued.start, continued.message_index
            before = self._committed[start:]
            span, known = np.concatenate([before, tokens]), KnownText(continued.text, len(before))
            prompted, after_prompt = continued.prompted, continued.after_prompt
        read = self.renderer.read_turn(span, self._end_before(start), index, prompted=prompted, known=known)
        if message is not None:
            read = read._replace(message=message, problems=())
        reports = _reading_reports(read, start, index)
        if continued is None and not len(head.tail.tokens) and not head.pending_messages:
            reports = (_unprompted(len(self), index), *reports)
        if self.options.history_policy is HistoryPolicy.STRICT:
            refuse_rewriting(reports)
        reason = stop_reason or (StopReason.LENGTH if read.stop_id is None else StopReason.STOP)
        last = SampledTurn(
            read.message,
            index,
            read.text,
            read.close,
            read.stop_id,
            reason,
            start,
            after_prompt,
            prompted,
            is_given=message is not None,
            is_prefilled=prefill is not None or (continued is not None and continued.is_prefilled),
        )
        starts_message = continued is None and prefill is None
        written = head.records.write(
            head.written,
            head.template_part(starts_message=starts_message),
            Extent(len(self), len(tokens), step, index, int(starts_message)),
            tokens,
            last,
            logprobs=logprobs,
            notes=notes,
            reports=reports,
        )
        self._commit(last, written, is_doubtful=bool(reports) or (continued is not None and head.is_doubtful))
        return Change(reports, written.tokens, index)

    def _end_before(self, position: int) -> Int32Array:
        """The end of the stream before `position`, which lies in the pending tail or at its edges."""
        within = position - self._head.written.tokens
        if within > 0:
            return self._head.tail.tokens[:within]
        return self._head.records.tokens.view(max(0, position - _END_TOKENS), position)

    def _continued_turn(self) -> SampledTurn | None:
        """The sampled turn that further tokens go on with: the last thing on record, cut off before a stop token."""
        head = self._head
        cut_off = head.last is not None and head.last.stop_id is None
        return head.last if cut_off and head.message_count == head.tail_message else None

    def _commit(self, last: SampledTurn, written: Written, *, is_doubtful: bool) -> None:
        """Stand after a span whose tail and tokens are written."""
        head, tail = self._head, self._head.tail
        count = last.message_index + 1
        if last.message_index == head.message_count:
            self._let_go_of(head.last)
            head.messages[last.message_index :] = [last.message]
            messages = head.messages
        else:
            # Snapshots handed out share the old list, in which the message must stay as it was.
            messages = [*head.messages[: last.message_index], last.message]
        self.stand_at(
            Head(
                records=head.records,
                written=written,
                tail_step=head.tail_step,
                messages=messages,
                message_count=count,
                tail_message=count,
                last=last,
                pending_rewrite=rewrites.left_by(head.pending_rewrite, tail),
                is_doubtful=is_doubtful,
                opening=self._kept_opening(tail),
                own=head.own,
                sealed=head.sealed,
            )
        )

    def _kept_opening(self, tail: Tail) -> OpeningText | None:
        """The text of the segment's opening, where it is likely that another segment begins like it."""
        is_likely = self._head.sealed or self.options.history_policy is HistoryPolicy.SEGMENT
        return (tail.opening or self._head.opening) if is_likely else None

    def _let_go_of(self, turn: SampledTurn | None) -> None:
        """Hold a turn's text no longer, now that nothing is rendered from it any more."""
        if turn is not None and not self._keeps_texts and _can_be_read_again(turn):
            self._head.messages[turn.message_index] = None

    def add_reward(self, reward: float, *, of_messages: bool) -> None:
        """Book a step's reward on what it appended: the tail, where those of several steps add up, or a span."""
        if of_messages:
            self._head = self._head._replace(tail_reward=(self._head.tail_reward or 0.0) + reward)
        else:
            self._head.records.turns.reward(self._head.written.turns - 1, reward)


def _can_be_read_again(turn: SampledTurn) -> bool:
    """Whether a turn's message follows from the tokens that were sampled, and can be decoded quickly."""
    return not turn.is_given and not turn.is_prefilled and "tool_calls" not in turn.message


def _unprompted(position: int, message: int) -> FidelityReport:
    detail = "sampled without a prompt before it; the template would write one"
    return FidelityReport(FidelityKind.HISTORY_REWRITTEN, detail, position, message)


def _reading_reports(read: ReadTurn, start: int, index: int) -> tuple[FidelityReport, ...]:
    if not (read.problems or read.undecodable or read.merges or read.inner_stop is not None):
        return ()
    reports = [FidelityReport(FidelityKind.TOOL_CALL_MALFORMED, problem, start, index) for problem in read.problems]
    if read.inner_stop is not None:
        detail = "the span goes on after a token that ends a turn; no call was read there"
        reports.append(FidelityReport(FidelityKind.TEXT_AFTER_STOP, detail, start + read.inner_stop, index))
    if read.undecodable:
        reports.append(
            FidelityReport(FidelityKind.UNDECODABLE_TOKENS, "the sampled tokens are not valid text", start, index)
        )
    if read.merges:
        detail = "text would merge across the beginning of the sampled span"
        reports.append(FidelityReport(FidelityKind.BOUNDARY_MERGE, detail, start, index))
    return tuple(reports)


def _news(reports: Sequence[FidelityReport], known: Sequence[FidelityReport]) -> tuple[FidelityReport, ...]:
    """The reports that were not there before the tail was rendered anew."""
    return tuple(report for report in reports if report not in known)
