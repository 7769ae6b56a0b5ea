"""Whether a text is a chat template at all: whether it writes what a user and an assistant say."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, Final

from chatenv_client.errors import TemplateRejectedError
from chatenv_server.engine.chat_format import ChatFormat
from chatenv_server.engine.forms import Forms
from chatenv_server.engine.probe_messages import HEAD_TEXT, PROBE_TOOL, SENTINEL, assistant, user
from chatenv_server.engine.template import variables_of

_CONVERSATIONS: Final = ([user(), assistant(SENTINEL), user()], [user(), assistant(SENTINEL)])
_SYSTEM: Final[Mapping[str, Any]] = {"role": "system", "content": "Zq7xS1vW"}
_PARTS: Final = Forms(frozenset({"system", "user", "assistant", "tool"}))


class NoChatTemplateError(ValueError):
    """A text is no chat template, or one that writes no turns; the message says what it does not do."""


def check_writes_turns(chat_format: ChatFormat) -> None:
    """See that the template writes what a user and an assistant say, in one conversation or another.

    Raises:
        NoChatTemplateError: it does not.
    """
    if "messages" not in chat_format.template.variables:
        raise NoChatTemplateError("the chat template is none: it never reads `messages`")
    written, words = set(), ""
    for system, tools, forms, messages in itertools.product(
        ([], [_SYSTEM]), (None, [PROBE_TOOL]), (chat_format.profile.forms, _PARTS), _CONVERSATIONS
    ):
        variables = variables_of(chat_format.special_tokens, tools=tools)
        prepared = [forms.apply(message) for message in [*system, *messages]]
        try:
            text = chat_format.template.render(prepared, variables, add_generation_prompt=False).lower()
        except TemplateRejectedError as error:
            words = words or error.message
            continue
        written |= {own for own in (HEAD_TEXT, SENTINEL) if own.lower() in text}
        if len(written) == 2:
            return
    if words and not written:
        raise NoChatTemplateError(f"the chat template takes no conversation: {words}")
    speaker = "a user" if HEAD_TEXT not in written else "an assistant"
    raise NoChatTemplateError(f"the chat template writes nothing of what {speaker} says")
