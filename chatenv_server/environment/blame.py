"""Finds out which field makes a template reject messages, where it can. Called after a failure only."""

from __future__ import annotations

from collections.abc import Sequence

from chatenv_client.errors import ChatEnvError, TemplateRejectedError
from chatenv_client.models import Message
from chatenv_server.engine import EpisodeLog


def blaming(error: TemplateRejectedError, log: EpisodeLog, messages: Sequence[Message], first: int = 0) -> ChatEnvError:
    """The error, with the content that the template misses as its field if that is what it rejects.

    Args:
        error: what the template says.
        log: the episode as it was before the messages.
        messages: what could not be appended.
        first: how many of them the caller did not give, such as the system prompt.
    """
    lacking = [index for index, message in enumerate(messages) if message.get("content") is None]
    if not lacking:
        return error
    filled: list[Message] = [
        {**message, "content": ""} if message.get("content") is None else message for message in messages
    ]
    try:
        log.preview(filled)
    except ChatEnvError:
        return error
    return TemplateRejectedError(
        f"{error.message} (this template wants content in every message; an empty text is enough)",
        field=f"messages[{lacking[0] - first}].content",
    )
