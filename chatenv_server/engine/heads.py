"""What stands for the conversation before the last turn when a tail is rendered, so that a tail costs the tail alone.

The constant head is one user message. Where the probe saw that tails depend on more, the skeleton takes its place: the
true roles and calls, with one letter for every text.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Final

from chatenv_client.errors import TemplateRejectedError
from chatenv_client.models import ControlTokenPolicy, Message, MessageSnapshot
from chatenv_server.engine.bound_template import BoundTemplate
from chatenv_server.engine.forms import PreparedMessage, texts_of
from chatenv_server.engine.probe_messages import user

_ALIKE: Final = ["user", "assistant"] * 3
"""Who speaks in three plain rounds in a row. The last can be left out where the probe saw that it changes nothing."""
_TEXTS: Final = {"role", "content", "reasoning_content"}


class Heads:
    """The heads of one bound template. Safe for threads."""

    def __init__(self, template: BoundTemplate) -> None:
        self._template = template
        self._profile = template.profile
        self._asked: dict[bool, str] = {}

    # -- the constant head ------------------------------------------------------------------------

    def constant(self, opening: Sequence[Message]) -> list[PreparedMessage]:
        """The constant head, after the conversation's own system message where tails depend on it."""
        system = self.system_of(opening) if self._profile.needs_system else []
        return [*system, self._user]

    @cached_property
    def _user(self) -> PreparedMessage:
        return self._template.formed(user())

    def system_of(self, opening: Sequence[Message]) -> list[PreparedMessage]:
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
        return [*self.system_of(history.first()), *map(self._template.formed, self.outlines(history))]

    def outlines(self, history: MessageSnapshot) -> list[dict[str, Any]]:
        """What a skeleton shows of all messages but the system message at the beginning."""
        kept, _ = self._kept(history)
        return [self._outline(message, index) for index, message in enumerate(kept)]

    def shape(self, history: MessageSnapshot) -> tuple[Any, ...]:
        """What two histories have in common whose skeletons are the same; cheaper than the skeletons."""
        kept, speakers = self._kept(history)
        return tuple(
            (speaker, bool(message["content"])) if speaker else repr(self._outline(message, index))
            for index, (message, speaker) in enumerate(zip(kept, speakers, strict=True))
        )

    def _kept(self, history: MessageSnapshot) -> tuple[list[Message], list[str]]:
        """The messages that a skeleton shows, and of those that say nothing telling, who speaks."""
        tested, alike = self._template.chat_format.template.tested_texts, self._profile.rounds_are_alike
        kept: list[Message] = []
        speakers: list[str] = []
        for message in history.since(len(self.system_of(history.first()))):
            kept.append(message)
            speakers.append(_speaker_of(message, tested))
            if alike and speakers[-len(_ALIKE) :] == _ALIKE:
                del kept[-2:], speakers[-2:]
        return kept, speakers

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


def _speaker_of(message: Message, tested: Sequence[str]) -> str:
    """Who says a message that is nothing but texts; empty for any other, and where the template looks for something."""
    text = message.get("content")
    if type(text) is not str or not message.keys() <= _TEXTS:
        return ""
    for one in tested:
        if one in text:
            return ""
    return message["role"]
