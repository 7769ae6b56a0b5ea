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
from chatenv_server.engine.forms import PreparedMessage
from chatenv_server.engine.outlines import outline_of
from chatenv_server.engine.probe_messages import PROBE_SYSTEM, calling, tool_result, user

_ALIKE: Final = ["user", "assistant"] * 3
"""Who speaks in three plain rounds in a row. The last can be left out where the probe saw that it changes nothing."""
SYSTEM_ROLES: Final = ("system", "developer")
_TEXTS: Final = {"role", "content", "reasoning_content"}


class Heads:
    """The heads of one bound template. Safe for threads."""

    def __init__(self, template: BoundTemplate) -> None:
        self._template = template
        self._needs = template.needs
        self._asked: dict[bool, str] = {}

    # -- the constant head ------------------------------------------------------------------------

    def constant(self, opening: Sequence[Message]) -> list[PreparedMessage]:
        """The constant head, after the conversation's own system message where tails depend on it."""
        system = self.system_of(opening) if self._needs.system else []
        return [*system, self._user]

    @cached_property
    def _user(self) -> PreparedMessage:
        return self._template.formed(user())

    @cached_property
    def _lead(self) -> list[PreparedMessage]:
        """The constant head of a conversation that nothing is known of."""
        wants_system = self._template.profile.wants_system
        return [*([self._template.formed(PROBE_SYSTEM)] if wants_system else []), self._user]

    def system_of(self, opening: Sequence[Message]) -> list[PreparedMessage]:
        """The system message that a conversation begins with, if it does."""
        return [self._template.prepare(message) for message in opening[:1] if message["role"] in SYSTEM_ROLES]

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
            asked, unasked = (self.asked(self._lead, prompt) for prompt in (True, False))
        except TemplateRejectedError:
            return ""
        return asked[len(self._template.chat_format.codec.common_prefix(asked, unasked)) :]

    def asked_after_result(self) -> str:
        """What the template writes for the constant head, a call and its result, to make the model speak.

        Raises:
            TemplateRejectedError: it does not take them.
        """
        messages = (calling({"key": "x"}), tool_result("x"))
        return self._template.render_local([*self._lead, *map(self._template.prepare_own, messages)], True)

    def asked_and_answered(self, answer: dict[str, Any]) -> tuple[str, str]:
        """What the template writes for the constant head with the generation prompt, and for it and an answer.

        Raises:
            TemplateRejectedError: it takes neither.
        """
        head = self._lead
        written = self._template.render_local([*head, self._template.prepare_own(answer)], False)
        return self.asked(head, True), written

    def suffices(self, history: MessageSnapshot) -> bool:
        """Whether the constant head will do in the place of this history."""
        needs = self._needs
        if history.length == 0:
            return not needs.skeleton
        # Where nobody has asked anything, there is nothing that the constant head could stand for. No message is looked
        # at that need not be: one that was sampled would have to be read.
        role = history.at(0)["role"]
        if role not in SYSTEM_ROLES:
            return role == "user" and not needs.skeleton
        return history.length > 1 and history.at(1)["role"] == "user" and not needs.skeleton_under_system

    # -- the skeleton -----------------------------------------------------------------------------

    def skeleton(self, history: MessageSnapshot) -> list[PreparedMessage]:
        """The true roles and calls with one-letter texts: O(messages), whatever their length.

        All of the history, where the template tells what its messages say.
        """
        system = self.system_of(history.first())
        if self._needs.texts:
            return [*system, *map(self._template.prepare_recorded, history.since(len(system)))]
        return [*system, *map(self._formed_outline, self.outlines(history))]

    def _formed_outline(self, outline: dict[str, Any]) -> PreparedMessage:
        formed = self._template.formed(outline)
        return {key: value if key == "content" else self._template.recorded(value) for key, value in formed.items()}

    def outlines(self, history: MessageSnapshot) -> list[dict[str, Any]]:
        """What a skeleton shows of all messages but the system message at the beginning."""
        kept, _ = self._kept(history)
        return [self._outline(message, index) for index, message in enumerate(kept)]

    def shape(self, history: MessageSnapshot) -> tuple[Any, ...]:
        """What two histories have in common whose skeletons are the same; cheaper than the skeletons."""
        if self._needs.texts:
            return tuple(map(repr, history.since(0)))
        kept, speakers = self._kept(history)
        return tuple(
            (speaker, bool(message["content"]), "reasoning_content" in message)
            if speaker
            else repr(self._outline(message, index))
            for index, (message, speaker) in enumerate(zip(kept, speakers, strict=True))
        )

    def _kept(self, history: MessageSnapshot) -> tuple[list[Message], list[str]]:
        """The messages that a skeleton shows, and of those that say nothing telling, who speaks."""
        tested, alike = self._template.chat_format.template.tested_texts, self._needs.rounds_are_alike
        kept: list[Message] = []
        speakers: list[str] = []
        for message in history.since(len(self.system_of(history.first()))):
            kept.append(message)
            speakers.append(_speaker_of(message, tested))
            if alike and speakers[-len(_ALIKE) :] == _ALIKE:
                del kept[-2:], speakers[-2:]
        return kept, speakers

    def _outline(self, message: Message, index: int) -> dict[str, Any]:
        escapes = self._template.options.control_token_policy is ControlTokenPolicy.ESCAPE
        mark = self._template.chat_format.controls.mark if escapes else None
        return outline_of(message, index, self._template.chat_format.template.tested_texts, mark)


def _speaker_of(message: Message, tested: Sequence[str]) -> str:
    """Who says a message that is nothing but texts; empty for any other, and where the template looks for something."""
    text = message.get("content")
    if type(text) is not str or not message.keys() <= _TEXTS:
        return ""
    for one in tested:
        if one in text:
            return ""
    return message["role"]
