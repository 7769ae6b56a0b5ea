"""Whether a text is a chat template at all: whether it writes what a user and an assistant say."""

from __future__ import annotations

import itertools
from typing import Final

from chatenv_client.errors import TemplateRejectedError
from chatenv_server.engine.chat_format import ChatFormat
from chatenv_server.engine.forms import Forms
from chatenv_server.engine.probe_messages import HEAD_TEXT, PROBE_SYSTEM, PROBE_TOOL, SENTINEL, assistant, user
from chatenv_server.engine.template import RESERVED_NAMES, variables_of

_KNOWN: Final = {*RESERVED_NAMES, "bos_token", "eos_token", "unk_token", "pad_token"}
"""What a template reads that no caller gives."""
_CONVERSATIONS: Final = ([user(), assistant(SENTINEL), user()], [user(), assistant(SENTINEL)])
_PARTS: Final = Forms(frozenset({"system", "user", "assistant", "tool"}))


class NoChatTemplateError(ValueError):
    """A text is no chat template, or one that writes no turns; the message says what it does not do."""


def check_writes_turns(chat_format: ChatFormat) -> None:
    """See that the template writes what a user and an assistant say, in one conversation or another.

    One that takes no conversation without template arguments is let through: only a caller knows them.

    Raises:
        NoChatTemplateError: it does not.
    """
    if "messages" not in chat_format.template.variables:
        raise NoChatTemplateError("the chat template is none: it never reads `messages`")
    written, words, takes = set(), "", False
    for system, tools, forms, messages in itertools.product(
        ([], [PROBE_SYSTEM]), (None, [PROBE_TOOL]), (chat_format.profile.forms, _PARTS), _CONVERSATIONS
    ):
        variables = variables_of(chat_format.special_tokens, tools=tools)
        prepared = [forms.apply(message) for message in [*system, *messages]]
        try:
            text = chat_format.template.render(prepared, variables, add_generation_prompt=False).lower()
        except TemplateRejectedError as error:
            words = words or error.message
            continue
        takes = True
        written |= {own for own in (HEAD_TEXT, SENTINEL) if own.lower() in text}
        if len(written) == 2:
            return
    if not takes and chat_format.template.variables - _KNOWN - chat_format.special_tokens.keys():
        return  # it may take conversations once a caller gives the arguments that it reads
    if not takes:
        raise NoChatTemplateError(f"the chat template takes no conversation: {words}")
    speaker = "a user" if HEAD_TEXT not in written else "an assistant"
    raise NoChatTemplateError(f"the chat template writes nothing of what {speaker} says")
