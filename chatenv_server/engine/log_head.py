"""Where a log stands: one immutable value that owns every length. To take a step back, put the old one in its place."""

from __future__ import annotations

from dataclasses import field

from chatenv_client.models import Message
from chatenv_client.tokens import Int32Array
from chatenv_server.engine.conversation import (
    EMPTY_TAIL,
    KnownOpening,
    OpeningText,
    PendingRewrite,
    SampledTurn,
    Tail,
)
from chatenv_server.engine.records import Records, TemplatePart, Written
from chatenv_server.engine.segments import SealedSegment
from chatenv_server.engine.turn_table import Extent
from chatenv_server.values import value


@value
class Head:
    """Where a log stands: replaced as a whole, never changed."""

    records: Records
    """Of the current segment."""
    written: Written = Written()
    """What of the records counts: all that can never change any more."""
    tail: Tail = EMPTY_TAIL
    tail_step: int = 0
    messages: list[Message | None] = field(default_factory=list)
    """The conversation, the tail's messages included. None for a sampled turn that is read off its tokens when somebody
    asks. Other heads share the list: of it only `message_count` are this one's."""
    message_count: int = 0
    tail_message: int = 0
    """First message of the tail."""
    last: SampledTurn | None = None
    pending_rewrite: PendingRewrite | None = None
    """The first committed message that later turns will make the template rewrite, until they have."""
    is_doubtful: bool = False
    """Whether something about the last sampled turn is such that a full rendering may hold other tokens."""
    opening: OpeningText | None = None
    """What the template wrote for the opening of the current segment, where another one may begin like it."""
    recorded: int = 0
    """Messages of the current segment's opening that were on record before it began."""
    own: frozenset[int] = frozenset()
    """Those of them that a model said; see `Reopening`."""
    said: frozenset[int] = frozenset()
    """Messages of the current segment's opening that a model said in an earlier one."""
    sealed: tuple[SealedSegment, ...] = ()
    """The segments before."""

    @property
    def committed(self) -> Int32Array:
        """(n,) int32, read-only: the stream without the tail."""
        tokens: Int32Array = self.records.tokens.view(0, self.written.tokens)
        return tokens

    @property
    def pending_messages(self) -> list[Message]:
        """The messages of the tail."""
        pending: list[Message] = self.messages[self.tail_message : self.message_count]  # type: ignore[assignment]
        return pending  # given ones, or ones that were read when their segment began: none is None

    @property
    def tail_extent(self) -> Extent | None:
        """What the pending tail covers; None where it is no turn, having nothing at all."""
        count, length = self.message_count - self.tail_message, len(self.tail.tokens)
        if count == 0 and length == 0:
            return None
        return Extent(self.written.tokens, length, self.tail_step, self.tail_message, count)

    def template_part(self, *, starts_message: bool) -> TemplatePart:
        """The tail, as it is recorded before a span that begins a message of its own, or goes on with one."""
        tail = self.tail
        starts = [self.written.tokens + start for start in tail.message_starts]
        if starts_message:
            starts.append(self.written.tokens + len(tail.tokens) - tail.generation_prompt_length)
        return TemplatePart(self.tail_extent, tail.tokens, starts, tail.reports)

    @property
    def known_opening(self) -> KnownOpening | None:
        """The current segment's opening, as far as another one can begin with its tokens."""
        if self.last is None:
            tail = self.tail
            return None if tail.opening is None else KnownOpening(tail.opening, tail.tokens, tail.message_starts)
        if self.opening is None:
            return None
        return KnownOpening(self.opening, self.committed, self.records.starts[: len(self.opening.starts)])
