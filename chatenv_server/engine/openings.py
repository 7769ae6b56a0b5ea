"""The opening of an episode: everything that its chat template writes before the first sampled turn."""

from __future__ import annotations

from collections.abc import Sequence

from chatenv_client.errors import TemplateRejectedError
from chatenv_client.models import FidelityKind, FidelityReport, Message
from chatenv_client.tokens import EMPTY_TOKENS
from chatenv_server.engine.bound_template import BoundTemplate
from chatenv_server.engine.controls import without_marks
from chatenv_server.engine.conversation import EMPTY_TAIL, Tail
from chatenv_server.engine.forms import PreparedMessage
from chatenv_server.engine.heads import Heads
from chatenv_server.engine.locate import locate
from chatenv_server.engine.message_faults import message_reports
from chatenv_server.engine.probe_messages import user
from chatenv_server.engine.rewrites import RewriteFinder
from chatenv_server.engine.tail_encoder import TailEncoder, WrittenTail


class OpeningWriter:
    """Writes openings for all episodes of one bound template. Safe for threads."""

    def __init__(self, template: BoundTemplate, heads: Heads, encoder: TailEncoder, rewrites: RewriteFinder) -> None:
        self._template = template
        self._options = template.options
        self._asks = template.options.add_generation_prompt
        self._heads = heads
        self._encoder = encoder
        self._rewrites = rewrites

    def opening(self, messages: Sequence[Message]) -> Tail:
        """Everything up to the first sampled token, equal to `apply_chat_template(messages, tokenize=True)`.

        Raises:
            TemplateRejectedError: the template rejects the messages.
        """
        if not messages:
            return EMPTY_TAIL
        prepared = [self._template.prepare(message, f"messages[{i}]") for i, message in enumerate(messages)]
        text = self._render_unless_waiting(prepared)
        if text is None:
            return EMPTY_TAIL._replace(message_starts=(0,) * len(messages))
        places = locate(
            text,
            prepared,
            lambda others: self._template.render_opening(others, self._asks),
            self._template.literal_text,
        )
        reports = []
        if _has_spoken(prepared):
            reports = [*message_reports(prepared, places, 0, text), *self._option_reports(text)]
        pending = self._rewrites.find(messages, 0, self._heads.constant(messages))
        return self._encoder.tail(
            WrittenTail(text, prepared, places, faults=reports, pending_rewrite=pending), EMPTY_TOKENS
        )

    def _render_unless_waiting(self, prepared: Sequence[PreparedMessage]) -> str | None:
        """The opening's text; None where the template only waits for somebody to speak."""
        try:
            return self._template.render_opening(prepared, self._asks)
        except TemplateRejectedError:
            if _has_spoken(prepared):
                raise
            self._template.render_opening([*prepared, self._template.formed(user())], True)
            return None

    def _option_reports(self, text: str) -> list[FidelityReport]:
        """What the template makes of the options: arguments that it never reads, tools that it leaves out."""
        known = self._template.chat_format.template.variables | self._template.chat_format.special_tokens.keys()
        reports = [
            FidelityReport(FidelityKind.KWARG_UNUSED, f"the chat template never reads {name!r}")
            for name in self._options.template_kwargs
            if name not in known
        ]
        names = [tool.get("function", tool).get("name") for tool in self._options.tools or ()]
        if any(isinstance(name, str) and name not in without_marks(text) for name in names):
            reports.append(FidelityReport(FidelityKind.MESSAGE_DROPPED, "the chat template leaves out the tools"))
        return reports


def _has_spoken(messages: Sequence[PreparedMessage]) -> bool:
    return any(message.get("role") not in ("system", "developer") for message in messages)
