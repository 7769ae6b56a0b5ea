"""What each Reset and Step of an episode did, as its log wrote it: enough to do it again without asking the template.

An entry holds no copy of what the log holds anyway. The newest one has its tokens and logprobs at hand; those of
earlier ones are looked up in the log when somebody asks for them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from chatenv_client.models import Failure, FidelityReport, Message, Origin, Segment, StopReason, Turn
from chatenv_client.tokens import EMPTY_TOKENS, Float32Array, Int32Array
from chatenv_server.engine.continuations import Continuation
from chatenv_server.engine.conversation import NO_NOTES, PendingRewrite, SpanNotes, Tail
from chatenv_server.engine.log import Change
from chatenv_server.environment.rewards import NO_REWARD, Earned
from chatenv_server.environment.times import Moments
from chatenv_server.values import value


class Sampled(NamedTuple):
    """A span as its caller gave it."""

    tokens: Int32Array = EMPTY_TOKENS
    """(n,) int32."""
    logprobs: Float32Array | None = None
    """(n,) float32."""
    stop_reason: StopReason | None = None
    """None: told by the last token."""
    notes: SpanNotes = NO_NOTES
    message: Message | None = None
    """The message that the turn is, where the caller gave it."""


class Outcome(NamedTuple):
    """What a step came to, beside what the log holds."""

    reward: Earned = NO_REWARD
    terminated: bool = False
    truncated: bool = False
    metadata: Mapping[str, Any] | None = None
    """None: the episode's own."""
    transform_state: Mapping[str, Any] | None = None
    """None: there is no transform that keeps state."""
    task_state: Mapping[str, Any] | None = None
    """None: there is no task, or what it knows cannot be told."""
    failure: Failure | None = None
    """Why the episode ended with it that something broke in."""


NO_OUTCOME: Final = Outcome()
"""Of a step that nothing came of: most."""


class Entry(NamedTuple):
    """What one Reset or Step did."""

    then: Continuation | None = None
    """How the stream went on with messages, the caller's or what a task answered; None: with none."""
    shared: int = 0
    """Leading tokens of the new tail that the stream before had in that place."""
    more: Int32Array | None = None
    """(n,) int32, the tokens after those; None: the tail of `then` has them."""
    sampled: Sampled | None = None
    """None: it brought messages."""
    reports: tuple[FidelityReport, ...] = ()
    """On a sampled span."""
    read: Message | None = None
    """The message that was read from sampled tokens, where it is more than their text."""
    outcome: Outcome = NO_OUTCOME

    @property
    def new_tokens(self) -> Int32Array:
        """(n,) int32, what the new tail has after the tokens that it shares."""
        if self.more is not None or self.then is None:
            return EMPTY_TOKENS if self.more is None else self.more
        return self.then.tail.tokens[self.shared :]


@value
class Appended:
    """What a step appended."""

    change: Change
    """What it did to the log."""
    sampled: Sampled | None = None
    """The span, where it brought one."""
    answered: Change | None = None
    """What a task's answer to it did to the log."""
    moments: Moments = Moments()
    """When it came."""

    @property
    def shown(self) -> Change:
        """What all of it did, for those who saw the episode before and sent the step."""
        change, answered = self.change, self.answered
        if answered is None:
            return change
        return Change(
            change.reports + answered.reports,
            min(change.held_tokens, answered.held_tokens),
            min(change.held_messages, answered.held_messages),
        )


class _Tail(NamedTuple):
    """An entry of which there is no more to tell than most have: one message, and a tail that a span has committed."""

    message: Message
    first: int
    shared: int
    generation_prompt_length: int
    start: int
    pending_rewrite: PendingRewrite | None

    def entry(self) -> Entry:
        tail = Tail(EMPTY_TOKENS, self.generation_prompt_length, (self.start,), pending_rewrite=self.pending_rewrite)
        return Entry(Continuation(tail, self.first, [self.message], 0, frozenset()), self.shared)


_PLAIN: Final = Sampled()
_PLAIN_SPAN: Final = Entry(sampled=_PLAIN)
"""Any span of which there is no more to tell than its turn tells."""


class Journal:
    """The entries of one episode, the opening first.

    Args:
        keeps: whether to keep all of them; else only the newest one, for somebody else to keep.
    """

    __slots__ = ("_earlier", "_keeps", "_newest", "outcome")

    def __init__(self, *, keeps: bool = True) -> None:
        self._keeps = keeps
        self._earlier: list[Entry | _Tail] = []
        self._newest: Appended | None = None
        self.outcome = NO_OUTCOME
        """Of the newest entry."""

    def add(self, appended: Appended, outcome: Outcome) -> None:
        """Add the newest entry."""
        if self._keeps and self._newest is not None:
            is_committed = appended.sampled is not None
            self._earlier.append(_without_copies(self._newest, self.outcome, is_committed=is_committed))
        self._newest, self.outcome = appended, outcome

    @property
    def newest(self) -> Entry:
        """The newest entry, whole.

        Raises:
            LookupError: there is none.
        """
        if self._newest is None:
            raise LookupError("the journal is empty")
        then, shared = _went_on(self._newest)
        if self._newest.sampled is None:
            return Entry(then, shared, outcome=self.outcome)
        change = self._newest.change
        return Entry(then, shared, None, self._newest.sampled, change.reports, change.read, self.outcome)

    def first(self, count: int, segments: Sequence[Segment]) -> Iterator[Entry]:
        """The first `count` entries, with what the segments of the log hold of them.

        Raises:
            RuntimeError: they are kept by somebody else.
        """
        if not self._keeps:
            raise RuntimeError("the environment was made with keeps_journal=False, and holds no journal to look into")
        spans = {span.turn.step: span for span in _spans(segments)}
        for step, kept in enumerate([*self._earlier, self.newest][:count]):
            entry = kept.entry() if isinstance(kept, _Tail) else kept
            if entry.sampled is not None:
                entry = _with_span(entry, entry.sampled, spans[step])
            if entry.then is not None and step + 1 in spans:
                entry = entry._replace(more=spans[step + 1].tail[entry.shared :])
            yield entry


def _without_copies(appended: Appended, outcome: Outcome, *, is_committed: bool) -> Entry | _Tail:
    """An entry without what the log holds: a span, and of a tail what it shares or a span has committed."""
    change, sampled = appended.change, appended.sampled
    then, shared = _went_on(appended)
    if sampled is not None:
        message, columns = sampled.message, sampled.notes.columns
        if then is None and not (message or columns or change.reports or change.read):
            return _PLAIN_SPAN if outcome == NO_OUTCOME else Entry(sampled=_PLAIN, outcome=outcome)
        sampled = Sampled(notes=SpanNotes(columns=columns), message=message)
    elif then is not None and is_committed and outcome == NO_OUTCOME and _tells_no_more(then):
        tail = then.tail
        start, asked, rewrite = tail.message_starts[0], tail.generation_prompt_length, tail.pending_rewrite
        return _Tail(then.messages[0], then.first, shared, asked, start, rewrite)
    more = None
    if then is not None:
        more = EMPTY_TOKENS if is_committed else then.tail.tokens[shared:].copy()
        # In full, here and below: `replace` takes several times as long, and each step leaves an entry behind.
        kept = None if then.kept is None else ()
        then = Continuation(_without_tokens(then.tail), then.first, then.messages, then.recorded, then.own, kept)
    reports = () if sampled is None else change.reports
    return Entry(then, shared, more, sampled, reports, change.read, outcome)


def _without_tokens(tail: Tail) -> Tail:
    asked, starts = tail.generation_prompt_length, tail.message_starts
    return Tail(EMPTY_TOKENS, asked, starts, tail.reports, tail.pending_rewrite, prefill=tail.prefill)


def _went_on(appended: Appended) -> tuple[Continuation | None, int]:
    """How the stream went on with messages, and how many leading tokens of that were there before."""
    messages = appended.change if appended.sampled is None else appended.answered
    return (None, 0) if messages is None else (messages.then, messages.shared)


def _tells_no_more(then: Continuation) -> bool:
    is_one = len(then.messages) == len(then.tail.message_starts) == 1
    return is_one and then.kept is None and not (then.recorded or then.tail.reports or then.tail.prefill)


class _Span(NamedTuple):
    """A sampled span in a log."""

    turn: Turn
    tokens: Int32Array
    logprobs: Float32Array | None
    tail: Int32Array
    """(n,) int32, what the template wrote before it."""


def _spans(segments: Sequence[Segment]) -> Iterator[_Span]:
    for segment in segments:
        tail = EMPTY_TOKENS
        for turn in segment.turns:
            tokens = segment.tokens[turn.start : turn.stop]
            if turn.origin is Origin.SAMPLED:
                logprobs = segment.logprobs[turn.start : turn.stop] if turn.has_logprobs else None
                yield _Span(turn, tokens, logprobs, tail)
            tail = tokens if turn.origin is Origin.TEMPLATE else EMPTY_TOKENS


def _with_span(entry: Entry, sampled: Sampled, span: _Span) -> Entry:
    turn = span.turn
    notes = SpanNotes(turn.model_version, turn.model_version_runs, turn.sampled_runs, sampled.notes.columns)
    return entry._replace(sampled=Sampled(span.tokens, span.logprobs, turn.stop_reason, notes, sampled.message))
