"""One episode's append-only log of turns: the committed stream, the pending tail, and everything derived from them.

T0 | S1 | T1 | S2 | ... : sampled spans S are kept bit for bit; the tail after the last one may be rendered anew until
somebody samples after it. Where the log stands is told by its head, an immutable value that owns every length. What is
appended is written at the head, over whatever lies there; so a step is taken back by putting the old head in its place.
Not safe for threads; its owner serializes. Knows nothing of limits, transforms or episode ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from chatenv_client.errors import HistoryRewrittenError
from chatenv_client.models import (
    FidelityKind,
    FidelityReport,
    HistoryPolicy,
    Message,
    MessageSnapshot,
    Origin,
    StopReason,
    Turn,
)
from chatenv_client.tokens import Float32Array, HashedPrefix, Int32Array, TokenSnapshot
from chatenv_server.engine import rewrites
from chatenv_server.engine.conversation import (
    EMPTY_TAIL,
    PendingRewrite,
    ReadTurn,
    RenderOptions,
    SampledTurn,
    Tail,
    TailPlace,
)
from chatenv_server.engine.records import Records, TemplatePart, Written
from chatenv_server.engine.renderer import Renderer
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


class Head(NamedTuple):
    """Where a log stands: replaced as a whole, never changed."""

    written: Written = Written()
    """What of the log's records counts: all that can never change any more."""
    tail: Tail = EMPTY_TAIL
    tail_step: int = 0
    tail_reward: float | None = None
    messages: list[Message | None] = []  # noqa: RUF012 - shared on purpose: of it only `message_count` are this head's
    """The conversation, the tail's messages included. None for a sampled turn that is read off its tokens when somebody
    asks."""
    message_count: int = 0
    tail_message: int = 0
    """First message of the tail."""
    last: SampledTurn | None = None
    pending_rewrite: PendingRewrite | None = None
    """The first committed message that later turns will make the template rewrite, until they have."""


class EpisodeLog:
    """The turns of one episode.

    Args:
        renderer: renders and reads for it.
        options: the episode's own.
        keeps_texts: whether to hold the texts of sampled turns beside their tokens. Else they are decoded again when
            somebody asks for the messages, which takes some twenty microseconds a turn and halves the memory.
    """

    __slots__ = ("_hashed", "_head", "_keeps_texts", "_records", "options", "renderer")

    def __init__(self, renderer: Renderer, options: RenderOptions, *, keeps_texts: bool = True) -> None:
        self.renderer = renderer
        self.options = options
        self._records = Records()
        self._keeps_texts = keeps_texts or renderer.reads_history
        self._head = Head(messages=[])
        self._hashed = HashedPrefix()

    # -- reading ----------------------------------------------------------------------------------

    def __len__(self) -> int:
        return self._head.written.tokens + len(self._head.tail.tokens)

    @property
    def stream(self) -> TokenSnapshot:
        """The token stream as it is now; costs no copy."""
        return TokenSnapshot(self._committed, self._head.tail.tokens, self._hashed)

    @property
    def _committed(self) -> Int32Array:
        return self._records.tokens.view(0, self._head.written.tokens)

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
        span = self._records.turns.span_of(index, self._head.written.turns)
        tokens = self._records.tokens
        before = tokens.view(max(0, span.start - _END_TOKENS), span.start)
        return self.renderer.read_turn(tokens.view(span.start, span.stop), before, prompted=span.prompted).message

    @property
    def generation_prompt_length(self) -> int:
        """How many trailing tokens ask the model to speak."""
        return self._head.tail.generation_prompt_length

    def fingerprint(self) -> str:
        """Fingerprint of the stream; costs the tail, and what was committed since it was asked for last."""
        return self.stream.fingerprint()

    def turns(self) -> tuple[Turn, ...]:
        """All turns, the pending tail last."""
        committed, extent = self._records.turns.first(self._head.written.turns), _tail_extent(self._head)
        if extent is None:
            return committed
        return (*committed, Turn(Origin.TEMPLATE, **extent._asdict(), reward=self._head.tail_reward))

    def reports(self) -> tuple[FidelityReport, ...]:
        """Everything that is not exact, the pending tail's reports last."""
        return (*self._records.reports[: self._head.written.reports], *self._head.tail.reports)

    def logprobs(self) -> Float32Array:
        """Logprobs of all turns that have them, in stream order."""
        logprobs: Float32Array = self._records.logprobs.view(0, self._head.written.logprobs).copy()
        return logprobs

    def message_spans(self) -> tuple[tuple[int, int], ...]:
        """(start, stop) of each message's part of the stream."""
        written, tail = self._head.written, self._head.tail
        starts = [*self._records.starts[: written.starts], *(written.tokens + start for start in tail.message_starts)]
        end = len(self) - self.generation_prompt_length
        return tuple(zip(starts, [*starts[1:], end], strict=True)) if starts else ()

    def _pending_messages(self) -> list[Message]:
        head = self._head
        pending: list[Message] = head.messages[head.tail_message : head.message_count]  # type: ignore[assignment]
        return pending  # given ones, which are all kept

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
        if len(self._hashed) > head.written.tokens:  # a step that was taken back
            self._hashed = HashedPrefix()

    # -- appending messages -----------------------------------------------------------------------

    def append_messages(self, messages: Sequence[Message], step: int) -> Change:
        """Append messages to the pending tail and render it anew.

        Raises:
            TemplateRejectedError: the template rejects them; nothing has changed.
            HistoryRewrittenError: the template would rewrite history and the policy is `strict`; nothing has changed.
        """
        head = self._head
        pending = self._pending_messages()
        tail = self._render_tail([*pending, *messages])
        _refuse_rewriting(self.options.history_policy, tail.reports)
        head.messages[head.message_count :] = messages
        count = head.message_count + len(messages)
        self.stand_at(head._replace(tail=tail, message_count=count, tail_step=head.tail_step if pending else step))
        held = head.written.tokens + shared_length(head.tail.tokens, tail.tokens)
        return Change(_news(tail.reports, head.tail.reports), held, count)

    def preview(self, messages: Sequence[Message]) -> tuple[int, Int32Array, tuple[FidelityReport, ...]]:
        """What the stream would become: (offset, tokens from there on, reports). Changes nothing.

        Raises:
            TemplateRejectedError: the template rejects the messages.
        """
        head = self._head
        tail = self._render_tail([*self._pending_messages(), *messages])
        shared = shared_length(head.tail.tokens, tail.tokens)
        return head.written.tokens + shared, tail.tokens[shared:], _news(tail.reports, head.tail.reports)

    def _render_tail(self, messages: Sequence[Message]) -> Tail:
        head = self._head
        if head.last is None:
            return self.renderer.opening(messages)
        history = MessageSnapshot(head.messages, head.last.message_index, self._read_back)
        pending = rewrites.to_check(head.pending_rewrite, head.last)
        return self.renderer.tail(TailPlace(history, head.last, self._committed, pending), messages)

    # -- appending sampled tokens -----------------------------------------------------------------

    def append_sampled(
        self,
        tokens: Int32Array,
        step: int,
        logprobs: Float32Array | None = None,
        stop_reason: StopReason | None = None,
        model_version: str = "",
    ) -> Change:
        """Commit the pending tail and append a sampled span: the stream becomes exactly prompt + tokens.

        A span after another one that ended without a stop token goes on with the same message.

        Raises:
            HistoryRewrittenError: policy `strict`, and the template would write something before this span; nothing
                has changed.
        """
        head, continued = self._head, self._continued_turn()
        if continued is None:
            start, span, index = len(self), tokens, head.message_count
            prompted, after_prompt = head.tail.generation_prompt_length > 0, self.options.add_generation_prompt
        else:
            start, index = continued.start, continued.message_index
            span = np.concatenate([self._committed[start:], tokens])
            prompted, after_prompt = continued.prompted, continued.after_prompt
        read = self.renderer.read_turn(span, self._end_before(start), prompted=prompted)
        reports = _reading_reports(read, start, index)
        if continued is None and not len(head.tail.tokens) and not self._pending_messages():
            reports = (_unprompted(len(self), index), *reports)
        _refuse_rewriting(self.options.history_policy, reports)
        reason = stop_reason or (StopReason.LENGTH if read.stop_id is None else StopReason.STOP)
        last = SampledTurn(
            read.message, index, read.text, read.close, read.stop_id, reason, start, after_prompt, prompted
        )
        written = self._records.write(
            head.written,
            _template_part(head, starts_message=continued is None),
            Extent(len(self), len(tokens), step, index, int(continued is None)),
            tokens,
            last,
            logprobs=logprobs,
            model_version=model_version,
            reports=reports,
        )
        self._commit(last, written)
        return Change(reports, written.tokens, index)

    def _end_before(self, position: int) -> Int32Array:
        """The end of the stream before `position`, which lies in the pending tail or at its edges."""
        within = position - self._head.written.tokens
        if within > 0:
            return self._head.tail.tokens[:within]
        return self._records.tokens.view(max(0, position - _END_TOKENS), position)

    def _continued_turn(self) -> SampledTurn | None:
        """The sampled turn that further tokens go on with: the last thing on record, cut off before a stop token."""
        head = self._head
        cut_off = head.last is not None and head.last.stop_id is None
        return head.last if cut_off and head.message_count == head.tail_message else None

    def _commit(self, last: SampledTurn, written: Written) -> None:
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
                written=written,
                tail_step=head.tail_step,
                messages=messages,
                message_count=count,
                tail_message=count,
                last=last,
                pending_rewrite=rewrites.left_by(head.pending_rewrite, tail),
            )
        )

    def _let_go_of(self, turn: SampledTurn | None) -> None:
        """Hold a turn's text no longer, now that nothing is rendered from it any more."""
        if turn is not None and not self._keeps_texts and "tool_calls" not in turn.message:
            self._head.messages[turn.message_index] = None

    def add_reward(self, reward: float) -> None:
        """Book a step's reward on the turn it appended; rewards of several steps on one tail add up."""
        if self._pending_messages():
            self._head = self._head._replace(tail_reward=(self._head.tail_reward or 0.0) + reward)
        elif self._head.written.turns:
            self._records.turns.reward(self._head.written.turns - 1, reward)


def _tail_extent(head: Head) -> Extent | None:
    """What the pending tail covers; None where it is no turn, having neither tokens nor messages."""
    count, length = head.message_count - head.tail_message, len(head.tail.tokens)
    if count == 0 and length == 0:
        return None
    return Extent(head.written.tokens, length, head.tail_step, head.tail_message, count)


def _template_part(head: Head, *, starts_message: bool) -> TemplatePart:
    """The pending tail, as it is recorded before a span that begins a message of its own, or goes on with one."""
    tail = head.tail
    starts = [head.written.tokens + start for start in tail.message_starts]
    if starts_message:
        starts.append(head.written.tokens + len(tail.tokens) - tail.generation_prompt_length)
    return TemplatePart(_tail_extent(head), tail.tokens, starts, head.tail_reward, tail.reports)


def _refuse_rewriting(policy: HistoryPolicy, reports: Sequence[FidelityReport]) -> None:
    if policy is HistoryPolicy.APPEND:
        return
    for report in reports:
        if report.kind is FidelityKind.HISTORY_REWRITTEN:
            raise HistoryRewrittenError(
                f"history_policy is 'strict' and {report.detail}; "
                "choose 'append', or template arguments that keep history"
            )


def _unprompted(position: int, message: int) -> FidelityReport:
    detail = "sampled without a prompt before it; the template would write one"
    return FidelityReport(FidelityKind.HISTORY_REWRITTEN, detail, position, message)


def _reading_reports(read: ReadTurn, start: int, index: int) -> tuple[FidelityReport, ...]:
    if not (read.problems or read.undecodable or read.merges):
        return ()
    reports = [FidelityReport(FidelityKind.TOOL_CALL_MALFORMED, problem, start, index) for problem in read.problems]
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


def shared_length(left: Int32Array, right: Int32Array) -> int:
    """Length of the common prefix of two stretches of a stream."""
    shared = min(len(left), len(right))
    if shared == 0:
        return 0  # nearly always: a tail is rendered anew only where messages follow messages
    different = np.flatnonzero(left[:shared] != right[:shared])
    return int(different[0]) if len(different) else shared
