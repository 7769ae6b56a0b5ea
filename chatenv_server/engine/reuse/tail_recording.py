"""Learning from one tail what a template writes in all others like it.

The tail is written once more, by another writer whose template is rendered with traced texts. So every condition that
the template tests on the way is noted, in all the renders that the tail takes; and what it wrote shows which part of it
is the message's own text.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final

from chatenv_client.errors import ChatEnvError
from chatenv_client.models import FidelityKind, FidelityReport, Message
from chatenv_client.tokens import EMPTY_TOKENS
from chatenv_server.engine.bound_template import Fill
from chatenv_server.engine.conversation import EMPTY_TAIL, PendingRewrite, SampledTurn, Tail, TailPlace
from chatenv_server.engine.forms import PreparedMessage
from chatenv_server.engine.reuse.recording import with_texts
from chatenv_server.engine.reuse.recording_template import recording_template
from chatenv_server.engine.reuse.traced_text import (
    Applied,
    Condition,
    Expression,
    Joined,
    Texts,
    Trace,
    TracedText,
    expression_of,
    value_of,
)
from chatenv_server.engine.rewrites import is_rewritten, report_of
from chatenv_server.engine.tail_encoder import WrittenTail
from chatenv_server.engine.tails import TailWriter
from chatenv_server.engine.template import ChatTemplate
from chatenv_server.values import value

WriteWith = Callable[[Fill], TailWriter]
"""Makes a writer of tails on a template that is filled in another way."""

_TOLD: Final = frozenset({FidelityKind.HISTORY_REWRITTEN, FidelityKind.NONCANONICAL_STOP})
"""What may be reported of a turn whose tail is recorded: it does not depend on what the texts say."""


@value
class TailRecording:
    """What a template writes after a turn, around the text of a message."""

    conditions: tuple[Condition, ...]
    exact: bool
    """Whether it writes the turn as the model saw and said it."""
    said: Expression
    """What it writes of head and turn, close included, where that is exact; all that it writes where it is not."""
    asked: str
    """The prompt that the turn was sampled after."""
    taken: str
    """What follows the turn's text in `said`: the close that the model said itself."""
    before: str
    """What it writes between the turn and the message's text."""
    after: str
    """What it writes after that text."""
    tail: Tail = EMPTY_TAIL
    """The tail that it was learnt from, without its tokens, with those of its reports that are on the turn."""
    brings_rewrite: bool = False
    """Whether it makes the template rewrite the pending turn."""
    start: int = 0
    """Character of `before` where the message's part begins."""
    prompt: int = 0
    """Characters of the generation prompt that `after` ends in."""

    def reports_for(self, place: TailPlace) -> tuple[FidelityReport, ...]:
        """Its reports, of another turn and another pending rewrite."""
        reports, last = self.tail.reports, place.last
        if reports:
            reports = tuple(
                FidelityReport(report.kind, report.detail, last.start, last.message_index) for report in reports
            )
        if self.brings_rewrite and place.pending is not None:
            return (*reports, report_of(place.pending))
        return reports

    def pending_after(self, last: SampledTurn) -> PendingRewrite | None:
        """The pending rewrite that it leaves, of another turn."""
        pending = self.tail.pending_rewrite
        return None if pending is None else PendingRewrite(last.message, last.message_index, pending.follower)


class _NotRecordedError(Exception):
    """A render failed under tracing, so nothing is known of it."""


class _RecordedTemplate:
    """A filled template whose renders are traced; the engine reads what it gives like any other text."""

    def __init__(self, template: ChatTemplate, variables: Mapping[str, Any], trace: Trace) -> None:
        self._template = recording_template(template.source)
        self._variables = variables
        self._trace = trace

    def render(self, messages: Sequence[PreparedMessage], prompt: bool) -> str:
        written = self._template.render(self._trace, messages, self._variables, prompt)
        if written is None:
            raise _NotRecordedError
        return written


def learn(write_with: WriteWith, place: TailPlace, message: Message, texts: Texts, tail: Tail) -> TailRecording | None:
    """What the renders of a tail show of all others like it; None where they do not show enough.

    Args:
        write_with: makes the writer that is watched.
        place: where the tail goes on.
        message: the one message that it was written for.
        texts: of the turn's message and of `message`, as `shape_of` gives them.
        tail: what was written.
    """
    if any(report.kind not in _TOLD for report in tail.reports):
        return None
    trace = Trace(texts)
    remaining = iter(trace.texts)
    turn = replace(place.last, message=with_texts(place.last.message, remaining))
    given = with_texts(message, remaining)
    writer = write_with(lambda template, variables: _RecordedTemplate(template, variables, trace))
    writer.rewrites.compare = partial(trace.told, is_rewritten)
    try:
        written = writer.write(replace(place, last=turn), [given])
    except (_NotRecordedError, ChatEnvError):
        return None
    if not trace.is_complete or written.after_fallback:
        return None
    (start,) = writer.encoder.message_starts(written)
    prompt = len(writer.encoder.prompt_at_end(written.text))
    unplaced = _recording(trace, texts, given["content"], place.last, written)
    if unplaced is None:
        return None
    coming = None if place.pending is None else report_of(place.pending)
    reports = tuple(report for report in tail.reports if report != coming)
    return replace(
        unplaced,
        tail=replace(tail, tokens=EMPTY_TOKENS, reports=reports),
        brings_rewrite=reports != tail.reports,
        start=start,
        prompt=prompt,
    )


def _recording(
    trace: Trace, texts: Texts, content: TracedText, last: SampledTurn, written: WrittenTail
) -> TailRecording | None:
    cut = written.cut
    if cut is None:
        return None
    shown = _split(expression_of(cut.rendered), len(written.text), texts)
    if shown is None:
        return None
    said, parts = shown
    expressions = [part for part in parts if type(part) is not str]
    if len(expressions) != 1 or expressions[0].of(texts) != str.__str__(content):
        return None
    place = parts.index(expressions[0])
    asked = str.__str__(cut.asked)
    return TailRecording(
        conditions=(*trace.conditions, *verbatim(expressions[0], content.expression)),
        exact=cut.exact,
        said=said if cut.exact else expression_of(cut.whole),
        asked=asked,
        taken=said.of(texts)[len(asked) + len(last.text) :],
        before="".join(parts[:place]),
        after="".join(parts[place + 1 :]),
    )


def verbatim(written: Expression, given: Expression) -> tuple[Condition, ...]:
    """The condition that a text is written as it was given, where that needs one."""
    return () if written == given else (Condition(Applied(operator.eq, (written, given)), True),)


def _split(expression: Any, length: int, texts: Texts) -> tuple[Joined, list[Any]] | None:
    """What comes before the last `length` characters of a text, and the parts of these.

    None where the place lies inside an expression, or at one that is empty, since nothing tells on which side it is.
    """
    before = list(expression.parts) if type(expression) is Joined else [expression]
    after: list[Any] = []
    while length and before:
        part = before.pop()
        size = len(value_of(part, texts))
        if size > length:
            if type(part) is not str:
                return None
            before.append(part[: size - length])
            part, size = part[size - length :], length
        after.insert(0, part)
        length -= size
    if before and not value_of(before[-1], texts):
        return None
    return Joined(tuple(before)), after
