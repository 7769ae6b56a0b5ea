"""What stands for the conversation before the last turn when a tail is rendered, so that a tail costs the tail alone.

The constant head is one user message. Where the probe saw that tails depend on more, the skeleton takes its place: the
true roles and calls, with one letter for every text.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from chatenv_client.errors import TemplateRejectedError
from chatenv_client.models import ControlTokenPolicy, Message, MessageSnapshot
from chatenv_server.engine.bound_template import BoundTemplate
from chatenv_server.engine.forms import PreparedMessage, texts_of
from chatenv_server.engine.probe_messages import user

_ROUNDS_KEPT = 2
"""Plain rounds in a row that a skeleton keeps where the probe saw that further ones change nothing."""


class Heads:
    """The heads of one bound template. Safe for threads."""

    def __init__(self, template: BoundTemplate) -> None:
        self._template = template
        self._profile = template.profile
        self._asked: dict[bool, str] = {}

    # -- the constant head ------------------------------------------------------------------------

    def constant(self, opening: Sequence[Message]) -> list[PreparedMessage]:
        """The constant head, after the conversation's own system message where tails depend on it."""
        system = self._system_of(opening) if self._profile.needs_system else []
        return [*system, self._user]

    @cached_property
    def _user(self) -> PreparedMessage:
        return self._template.formed(user())

    def _system_of(self, opening: Sequence[Message]) -> list[PreparedMessage]:
        """The system message that a conversation begins with, if it does."""
        return [
            self._template.prepare(message) for message in opening[:1] if message["role"] in ("system", "developer")
        ]

    def asked(self, head: Sequence[PreparedMessage], prompt: bool) -> str:
        """What the template writes for a constant head, with the generation prompt or without."""
        if len(head) > 1:
            return self._template.render_local(head, prompt)
        if prompt not in self._asked:
            self._asked[prompt] = self._template.render_local(head, prompt)
        return self._asked[prompt]

    @cached_property
    def generation_prompt(self) -> str:
        """What the template writes to make the model speak; empty where that cannot be told."""
        try:
            asked, unasked = (self.asked([self._user], prompt) for prompt in (True, False))
        except TemplateRejectedError:
            return ""
        return asked[len(self._template.chat_format.codec.common_prefix(asked, unasked)) :]

    def asked_and_answered(self, answer: dict[str, Any]) -> tuple[str, str]:
        """What the template writes for the constant head with the generation prompt, and for it and an answer.

        Raises:
            TemplateRejectedError: it takes neither.
        """
        head = [self._user]
        written = self._template.render_local([*head, self._template.prepare_own(answer)], False)
        return self.asked(head, True), written

    # -- the skeleton -----------------------------------------------------------------------------

    def skeleton(self, history: MessageSnapshot) -> list[PreparedMessage]:
        """The true roles and calls with one-letter texts: O(messages), whatever their length."""
        system = self._system_of(history.first())
        outlines: list[dict[str, Any]] = []
        for message in history.since(len(system)):
            outlines.append(self._outline(message, len(outlines)))
            if self._profile.rounds_are_alike and _ends_in_plain_rounds(outlines, _ROUNDS_KEPT + 1):
                del outlines[-2:]
        return [*system, *map(self._template.formed, outlines)]

    def _outline(self, message: Message, index: int) -> dict[str, Any]:
        """A message with one letter for its texts, and what the template looks for in them."""
        outline: dict[str, Any] = {
            key: value for key, value in message.items() if key not in ("content", "reasoning_content")
        }
        own = "".join(texts_of(message))
        tested = "".join(text for text in self._template.chat_format.template.tested_texts if text in own)
        escapes = self._template.options.control_token_policy is ControlTokenPolicy.ESCAPE
        if tested and message.get("role") != "assistant" and escapes:
            tested = self._template.chat_format.controls.mark(tested)
        letter = chr(ord("a") + index % 26)
        outline["content"] = tested + letter if message.get("content") else message.get("content", "")
        return outline


def _is_plain(outline: dict[str, Any], role: str) -> bool:
    return outline["role"] == role and len(outline) == 2 and len(outline["content"] or "") == 1


def _ends_in_plain_rounds(outlines: Sequence[dict[str, Any]], count: int) -> bool:
    """Whether the last messages are `count` questions, each with its answer, all of plain text."""
    last = outlines[-2 * count :]
    return len(last) == 2 * count and all(
        _is_plain(outline, ("user", "assistant")[place % 2]) for place, outline in enumerate(last)
    )
