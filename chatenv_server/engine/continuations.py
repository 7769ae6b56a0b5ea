"""What messages make of a stream: a new tail, or a new segment.

A new segment begins where the stream cannot go on:

- the caller changes messages that are part of the committed stream, or
- the policy is `segment` and the stream is no longer what the template writes for the conversation.

Whether it is, is not asked of every step: a full rendering costs the whole conversation. It is asked where the tail, or
the reading of the last sampled turn, reports that the two may differ. On the plain path nothing sees that, so there it
is asked every time. Changes nothing: `log.py` stands where it is told to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from chatenv_client.errors import HistoryRewrittenError, TemplateRejectedError
from chatenv_client.models import FidelityKind, FidelityReport, HistoryPolicy, Message
from chatenv_client.tokens import Int32Array
from chatenv_server.engine import rewrites
from chatenv_server.engine.conversation import RenderOptions, Reopening, Tail, TailPlace
from chatenv_server.engine.log_head import Head
from chatenv_server.engine.reading_back import conversation_at
from chatenv_server.engine.renderer import Renderer
from chatenv_server.values import value

MAY_DIFFER: Final = frozenset(
    {
        FidelityKind.HISTORY_REWRITTEN,
        FidelityKind.MESSAGE_DROPPED,
        FidelityKind.BOUNDARY_MERGE,
        FidelityKind.NONCANONICAL_STOP,
        FidelityKind.TRUNCATED_TURN_CLOSED,
        FidelityKind.STOP_STRING_OVERLAP,
        FidelityKind.UNDECODABLE_TOKENS,
    }
)
"""Reports after which the stream may be another one than the full rendering."""
_SAYS_DIFFERENT: Final = frozenset({FidelityKind.HISTORY_REWRITTEN, FidelityKind.BOUNDARY_MERGE})
"""Reports that say nothing but that: needless where the two are compared and the same."""


@value
class Continuation:
    """How a stream goes on."""

    tail: Tail
    """The new tail, or the opening of a new segment."""
    first: int
    """First message that is new: those from here on replace what was there."""
    messages: Sequence[Message]
    """The messages from `first` on."""
    recorded: int
    """Leading messages of an opening that were on record before its segment began."""
    own: frozenset[int]
    """Those of them that a model said; see `Reopening`."""
    kept: Sequence[Message] | None = None
    """The messages before `first`, where a segment begins; None: the stream goes on."""


class Continuations:
    """How one episode's stream goes on with messages."""

    __slots__ = ("_options", "_renderer")

    def __init__(self, renderer: Renderer, options: RenderOptions) -> None:
        self._renderer = renderer
        self._options = options

    def of(self, head: Head, messages: Sequence[Message], replace_from: int | None = None) -> Continuation:
        """How the stream goes on with messages, appended or in the place of those from `replace_from` on.

        Raises:
            TemplateRejectedError: the template rejects the messages.
            HistoryRewrittenError: the template would rewrite history and the policy is `strict`.
        """
        first = head.message_count
        if replace_from is not None:
            first, messages = self._first_change(head, messages, replace_from)
            if first == head.message_count and not messages:
                return Continuation(head.tail, first, (), head.recorded, head.own)
            if first < head.tail_message:
                return self._new_segment(head, first, messages, recorded=first)
        pending = head.pending_messages[: first - head.tail_message]
        recorded = min(head.recorded, first)
        own = head.own if first >= head.recorded else earlier(head.own, first)
        tail = self._tail(head, [*pending, *messages], lambda: Reopening(recorded, first, head.known_opening, own))
        if self._options.history_policy is HistoryPolicy.STRICT:
            refuse_rewriting(tail.reports)
        elif self._options.history_policy is HistoryPolicy.SEGMENT and self._may_differ(head, tail):
            return self._exact(head, first, messages, tail)
        return Continuation(tail, first, messages, recorded, own)

    def _first_change(
        self, head: Head, messages: Sequence[Message], replace_from: int
    ) -> tuple[int, Sequence[Message]]:
        """The first message that is really another one, and the messages from there on."""
        there = conversation_at(head, head.message_count, self._renderer).since(replace_from)
        same = next((i for i, (old, new) in enumerate(zip(there, messages, strict=False)) if old != new), None)
        count = min(len(there), len(messages)) if same is None else same
        return replace_from + count, messages[count:]

    def _tail(self, head: Head, messages: Sequence[Message], reopening: Callable[[], Reopening]) -> Tail:
        if head.last is None:
            return self._renderer.opening(messages, reopening() if head.sealed else None)
        history = conversation_at(head, head.last.message_index, self._renderer)
        pending = rewrites.to_check(head.pending_rewrite, head.last)
        return self._renderer.tail(TailPlace(history, head.last, head.committed, pending), messages)

    # -- the policy `segment` ---------------------------------------------------------------------

    def _may_differ(self, head: Head, tail: Tail) -> bool:
        if head.last is None:
            return False
        doubtful = head.is_doubtful or not self._renderer.sees_rewrites
        return doubtful or any(report.kind in MAY_DIFFER for report in tail.reports)

    def _exact(self, head: Head, first: int, messages: Sequence[Message], tail: Tail) -> Continuation:
        """The stream as it is, if it is what the template writes for the conversation, or a segment that is."""
        try:
            anew = self._new_segment(head, first, messages, recorded=head.tail_message)
        except TemplateRejectedError:
            # The template takes these turns after one another, but not as a whole. The model can go on all the same.
            return Continuation(tail, first, messages, head.recorded, head.own)
        if not self._is_stream(head, tail, anew.tail.tokens):
            return anew
        reports = tuple(report for report in tail.reports if report.kind not in _SAYS_DIFFERENT)
        return Continuation(replace(tail, reports=reports), first, messages, head.recorded, head.own)

    def _is_stream(self, head: Head, tail: Tail, tokens: Int32Array) -> bool:
        committed, count = head.committed, head.written.tokens
        if np.array_equal(committed, tokens[:count]) and np.array_equal(tail.tokens, tokens[count:]):
            return True
        if self._renderer.sees_rewrites:
            return False
        # All that can be told of a sampled turn is its text, which may be tokenised in other ways.
        text_of = self._renderer.text_of
        return text_of(np.concatenate([committed, tail.tokens])) == text_of(tokens)

    def _new_segment(self, head: Head, first: int, messages: Sequence[Message], *, recorded: int) -> Continuation:
        kept = conversation_at(head, first, self._renderer).since(0)
        own = earlier(head.own, first).union(self._said(head, kept))
        opening = self._renderer.opening([*kept, *messages], Reopening(recorded, first, head.known_opening, own))
        return Continuation(opening, first, messages, recorded, own, kept)

    def _said(self, head: Head, kept: Sequence[Message]) -> Iterator[int]:
        """Those of the messages in which a model said control tokens in this segment; see `Renderer.says_controls`."""
        tokens = head.records.tokens
        for index, start, stop in head.records.turns.said(head.written.turns):
            if index < len(kept) and self._renderer.says_controls(tokens.view(start, stop), kept[index]):
                yield index


def earlier(messages: frozenset[int], first: int) -> frozenset[int]:
    """Those of the messages that stand before one."""
    return frozenset(index for index in messages if index < first)


def refuse_rewriting(reports: Sequence[FidelityReport]) -> None:
    """Raise HistoryRewrittenError if one of them says so."""
    for report in reports:
        if report.kind is FidelityKind.HISTORY_REWRITTEN:
            raise HistoryRewrittenError(
                f"history_policy is 'strict' and {report.detail}; "
                "choose 'segment', 'append', or template arguments that keep history"
            )
