"""One episode's append-only log of turns: the committed stream, the pending tail, and everything derived from them.

T0 | S1 | T1 | S2 | ... : sampled spans S are kept bit for bit; the tail behind the last one may be rendered anew
until somebody samples after it. Not safe for threads; its owner serialises. Knows nothing of limits, transforms or
episode ids.
"""

from __future__ import annotations

from array import array
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
    is_plain,
)
from chatenv_client.tokens import Fingerprint, Float32Array, GrowingArray, Int32Array, TokenSnapshot
from chatenv_server.engine.conversation import (
    EMPTY_TAIL,
    PendingRewrite,
    ReadTurn,
    Renderer,
    RenderOptions,
    SampledTurn,
    Tail,
)
from chatenv_server.engine.turn_table import Extent, TurnTable

_END_TOKENS = 16
"""How much of a stream's end decides how text behind it is read."""


class Change(NamedTuple):
    """What one append did."""

    reports: tuple[FidelityReport, ...]
    """What was not exact about it."""
    held_tokens: int
    """Length of the new stream's prefix that a caller holds who saw the old one and sent this append."""
    held_messages: int
    """Number of leading messages that such a caller holds."""


class _Head(NamedTuple):
    """Where the log stands: replaced as a whole, so that an append can be taken back."""

    fingerprint: Fingerprint
    """Of the committed tokens. Never changed, only extended into another."""
    committed: int = 0
    """Tokens that can never change."""
    tail: Tail = EMPTY_TAIL
    tail_message: int = 0
    """First message of the tail."""
    tail_step: int = 0
    tail_reward: float | None = None
    message_count: int = 0
    last: SampledTurn | None = None
    watch: PendingRewrite | None = None
    """The first committed message that later turns will make the template rewrite, until they have."""


class Mark(NamedTuple):
    """A moment of a log that it can be taken back to."""

    head: _Head
    messages: list[Message | None]
    turns: int
    starts: int
    reports: int
    logprobs: int


class EpisodeLog:
    """The turns of one episode.

    Args:
        renderer: renders and reads for it.
        options: the episode's own.
        keeps_texts: whether to hold the texts of sampled turns beside their tokens. Else they are decoded again when
        somebody asks for the messages, which takes some twenty microseconds a turn and halves the memory.
    """

    __slots__ = (
        "_fingerprint",
        "_head",
        "_keeps_texts",
        "_logprobs",
        "_messages",
        "_reports",
        "_starts",
        "_tokens",
        "_turns",
        "options",
        "renderer",
    )

    def __init__(self, renderer: Renderer, options: RenderOptions, *, keeps_texts: bool = True) -> None:
        self.renderer = renderer
        self.options = options
        self._tokens = GrowingArray(np.int32)
        self._logprobs = GrowingArray(np.float32)
        self._turns = TurnTable()
        self._starts = array("i")
        """First token of each committed message."""
        self._reports: list[FidelityReport] = []
        self._keeps_texts = keeps_texts or renderer.reads_history
        self._messages: list[Message | None] = []
        """None for a sampled turn that is read off its tokens when somebody asks."""
        self._head = _Head(Fingerprint())
        self._fingerprint = ""
        """Of the stream as it is; empty: not asked for since it changed."""

    # -- reading ----------------------------------------------------------------------------------

    def __len__(self) -> int:
        return self._head.committed + len(self._head.tail.tokens)

    @property
    def stream(self) -> TokenSnapshot:
        """The token stream as it is now; costs no copy."""
        return TokenSnapshot(self._tokens.view(0, self._head.committed), self._head.tail.tokens)

    @property
    def message_count(self) -> int:
        """Messages of the conversation."""
        return self._head.message_count

    @property
    def conversation(self) -> MessageSnapshot:
        """The messages as they are now; costs no copy."""
        return MessageSnapshot(self._messages, self._head.message_count, self._read_back)

    def _read_back(self, index: int) -> Message:
        """A sampled message, read as it was when it came."""
        span = self._turns.span_of(index)
        before = self._tokens.view(max(0, span.start - _END_TOKENS), span.start)
        return self.renderer.read_turn(self._tokens.view(span.start, span.stop), before, prompted=span.prompted).message

    @property
    def generation_prompt_length(self) -> int:
        """How many trailing tokens ask the model to speak."""
        return self._head.tail.generation_prompt_length

    def fingerprint(self) -> str:
        """Fingerprint of the stream; costs the tail, once."""
        self._fingerprint = self._fingerprint or self._head.fingerprint.with_tail(self._head.tail.tokens)
        return self._fingerprint

    def turns(self) -> tuple[Turn, ...]:
        """All turns, the pending tail last."""
        extent = self._tail_extent()
        if extent is None:
            return tuple(self._turns)
        return (*self._turns, Turn(Origin.TEMPLATE, **extent._asdict(), reward=self._head.tail_reward))

    def reports(self) -> tuple[FidelityReport, ...]:
        """Everything that is not exact, the pending tail's reports last."""
        return (*self._reports, *self._head.tail.reports)

    def logprobs(self) -> Float32Array:
        """Logprobs of all turns that have them, in stream order."""
        logprobs: Float32Array = self._logprobs.view().copy()
        return logprobs

    def message_spans(self) -> tuple[tuple[int, int], ...]:
        """(start, stop) of each message's part of the stream."""
        starts = [*self._starts, *(self._head.committed + start for start in self._head.tail.message_starts)]
        end = len(self) - self.generation_prompt_length
        return tuple(zip(starts, [*starts[1:], end], strict=True)) if starts else ()

    def _pending_messages(self) -> list[Message]:
        pending: list[Message] = self._messages[self._head.tail_message : self._head.message_count]  # type: ignore[assignment]
        return pending  # given ones, which are all kept

    def _tail_extent(self) -> Extent | None:
        """What the pending tail covers; None where it is no turn, having neither tokens nor messages."""
        head = self._head
        count, length = head.message_count - head.tail_message, len(head.tail.tokens)
        if count == 0 and length == 0:
            return None
        return Extent(head.committed, length, head.tail_step, head.tail_message, count)

    # -- taking back ------------------------------------------------------------------------------

    def mark(self) -> Mark:
        """Remember this moment."""
        return Mark(
            self._head, self._messages, len(self._turns), len(self._starts), len(self._reports), len(self._logprobs)
        )

    def take_back(self, mark: Mark) -> None:
        """Forget everything since `mark`. Snapshots taken since then must not be used any more."""
        self._head, self._messages, self._fingerprint = mark.head, mark.messages, ""
        del self._messages[mark.head.message_count :]
        del self._starts[mark.starts :], self._reports[mark.reports :]
        self._turns.truncate(mark.turns)
        self._tokens.truncate(mark.head.committed)
        self._logprobs.truncate(mark.logprobs)

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
        self._refuse_rewriting(tail.reports)
        self._messages.extend(messages)
        self._head = head._replace(
            tail=tail, message_count=len(self._messages), tail_step=head.tail_step if pending else step
        )
        self._fingerprint = ""
        held = head.committed + _shared_length(head.tail.tokens, tail.tokens)
        return Change(_news(tail.reports, head.tail.reports), held, len(self._messages))

    def preview(self, messages: Sequence[Message]) -> tuple[int, Int32Array, tuple[FidelityReport, ...]]:
        """What the stream would become: (offset, tokens from there on, reports). Changes nothing.

        Raises:
            TemplateRejectedError: the template rejects the messages.
        """
        head = self._head
        tail = self._render_tail([*self._pending_messages(), *messages])
        shared = _shared_length(head.tail.tokens, tail.tokens)
        return head.committed + shared, tail.tokens[shared:], _news(tail.reports, head.tail.reports)

    def _render_tail(self, messages: Sequence[Message]) -> Tail:
        head = self._head
        if head.last is None:
            return self.renderer.opening(messages)
        history = MessageSnapshot(self._messages, head.last.message_index, self._read_back)
        committed = self._tokens.view(0, head.committed)
        watch = None if head.watch is None or head.watch.message_index == head.last.message_index else head.watch
        return self.renderer.tail(history, head.last, messages, committed, watch)

    def _refuse_rewriting(self, reports: Sequence[FidelityReport]) -> None:
        if self.options.history_policy is HistoryPolicy.APPEND:
            return
        for report in reports:
            if report.kind is FidelityKind.HISTORY_REWRITTEN:
                raise HistoryRewrittenError(
                    f"history_policy is 'strict' and {report.detail}; "
                    "choose 'append', or template arguments that keep history"
                )

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

        A span behind another one that ended without a stop token goes on with the same message.

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
            span = np.concatenate([self._tokens.view(start), tokens])
            prompted, after_prompt = continued.prompted, continued.after_prompt
        read = self.renderer.read_turn(span, self._end_before(start), prompted=prompted)
        reports = _reading_reports(read, start, index)
        if continued is None and not len(head.tail.tokens):
            reports = (*self._unprompted_reports(index), *reports)
        self._refuse_rewriting(reports)
        reason = stop_reason or (StopReason.LENGTH if read.stop_id is None else StopReason.STOP)
        self._commit_tail(starts_message=continued is None)
        self._turns.add_sampled(
            Extent(len(self), len(tokens), step, index, int(continued is None)),
            reason,
            prompted=prompted,
            has_logprobs=logprobs is not None,
            model_version=model_version,
        )
        last = SampledTurn(
            read.message, index, read.text, read.close, read.stop_id, reason, start, after_prompt, prompted
        )
        self._commit_span(tokens, last)
        if logprobs is not None:
            self._logprobs.extend(logprobs)
        self._reports.extend(reports)
        return Change(reports, len(self._tokens), index)

    def _end_before(self, position: int) -> Int32Array:
        """The end of the stream before `position`, which lies in the pending tail or at its edges."""
        within = position - self._head.committed
        if within > 0:
            return self._head.tail.tokens[:within]
        return self._tokens.view(max(0, position - _END_TOKENS), position)

    def _continued_turn(self) -> SampledTurn | None:
        """The sampled turn that further tokens go on with: the last thing on record, cut off before a stop token."""
        head = self._head
        cut_off = head.last is not None and head.last.stop_id is None
        return head.last if cut_off and head.message_count == head.tail_message else None

    def _unprompted_reports(self, index: int) -> tuple[FidelityReport, ...]:
        if self._pending_messages():
            return ()
        detail = "sampled without a prompt before it; the template would write one"
        return (FidelityReport(FidelityKind.HISTORY_REWRITTEN, detail, len(self), index),)

    def _commit_tail(self, starts_message: bool) -> None:
        head, tail = self._head, self._head.tail
        extent = self._tail_extent()
        if extent is not None:
            self._turns.add_template(extent, head.tail_reward)
        for start in tail.message_starts:
            self._starts.append(head.committed + start)
        if starts_message:
            self._starts.append(head.committed + len(tail.tokens) - tail.generation_prompt_length)
        self._reports.extend(tail.reports)

    def _commit_span(self, tokens: Int32Array, last: SampledTurn) -> None:
        head, tail = self._head, self._head.tail
        if last.message_index == head.message_count:
            self._let_go_of(head.last)
            self._messages.append(last.message)
        else:
            # Snapshots handed out share the old list, in which the message must stay as it was.
            self._messages = [*self._messages[: last.message_index], last.message]
        self._tokens.extend(tail.tokens, tokens)
        watch = tail.watch if head.watch is None or _rewrites(tail.reports) else head.watch
        count = len(self._messages)
        self._head = _Head(
            fingerprint=head.fingerprint.extended(tail.tokens, tokens),
            committed=len(self._tokens),
            tail_message=count,
            tail_step=head.tail_step,
            message_count=count,
            last=last,
            watch=watch,
        )
        self._fingerprint = ""

    def _let_go_of(self, turn: SampledTurn | None) -> None:
        """Hold a turn's text no longer, now that nothing is rendered from it any more."""
        if turn is not None and not self._keeps_texts and is_plain(turn.message):
            self._messages[turn.message_index] = None

    def add_reward(self, reward: float) -> None:
        """Book a step's reward on the turn it appended; rewards of several steps on one tail add up."""
        if self._pending_messages():
            self._head = self._head._replace(tail_reward=(self._head.tail_reward or 0.0) + reward)
        elif len(self._turns):
            self._turns.reward_last(reward)


def _rewrites(reports: Sequence[FidelityReport]) -> bool:
    return any(report.kind is FidelityKind.HISTORY_REWRITTEN for report in reports)


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


def _shared_length(left: Int32Array, right: Int32Array) -> int:
    """Length of the common prefix."""
    shared = min(len(left), len(right))
    if shared == 0:
        return 0  # nearly always: a tail is rendered anew only where messages follow messages
    different = np.flatnonzero(left[:shared] != right[:shared])
    return int(different[0]) if len(different) else shared
