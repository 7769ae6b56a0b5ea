"""Renders of small conversations for the probe: what a template writes, or that it rejects them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from chatenv_client.errors import TemplateRejectedError
from chatenv_server.engine.forms import Forms
from chatenv_server.engine.probe_messages import PROBE_SYSTEM, SENTINEL
from chatenv_server.engine.template import ChatTemplate


@dataclass(frozen=True)
class ProbeRenders:
    """One template with all that it sees beside the messages, and the form in which it is given them."""

    template: ChatTemplate
    variables: Mapping[str, Any]
    forms: Forms = field(default_factory=Forms)
    wants_system: bool = False
    """Whether a conversation without a system prompt is given one, since the template rejects it otherwise."""

    def render(self, messages: Sequence[Mapping[str, Any]], *, prompt: bool = True, **variables: Any) -> str | None:
        """The rendered text; None where the template rejects the messages."""
        try:
            lacking = self.wants_system and messages[0]["role"] != "system"
            given = [PROBE_SYSTEM, *messages] if lacking else messages
            prepared = [self.forms.apply(message) for message in given]
            return self.template.render(prepared, {**self.variables, **variables}, add_generation_prompt=prompt)
        except TemplateRejectedError:
            return None

    def after(self, messages: Sequence[Mapping[str, Any]], *, prompt: bool = True, **variables: Any) -> str | None:
        """What the template writes after the last sentinel; None where it rejects or hides it."""
        text = self.render(messages, prompt=prompt, **variables)
        if text is None or SENTINEL not in text:
            return None
        return text[text.rindex(SENTINEL) + len(SENTINEL) :]
