"""Comparing an episode's stream with a full rendering of its messages. Costs time proportional to the episode."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from chatenv_client.errors import TemplateRejectedError
from chatenv_client.models import AuditReport, Message, Verdict
from chatenv_server.engine.codec import shared_prefix_length
from chatenv_server.engine.log import EpisodeLog, shared_length

_NEXT: Message = {"role": "user", "content": "a"}
"""Stands for whatever comes next, where the stream ends in a sampled turn: some templates write the last turn in a
way of its own."""


def audit(log: EpisodeLog) -> AuditReport:
    """Say whether the stream is what `apply_chat_template` gives for the same messages, and where the two part."""
    messages = log.conversation.since(0)
    ends_sampled = bool(log.turns()) and log.turns()[-1].stop_reason is not None
    if not ends_sampled:
        return _compare(log, messages, partial=False)
    verdicts = [_compare(log, others, partial=True) for others in (messages, [*messages, _NEXT])]
    return min(verdicts, key=lambda report: list(Verdict).index(report.verdict))


def _compare(log: EpisodeLog, messages: Sequence[Message], *, partial: bool) -> AuditReport:
    """Compare with the render of `messages`; with `partial`, only as far as the stream goes."""
    ours = log.stream.token_ids
    if not messages:
        return AuditReport(Verdict.EXACT, None, "the episode is empty")
    try:
        theirs = log.renderer.whole_tokens(messages, log.options.add_generation_prompt)
    except TemplateRejectedError as error:
        return AuditReport(Verdict.NOT_RENDERABLE, None, error.message)
    if np.array_equal(ours, theirs[: len(ours)] if partial else theirs):
        return AuditReport(Verdict.EXACT, None, "the stream equals the full rendering, token for token")
    our_text, their_text = log.renderer.text_of(ours), log.renderer.text_of(theirs)
    if our_text == (their_text[: len(our_text)] if partial else their_text):
        detail = "the text is the same, encoded in other tokens: the model sampled another tokenisation of it"
        return AuditReport(Verdict.TOKENS_DIFFER, shared_length(ours, theirs), detail)
    index = shared_prefix_length(our_text, their_text)
    return AuditReport(Verdict.TEXT_DIFFERS, index, "the template would write this conversation differently")
