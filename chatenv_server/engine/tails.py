"""The tails of an episode: everything that its chat template writes after a sampled turn, rendered and encoded once.

A tail is found with one render and one cut (`cut.py`): a short head, the last sampled turn, the messages since; what
stands after that turn is the tail.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from chatenv_client.errors import TemplateRejectedError
from chatenv_client.models import FidelityReport, Message
from chatenv_server.engine import rewrites
from chatenv_server.engine.bound_template import BoundTemplate
from chatenv_server.engine.conversation import EMPTY_TAIL, PendingRewrite, SampledTurn, Tail, TailPlace
from chatenv_server.engine.cut import (
    Cut,
    Passage,
    cuts_after,
    escaped_in,
    rewritten,
    take_off_said,
    with_turn_as_text,
)
from chatenv_server.engine.forgeries import FORGED, Forgeries
from chatenv_server.engine.forms import PreparedMessage, texts_of
from chatenv_server.engine.heads import Heads
from chatenv_server.engine.locate import Place, locate
from chatenv_server.engine.message_faults import message_reports
from chatenv_server.engine.rewrites import RewriteFinder, report_of
from chatenv_server.engine.tail_encoder import TailEncoder, WrittenTail
from chatenv_server.engine.tool_results import unmatched_results
from chatenv_server.engine.turn_reader import TurnReader


class TailWriter:
    """Writes tails for all episodes of one bound template. Safe for threads."""

    def __init__(self, template: BoundTemplate, heads: Heads, encoder: TailEncoder, turns: TurnReader) -> None:
        self.template = template
        self._profile = template.profile
        self._asks = template.options.add_generation_prompt
        self.heads = heads
        self.encoder = encoder
        self.turns = turns
        self._finds_results_by_id = "tool_call_id" in template.chat_format.template.source
        self.rewrites = RewriteFinder(template)
        self.forgeries = Forgeries(template)

    def tail(self, place: TailPlace, messages: Sequence[Message]) -> Tail:
        """What the template writes after the last sampled turn for the messages that follow it.

        Raises:
            TemplateRejectedError: the template rejects the messages.
        """
        if not messages:
            return EMPTY_TAIL
        return self.encoder.tail(self.write(place, messages), place.before)

    def write(self, place: TailPlace, messages: Sequence[Message]) -> WrittenTail:
        """The text of a tail, not yet encoded; arguments as in `tail`.

        Raises:
            TemplateRejectedError: the template rejects the messages.
        """
        prepared = [self.template.prepare(message, f"messages[{i}]") for i, message in enumerate(messages)]
        last = place.last
        said = self.template.prepare_own(last.message)
        head = self.heads.constant(place.history.first())
        cut, places, after_fallback = self._cut(place, head, said, prepared)
        spoken = (one.start for one, message in zip(places, prepared, strict=True) if _stands_at(one, message))
        limit = max(next(spoken, len(cut.text)), _length_of_close(cut.text, self._profile.closers_of(cut.turn)))
        rest = take_off_said(cut, last, self.turns.stop_text(last.stop_id), limit, self._profile)
        reports = [*([] if cut.exact else [rewritten(last)]), *rest.reports, *escaped_in(cut, last)]
        if place.pending is not None and self.rewrites.has_come(place.pending, [said, *prepared], head):
            reports.append(report_of(place.pending))
        first = last.message_index + 1
        places = [one.moved(len(rest.taken)) for one in places]
        faults = [*message_reports(prepared, places, first, rest.text), *self.unmatched(last, messages)]
        pending = None
        if rewrites.replaces(place.pending, reports):
            pending = self.rewrites.find([last.message, *messages], last.message_index, head)
        return WrittenTail(
            rest.text,
            prepared,
            places,
            close=self._profile.role_closes.get("assistant", "").removeprefix(last.close),
            reports=reports,
            faults=faults,
            pending_rewrite=pending,
            cut=cut,
            after_fallback=after_fallback,
        )

    def brings_rewrite(self, place: TailPlace, pending: PendingRewrite, messages: Sequence[Message]) -> bool:
        """Whether messages make the template rewrite a turn before the last."""
        later = [self.template.prepare_own(message) for message in (place.last.message, *messages)]
        return self.rewrites.has_come(pending, later, self.heads.constant(place.history.first()))

    def unmatched(self, last: SampledTurn, messages: Sequence[Message]) -> list[FidelityReport]:
        """A report for every result of a tool among the messages after a turn that answers no call."""
        return unmatched_results(last.message, messages, last.message_index + 1, by_id=self._finds_results_by_id)

    def _cut(
        self,
        place: TailPlace,
        head: Sequence[PreparedMessage],
        said: PreparedMessage,
        tail: Sequence[PreparedMessage],
    ) -> tuple[Cut, list[Place], bool]:
        """Cut after the constant head, or after the skeleton where the template looks further back than that.

        The last value says whether the constant head was tried before, in vain.
        """
        prompted = self.turns.was_prompted(place.last)
        suffices = self.heads.suffices(place.history)
        if suffices:
            try:
                passage = Passage(head, said, tail, self._render, self.heads.asked(head, prompted))
                return *self._cut_after(passage, place.last), False
            except TemplateRejectedError:
                pass  # a template may take these messages only in their true place
        skeleton = self.heads.skeleton(place.history)
        asked = self.template.render_local(skeleton, prompted)
        return *self._cut_after(Passage(skeleton, said, tail, self._render, asked), place.last), suffices

    def _render(self, messages: Sequence[PreparedMessage]) -> str:
        return self.template.render_local(messages, self._asks)

    def _cut_after(self, passage: Passage, last: SampledTurn) -> tuple[Cut, list[Place]]:
        """The first cut after which all messages of the tail are found; the first of all where there is none."""
        first: tuple[Cut, list[Place]] | None = None
        for found in cuts_after(passage, last):
            cut = self._as_text(found, passage, last)
            places = locate(cut.text, passage.tail, partial(_after_cut, passage, cut), self.template.literal_text)
            if not any(place.dropped for place in places):
                return cut, places
            first = first or (cut, places)
        if first is None:
            raise TemplateRejectedError("the chat template leaves out the last assistant turn", field="messages")
        return first

    def _as_text(self, cut: Cut, passage: Passage, last: SampledTurn) -> Cut:
        """The same cut with nothing after it that became a control token and is not the template's own."""
        marked = self.template.recorded(cut.turn)
        if marked is not cut.turn:
            others = cuts_after(passage._replace(said=self.template.recorded(passage.said)), last)
            cut = with_turn_as_text(cut, marked, passage) or next(others, cut)
        messages = passage.around(cut.turn)
        text = self.forgeries.escaped(cut.rendered, cut.position, messages, prompt=self._asks, local=True)
        if text is cut.rendered:
            return cut
        return cut._replace(text=text[cut.position :], rendered=text, escaped=(*cut.escaped, FORGED))


def _after_cut(passage: Passage, cut: Cut, tail: Sequence[PreparedMessage]) -> str:
    """What stands after the same cut with another tail."""
    return passage._replace(tail=tail).rendered(cut.turn)[cut.position :]


def _length_of_close(text: str, closers: Sequence[str]) -> int:
    """How much of a text is the turn's close, where it begins with that: no message's place comes before."""
    bare = text.lstrip()
    found = next((closer for closer in closers if bare.startswith(closer)), None)
    return 0 if found is None else len(text) - len(bare) + len(found)


def _stands_at(place: Place, message: PreparedMessage) -> bool:
    return not (place.dropped or place.elsewhere) and bool(texts_of(message))
