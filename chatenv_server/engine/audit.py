"""Comparing an episode's stream with a full rendering of its messages. Costs time proportional to the episode.

The messages are rendered afresh and as they were given: not in the engine's form, and of nothing that it keeps. Where
only a reading of the engine's own can be rendered, the report names those messages.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, NamedTuple

import numpy as np

from chatenv_client.errors import TemplateRejectedError
from chatenv_client.models import AuditReport, Message, Verdict
from chatenv_client.tokens import Int32Array, shared_length
from chatenv_server.engine.codec import shared_prefix_length
from chatenv_server.engine.forms import texts_of
from chatenv_server.engine.log import EpisodeLog
from chatenv_server.engine.renderer import Renderer
from chatenv_server.engine.template import normalise

_NEXT: Message = {"role": "user", "content": "a"}
"""Stands for whatever comes next, where the stream ends in a sampled turn: some templates write the last turn in a
way of its own."""


def audit(log: EpisodeLog) -> AuditReport:
    """Say whether the stream is what `apply_chat_template` gives for the same messages, and where the two part."""
    messages = list(log.conversation.since(0))
    if not messages:
        return AuditReport(Verdict.EXACT, None, "the episode is empty")
    turns = log.turns()
    ends_sampled = bool(turns) and turns[-1].stop_reason is not None
    sampled = log.sampled_messages
    if not ends_sampled:
        return _compare(log, messages, sampled, partial=False)
    alone = _compare(log, messages, sampled, partial=True)
    if alone.verdict is Verdict.EXACT:  # no second rendering can do better
        return alone
    reports = (alone, _compare(log, [*messages, _NEXT], sampled, partial=True))
    return min(reports, key=lambda report: list(Verdict).index(report.verdict))


def _compare(log: EpisodeLog, messages: Sequence[Message], sampled: AbstractSet[int], *, partial: bool) -> AuditReport:
    """Compare with the render of `messages`; with `partial`, only as far as the stream goes."""
    ours = log.stream.token_ids
    try:
        theirs, formed = _whole(log.renderer, messages, sampled, log.options.add_generation_prompt)
    except TemplateRejectedError as error:
        return AuditReport(Verdict.NOT_RENDERABLE, None, error.message)
    readings = tuple(sorted({*formed, *_own_readings(messages, sampled)}))
    if np.array_equal(ours, theirs[: len(ours)] if partial else theirs):
        detail = "the stream equals the full rendering, token for token"
        if readings:
            detail += "; some messages were rendered as chatenv reads them"
        return AuditReport(Verdict.EXACT, None, detail, readings)
    our_text, their_text = log.renderer.text_of(ours), log.renderer.text_of(theirs)
    if our_text == (their_text[: len(our_text)] if partial else their_text):
        detail = "the text is the same, encoded in other tokens: the model sampled another tokenisation of it"
        return AuditReport(Verdict.TOKENS_DIFFER, shared_length(ours, theirs), detail, readings)
    index = shared_prefix_length(our_text, their_text)
    return AuditReport(Verdict.TEXT_DIFFERS, index, "the template would write this conversation differently", readings)


class _Whole(NamedTuple):
    """A full rendering."""

    ids: Int32Array
    formed: tuple[int, ...]
    """Given messages that had to be put into another form."""


def _whole(renderer: Renderer, messages: Sequence[Message], sampled: AbstractSet[int], prompt: bool) -> _Whole:
    """The full rendering of messages as they were given; in the template's form where it does not take them so.

    Raises:
        TemplateRejectedError: the template takes them in no form.
    """
    formed = [renderer.in_form(message) for message in messages]
    given = [formed[i] if i in sampled else message for i, message in enumerate(messages)]
    changed = tuple(i for i, message in enumerate(given) if i not in sampled and normalise(message) != formed[i])
    if changed:
        try:
            ids = renderer.whole_tokens(given, prompt)
            text = renderer.text_of(ids)
            if not any(_is_damaged(given[i], text) for i in changed):
                return _Whole(ids, ())
        except TemplateRejectedError:
            pass
    return _Whole(renderer.whole_tokens(formed, prompt), changed)


def _is_damaged(message: Mapping[str, Any], text: str) -> bool:
    """Whether a template that was given a message in a form which it does not take made something else of it."""
    if any(own.strip() not in text for own in texts_of(message)) or "'type': 'text'" in text:
        return True
    return any(_is_damaged_call(call["function"].get("arguments"), text) for call in message.get("tool_calls") or ())


def _is_damaged_call(arguments: Any, text: str) -> bool:
    """Whether Python wrote an object as it is, or JSON text was written as a JSON string."""
    if isinstance(arguments, str):
        return '"' in arguments and any(
            json.dumps(arguments, ensure_ascii=escapes)[1:-1] in text for escapes in (True, False)
        )
    return bool(arguments) and repr(arguments) in text


def _own_readings(messages: Sequence[Message], sampled: AbstractSet[int]) -> list[int]:
    """Sampled turns of which the tokens alone do not say what message they are."""
    return [
        index
        for index in sampled
        if messages[index].get("tool_calls") or messages[index].get("reasoning_content") or _has_result(messages, index)
    ]


def _has_result(messages: Sequence[Message], index: int) -> bool:
    """Whether a tool's result comes right after a turn: where that has no calls, the caller has read one in it."""
    return any(message["role"] == "tool" for message in messages[index + 1 : index + 2])
