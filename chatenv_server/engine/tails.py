"""The tails of an episode: everything that its chat template writes after a sampled turn, rendered and encoded once.

A tail is found with one render and one cut (`cut.py`): a short head, the last sampled turn, the messages since; what
stands after that turn is the tail.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from chatenv_client.errors import TemplateRejectedError
from chatenv_client.models import Message, MessageSnapshot
from chatenv_client.tokens import Int32Array
from chatenv_server.engine.bound_template import BoundTemplate
from chatenv_server.engine.conversation import EMPTY_TAIL, PendingRewrite, SampledTurn, Tail
from chatenv_server.engine.cut import Cut, cuts_after, rewritten, take_off_said
from chatenv_server.engine.forms import PreparedMessage, texts_of
from chatenv_server.engine.heads import Heads
from chatenv_server.engine.locate import Place, locate
from chatenv_server.engine.message_faults import message_reports
from chatenv_server.engine.rewrites import RewriteFinder, report_of
from chatenv_server.engine.tail_encoder import TailEncoder, WrittenTail
from chatenv_server.engine.turn_reader import TurnReader


class TailWriter:
    """Writes tails for all episodes of one bound template. Safe for threads."""

    def __init__(self, template: BoundTemplate, heads: Heads, encoder: TailEncoder, turns: TurnReader) -> None:
        self.template = template
        self._profile = template.profile
        self._options = template.options
        self._asks = template.options.add_generation_prompt
        self.heads = heads
        self.encoder = encoder
        self.turns = turns
        self.rewrites = RewriteFinder(template)

    def tail(
        self,
        history: MessageSnapshot,
        last: SampledTurn,
        messages: Sequence[Message],
        before: Int32Array,
        pending: PendingRewrite | None,
    ) -> Tail:
        """What the template writes after the sampled turn `last` for the messages that follow it; see `Renderer`.

        Raises:
            TemplateRejectedError: the template rejects the messages.
        """
        if not messages:
            return EMPTY_TAIL
        written = self.write(history, last, messages, pending)
        return self.encoder.tail(written, before)

    def write(
        self,
        history: MessageSnapshot,
        last: SampledTurn,
        messages: Sequence[Message],
        pending: PendingRewrite | None,
    ) -> WrittenTail:
        """The text of a tail, not yet encoded; arguments as in `tail`.

        Raises:
            TemplateRejectedError: the template rejects the messages.
        """
        prepared = [self.template.prepare(message, f"messages[{i}]") for i, message in enumerate(messages)]
        said = self.template.prepare_own(last.message)
        head = self.heads.constant(history.first())
        cut, places, after_fallback = self._cut(history, head, last, said, prepared)
        spoken = (place.start for place, message in zip(places, prepared, strict=True) if _stands_at(place, message))
        limit = next(spoken, len(cut.text))
        rest = take_off_said(cut, last, self.turns.stop_text(last.stop_id), limit, self._profile)
        reports = [*([] if cut.exact else [rewritten(last)]), *rest.reports]
        if pending is not None and self.rewrites.has_come(pending, [said, *prepared], head):
            reports.append(report_of(pending))
        faults = message_reports(prepared, places, last.message_index + 1, rest.text)
        return WrittenTail(
            rest.text,
            prepared,
            [place.moved(len(rest.taken)) for place in places],
            close=self._profile.role_closes.get("assistant", "").removeprefix(last.close),
            reports=reports,
            faults=faults,
            pending_rewrite=self.rewrites.find([last.message, *messages], last.message_index, head),
            cut=cut,
            after_fallback=after_fallback,
        )

    def _cut(
        self,
        history: MessageSnapshot,
        head: Sequence[PreparedMessage],
        last: SampledTurn,
        said: PreparedMessage,
        tail: Sequence[PreparedMessage],
    ) -> tuple[Cut, list[Place], bool]:
        """Cut after the constant head, or after the skeleton where the template looks further back than that.

        The last value says whether the constant head was tried before, in vain.
        """
        prompted = self.turns.was_prompted(last)
        if not self._profile.needs_skeleton:
            try:
                return *self._cut_after(head, last, said, tail, self.heads.asked(head, prompted)), False
            except TemplateRejectedError:
                pass  # a template may take these messages only in their true place
        skeleton = self.heads.skeleton(history)
        asked = self.template.render_local(skeleton, prompted)
        return *self._cut_after(skeleton, last, said, tail, asked), not self._profile.needs_skeleton

    def _cut_after(
        self,
        head: Sequence[PreparedMessage],
        last: SampledTurn,
        said: PreparedMessage,
        tail: Sequence[PreparedMessage],
        asked: str,
    ) -> tuple[Cut, list[Place]]:
        """The first cut after which all messages of the tail are found; the first of all where there is none."""

        def render(messages: Sequence[PreparedMessage]) -> str:
            return self.template.render_local(messages, self._asks)

        first: tuple[Cut, list[Place]] | None = None
        for cut in cuts_after(head, last, said, tail, render, asked):
            places = locate(cut.text, tail, partial(_after_cut, render, head, cut), self.template.literal_text)
            if not any(place.dropped for place in places):
                return cut, places
            first = first or (cut, places)
        if first is None:
            raise TemplateRejectedError("the chat template leaves out the last assistant turn", field="messages")
        return first


def _after_cut(
    render: Callable[[Sequence[PreparedMessage]], str],
    head: Sequence[PreparedMessage],
    cut: Cut,
    tail: Sequence[PreparedMessage],
) -> str:
    """What stands after the same cut with another tail."""
    return render([*head, cut.turn, *tail])[cut.position :]


def _stands_at(place: Place, message: PreparedMessage) -> bool:
    return not place.dropped and bool(texts_of(message))
