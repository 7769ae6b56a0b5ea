"""Turns that a template forgets: written in one way while they are recent, in another once later turns have come.

Some templates strip the thinking from all turns before the last user message. Where that hits the last turn, the cut
sees it; a turn further back is put under watch when it is committed, and looked at again, alone with what follows,
whenever the tail changes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from chatenv_client.errors import TemplateRejectedError
from chatenv_client.models import Message
from chatenv_server.engine.conversation import PendingRewrite
from chatenv_server.engine.cut import PreparedMessage
from chatenv_server.engine.forms import texts_of
from chatenv_server.engine.probe import PROBE_CALL_ID, assistant, tool_result, user

Prepare = Callable[[Message | dict[str, Any]], PreparedMessage]
Render = Callable[[Sequence[PreparedMessage]], str]
"""Renders messages behind the head, without a generation prompt."""

_ANSWER = "Zq7xT3pR"


def first_to_forget(
    record: Sequence[Message], start: int, prepare: Prepare, render: Render, *, late: bool
) -> PendingRewrite | None:
    """The first assistant turn of `record` that later messages will make the template rewrite.

    Args:
        record: messages from the last sampled turn, or the beginning, to the end.
        start: index of its first message in the conversation.
        late: whether the template may rewrite a turn even after a user has answered it.
    """
    later = [prepare(assistant("x")), prepare(user())]
    for position, (message, follower) in enumerate(itertools.zip_longest(record, record[1:])):
        role = follower.get("role", "") if follower is not None else ""
        spoken = any(other.get("role") == "user" for other in record[position + 1 :])
        if message.get("role") != "assistant" or (spoken and not (late and role == "user")):
            continue
        watch = PendingRewrite(message, start + position, role)
        if is_rewritten(watch, later, prepare, render):
            return watch
    return None


def is_rewritten(watch: PendingRewrite, later: Sequence[PreparedMessage], prepare: Prepare, render: Render) -> bool:
    """Whether the template writes the watched turn differently when `later` follows it and what answered it."""
    turn = prepare(watch.message)
    answers = [prepare(message) for message in _answers(watch)]
    try:
        now = render([turn, *answers])
        then = render([turn, *answers, *later])
    except TemplateRejectedError:
        return False
    end = now.find(_ANSWER) if answers else _end_of(turn, now)
    return end >= 0 and not then.startswith(now[:end])


def _answers(watch: PendingRewrite) -> list[dict[str, Any]]:
    """Stand-ins for what was said behind the turn."""
    if watch.follower == "tool":
        calls = watch.message.get("tool_calls") or [{}]
        return [tool_result(_ANSWER) | {"tool_call_id": call.get("id", PROBE_CALL_ID)} for call in calls]
    return [user(_ANSWER)] if watch.follower == "user" else []


def _end_of(turn: PreparedMessage, text: str) -> int:
    """Where the turn's own text ends; -1 where it has none that can be found."""
    own = "".join(texts_of(turn)).strip()
    found = text.rfind(own) if own else -1
    return found + len(own) if found >= 0 else -1
