"""One episode's append-only log of turns: how what comes is appended to the committed stream and the pending tail.

T0 | S1 | T1 | S2 | ... : sampled spans S are kept bit for bit; the tail after the last one may be rendered anew until
somebody samples after it. Such a stream is a segment. Where history changes, it is sealed and another one begins
(`segments.py`); `continuations.py` says when.

Where the log stands is told by its head, an immutable value that owns every length. What is appended is written at the
head, over whatever lies there; a new segment has records of its own. So a step is taken back by putting the old head in
its place. `log_reading.py` says what follows from all that. Not safe for threads; its owner serializes. Knows nothing
of limits, transforms or episode ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from chatenv_client.errors import TemplateRejectedError
from chatenv_client.models import (
    FidelityKind,
    FidelityReport,
    HistoryPolicy,
    Message,
    StopReason,
    is_plain,
)
from chatenv_client.tokens import Float32Array, HashedPrefix, Int32Array, shared_length
from chatenv_server.engine import rewrites
from chatenv_server.engine.continuations import Continuation, earlier, refuse_rewriting
from chatenv_server.engine.conversation import (
    NO_NOTES,
    OpeningText,
    ReadTurn,
    RecordedTurn,
    RenderOptions,
    SampledTurn,
    SpanNotes,
    Tail,
)
from chatenv_server.engine.log_head import Head
from chatenv_server.engine.log_reading import LogReading
from chatenv_server.engine.reading_back import conversation_at
from chatenv_server.engine.records import Records, Written
from chatenv_server.engine.renderer import Renderer
from chatenv_server.engine.segments import sealed_with
from chatenv_server.engine.span_place import SpanPlace, end_before, place_of
from chatenv_server.engine.turn_table import Extent
from chatenv_server.values import value


@value
class Change:
    """What one append did."""

    reports: tuple[FidelityReport, ...]
    """What was not exact about it."""
    held_tokens: int
    """Length of the new stream's prefix that a caller holds who saw the old one and sent this append."""
    held_messages: int
    """Number of leading messages that such a caller holds."""
    then: Continuation | None = None
    """How the stream went on with messages; None: with sampled tokens."""
    shared: int = 0
    """Leading tokens of the new tail that the stream before had in that place."""
    read: Message | None = None
    """The message that was read from sampled tokens, where it is more than their text."""


NO_CHANGE: Final = Change((), 0, 0)


class EpisodeLog(LogReading):
    """The turns of one episode.

    Args:
        renderer: renders and reads for it.
        options: the episode's own.
        keeps_texts: whether to hold the texts of sampled turns beside their tokens. Else they are decoded again when
            somebody asks for the messages, which takes some twenty microseconds a turn and halves the memory.
    """

    __slots__ = ("_keeps_texts",)

    def __init__(self, renderer: Renderer, options: RenderOptions, *, keeps_texts: bool = True) -> None:
        super().__init__(renderer, options)
        self._keeps_texts = keeps_texts or renderer.reads_history

    # -- where the log stands ---------------------------------------------------------------------

    def go_back_to(self, head: Head) -> None:
        """Stand where the log stood before. Snapshots of what is taken back must not be used any more."""
        self.head = head
        if len(head.records.hashed) > head.written.tokens:
            head.records.hashed = HashedPrefix()

    # -- messages ---------------------------------------------------------------------------------

    def append_messages(self, messages: Sequence[Message], step: int, replace_from: int | None = None) -> Change:
        """Append messages, or put them in the place of all from `replace_from` on, and render the tail anew.

        Where the stream cannot go on so, a segment begins; see `continuations.py`.

        Raises:
            TemplateRejectedError: the template rejects them; nothing has changed.
            HistoryRewrittenError: the template would rewrite history and the policy is `strict`; nothing has changed.
        """
        return self._go_on(self._continuations.of(self.head, messages, replace_from), step)

    def open_inside(self, messages: Sequence[Message]) -> Change:
        """Begin with an opening that ends inside its last message, an assistant's, which the model goes on with.

        Raises:
            TemplateRejectedError: the template rejects the messages, or does not write that text.
        """
        return self._go_on(Continuation(self.renderer.opening_inside(messages), 0, messages, 0, frozenset()), step=0)

    def go_on_as_recorded(self, then: Continuation, step: int) -> Change:
        """Go on as the stream did when it was first written, without asking the template. Its `kept` is found here."""
        if then.kept is not None:
            then = replace(then, kept=conversation_at(self.head, then.first, self.renderer).since(0))
        return self._go_on(then, step)

    def _go_on(self, then: Continuation, step: int) -> Change:
        head = self.head
        count = then.first + len(then.messages)
        held = self._held_tokens(then)
        if then.kept is not None:
            self._begin_segment(then, then.kept, step)
            return Change(then.tail.reports, held, count, then, held)
        if then.first == head.message_count:
            held_messages = head.messages
            held_messages[then.first :] = then.messages
        else:
            # Snapshots handed out share the old list, in which the messages must stay.
            held_messages = [*head.messages[: then.first], *then.messages]
        begun = head.tail_step if head.message_count > head.tail_message else step
        self.head = Head(
            records=head.records,
            written=head.written,
            tail=then.tail,
            tail_step=begun,
            messages=held_messages,
            message_count=count,
            tail_message=head.tail_message,
            last=head.last,
            pending_rewrite=head.pending_rewrite,
            is_doubtful=head.is_doubtful,
            opening=head.opening,
            recorded=then.recorded,
            own=then.own,
            said=head.said if then.first >= head.recorded else earlier(head.said, then.first),
            sealed=head.sealed,
        )
        return Change(_news(then.tail.reports, head.tail.reports), held, count, then, held - head.written.tokens)

    def _begin_segment(self, then: Continuation, kept: Sequence[Message], step: int) -> None:
        head = self.head
        self.head = Head(
            Records(),
            tail=then.tail,
            tail_step=step,
            messages=[*kept, *then.messages],
            message_count=len(kept) + len(then.messages),
            recorded=then.recorded,
            own=then.own,
            said=earlier(self.sampled_messages, then.first),
            sealed=sealed_with(head.sealed, head.records, head.written, head.tail_message),
        )

    def preview(self, messages: Sequence[Message]) -> tuple[int, Int32Array, tuple[FidelityReport, ...]]:
        """What the stream would become: (offset, tokens from there on, reports). Changes nothing.

        Raises:
            TemplateRejectedError: the template rejects the messages.
        """
        head = self.head
        then = self._continuations.of(head, messages)
        held = self._held_tokens(then)
        if then.kept is not None:
            return held, then.tail.tokens[held:], then.tail.reports
        return held, then.tail.tokens[held - head.written.tokens :], _news(then.tail.reports, head.tail.reports)

    def _held_tokens(self, then: Continuation) -> int:
        """Length of the prefix that the new stream has in common with this one."""
        head = self.head
        if then.kept is None:
            return head.written.tokens + shared_length(head.tail.tokens, then.tail.tokens)
        tokens = then.tail.tokens
        held = shared_length(head.committed, tokens)
        return held + (shared_length(head.tail.tokens, tokens[held:]) if held == head.written.tokens else 0)

    # -- appending sampled tokens -----------------------------------------------------------------

    def append_sampled(
        self,
        tokens: Int32Array,
        logprobs: Float32Array | None = None,
        stop_reason: StopReason | None = None,
        notes: SpanNotes = NO_NOTES,
        message: Message | None = None,
        *,
        step: int,
        recorded: RecordedTurn | None = None,
    ) -> Change:
        """Commit the pending tail and append a sampled span: the stream becomes exactly prompt + tokens.

        A span after another one that ended without a stop token goes on with the same message.

        Args:
            tokens: the span.
            logprobs: of each token; None: not given.
            stop_reason: why sampling stopped; None: told by the last token.
            notes: what else there is to know of it.
            message: the whole turn as the caller read it; None: it is read from the tokens.
            step: the step that appends it.
            recorded: how it was read when it came first, which then holds; None: it comes now.

        Raises:
            HistoryRewrittenError: policy `strict`, and the template would write something before this span; nothing
                has changed.
            TemplateRejectedError: the template has written nothing of the messages that are there; nothing has changed.
        """
        head, length = self.head, len(self)
        if not length and head.pending_messages:
            raise TemplateRejectedError(
                "the chat template has written nothing yet: it waits for a user's message; append one, then sample",
                field="tokens",
            )
        place = place_of(head, tokens, asks=self.options.add_generation_prompt)
        index, starts_message = place.message_index, place.starts_message
        read = self.renderer.read_turn(
            place.ids, end_before(head, place.start), index, prompted=place.prompted, known=place.known
        )
        is_given = message is not None
        if message is not None:
            read = replace(read, message=message, problems=())
        elif recorded is not None and recorded.message != _told(read):
            read, is_given = _as_recorded(read, recorded), True
        reports = self._reports_on(read, place) if recorded is None else recorded.reports
        last = _turn_of(place, read, stop_reason, is_given=is_given)
        written = head.records.write(
            head.written,
            head.template_part(starts_message=starts_message),
            Extent(length, len(tokens), step, index, int(starts_message)),
            tokens,
            last,
            logprobs=logprobs,
            notes=notes,
            reports=reports,
        )
        self._commit(last, written, is_doubtful=bool(reports) or (place.continued is not None and head.is_doubtful))
        return Change(reports, written.tokens, index, read=None if message is not None else _told(read))

    def _reports_on(self, read: ReadTurn, place: SpanPlace) -> tuple[FidelityReport, ...]:
        """What is not exact about a span. Raises HistoryRewrittenError where the policy forbids that."""
        reports = _reading_reports(read, place.start, place.message_index)
        if place.continued is None and not len(self.head.tail.tokens) and not self.head.pending_messages:
            reports = (_unprompted(place.start, place.message_index), *reports)
        if self.options.history_policy is HistoryPolicy.STRICT:
            refuse_rewriting(reports)
        return reports

    def _commit(self, last: SampledTurn, written: Written, *, is_doubtful: bool) -> None:
        """Stand after a span whose tail and tokens are written."""
        head, tail = self.head, self.head.tail
        count = last.message_index + 1
        if last.message_index == head.message_count:
            self._let_go_of(head.last)
            head.messages[last.message_index :] = [last.message]
            messages = head.messages
        else:
            # Snapshots handed out share the old list, in which the message must stay as it was.
            messages = [*head.messages[: last.message_index], last.message]
        self.head = Head(
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
            said=head.said,
            sealed=head.sealed,
        )

    def _kept_opening(self, tail: Tail) -> OpeningText | None:
        """The text of the segment's opening, where it is likely that another segment begins like it."""
        is_likely = self.head.sealed or self.options.history_policy is HistoryPolicy.SEGMENT
        return (tail.opening or self.head.opening) if is_likely else None

    def _let_go_of(self, turn: SampledTurn | None) -> None:
        """Hold a turn's text no longer, now that nothing is rendered from it any more."""
        if not self._keeps_texts and turn is not None and _can_be_read_again(turn):
            self.head.messages[turn.message_index] = None


def _can_be_read_again(turn: SampledTurn) -> bool:
    """Whether a turn's message follows from the tokens that were sampled, and can be decoded quickly."""
    return not turn.is_given and not turn.is_prefilled and "tool_calls" not in turn.message


def _told(read: ReadTurn) -> Message | None:
    """The message that was read, where it is more than the text of its tokens."""
    message = read.message
    return None if is_plain(message) and message["content"] == read.text else message


def _as_recorded(read: ReadTurn, recorded: RecordedTurn) -> ReadTurn:
    message: Message = recorded.message or {"role": "assistant", "content": read.text}
    return replace(read, message=message)


def _turn_of(place: SpanPlace, read: ReadTurn, stop_reason: StopReason | None, *, is_given: bool) -> SampledTurn:
    return SampledTurn(
        read.message,
        place.message_index,
        read.text,
        read.close,
        read.stop_id,
        stop_reason or (StopReason.LENGTH if read.stop_id is None else StopReason.STOP),
        place.start,
        place.after_prompt,
        place.prompted,
        is_given=is_given,
        is_prefilled=place.is_prefilled,
    )


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
    if not reports:
        return ()
    before = frozenset(known)
    return tuple(report for report in reports if report not in before)
