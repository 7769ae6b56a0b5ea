"""What each Reset and Step of an episode did, as its log wrote it: enough to do it again without asking the template.

An entry holds no copy of what the log holds anyway. The newest one has its tokens and logprobs at hand; those of
earlier ones are looked up in the log when somebody asks for them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from chatenv_client.models import FidelityReport, Message, Origin, Segment, StopReason, Turn
from chatenv_client.tokens import EMPTY_TOKENS, Float32Array, Int32Array
from chatenv_server.engine.continuations import Continuation
from chatenv_server.engine.conversation import NO_NOTES, SpanNotes


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

    reward: float | None = None
    terminated: bool = False
    truncated: bool = False
    metadata: Mapping[str, Any] | None = None
    """None: the episode's own."""
    transform_state: Mapping[str, Any] | None = None
    """None: there is no transform that keeps state."""


NO_OUTCOME: Final = Outcome()
"""Of a step that nothing came of: most."""


class Entry(NamedTuple):
    """What one Reset or Step did."""

    then: Continuation | None = None
    """How the stream went on with messages; None: it brought tokens."""
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


_PLAIN_SPAN: Final = Entry(sampled=Sampled())
"""Any span of which there is no more to tell than its turn tells."""


class Journal:
    """The entries of one episode, the opening first.

    Args:
        keeps: whether to keep all of them; else only the newest one, for somebody else to keep.
    """

    __slots__ = ("_entries", "_keeps")

    def __init__(self, *, keeps: bool = True) -> None:
        self._keeps = keeps
        self._entries: list[Entry] = []

    def add(self, entry: Entry) -> None:
        """Add the newest entry."""
        if not self._keeps:
            self._entries.clear()
        elif self._entries:
            self._entries[-1] = _without_copies(self._entries[-1], is_committed=entry.sampled is not None)
        self._entries.append(entry)

    @property
    def newest(self) -> Entry:
        """The newest entry, whole."""
        return self._entries[-1]

    def first(self, count: int, segments: Sequence[Segment]) -> Iterator[Entry]:
        """The first `count` entries, with what the segments of the log hold of them.

        Raises:
            RuntimeError: they are kept by somebody else.
        """
        if not self._keeps:
            raise RuntimeError("the environment was made with keeps_journal=False, and holds no journal to look into")
        spans = {span.turn.step: span for span in _spans(segments)}
        for step, entry in enumerate(self._entries[:count]):
            if entry.sampled is not None:
                yield _with_span(entry, entry.sampled, spans[step])
            elif step + 1 in spans:
                yield entry._replace(more=spans[step + 1].tail[entry.shared :])
            else:
                yield entry


def _without_copies(entry: Entry, *, is_committed: bool) -> Entry:
    """An entry without what the log holds: a span, and of a tail what it shares or a span has committed."""
    then, sampled = entry.then, entry.sampled
    if sampled is not None:
        tells = sampled.message or sampled.notes.columns or entry.reports or entry.read
        if entry.outcome == NO_OUTCOME and not tells:
            return _PLAIN_SPAN
        notes = SpanNotes(columns=sampled.notes.columns)
        return entry._replace(sampled=Sampled(notes=notes, message=sampled.message))
    if then is None:
        return entry
    more = EMPTY_TOKENS if is_committed else entry.new_tokens.copy()
    tail = then.tail._replace(tokens=EMPTY_TOKENS, opening=None)
    return entry._replace(then=then._replace(tail=tail, kept=None if then.kept is None else ()), more=more)


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
