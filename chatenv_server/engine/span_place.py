"""Where a sampled span goes: it begins a message, or goes on with one that was cut off or given as a prefill."""

from __future__ import annotations

from dataclasses import field
from typing import Final

import numpy as np

from chatenv_client.tokens import Int32Array
from chatenv_server.engine.conversation import KnownText, SampledTurn
from chatenv_server.engine.log_head import Head
from chatenv_server.values import value

END_TOKENS: Final = 16
"""How much of a stream's end decides how text after it is read."""


@value
class SpanPlace:
    """The turn that a span makes, or goes on with, and what is known of it before the span is read."""

    start: int
    """First token of the turn."""
    ids: Int32Array = field(compare=False)
    """(n,) int32, all tokens of the turn, the span's own last."""
    message_index: int
    after_prompt: bool
    """Whether the prompt before it asked for a generation prompt."""
    prompted: bool
    """Whether the template did write one there."""
    continued: SampledTurn | None = None
    """The turn that it goes on with, where a model began that."""
    known: KnownText | None = None
    """What was read of that turn."""
    is_prefilled: bool = False
    """Whether a caller began the turn."""

    @property
    def starts_message(self) -> bool:
        """Whether a message begins with the span."""
        return self.continued is None and not self.is_prefilled


def place_of(head: Head, tokens: Int32Array, *, asks: bool) -> SpanPlace:
    """Where a span goes that is appended to a log.

    Args:
        head: where the log stands.
        tokens: the span.
        asks: whether the episode's prompts ask for a generation prompt.
    """
    tail, prefill, last = head.tail, head.tail.prefill, head.last
    if prefill is not None:
        ids = np.concatenate([tail.tokens[prefill.start :], tokens])
        return SpanPlace(prefill.start, ids, head.message_count - 1, True, prefill.prompted, is_prefilled=True)
    if last is None or last.stop_id is not None or head.message_count != head.tail_message:
        start = head.written.tokens + len(tail.tokens)
        return SpanPlace(start, tokens, head.message_count, asks, tail.generation_prompt_length > 0)
    # The last thing on record was cut off before a stop token.
    before = head.records.tokens.view(last.start, head.written.tokens)
    return SpanPlace(
        last.start,
        np.concatenate([before, tokens]),
        last.message_index,
        last.after_prompt,
        last.prompted,
        last,
        KnownText(last.text, len(before)),
        last.is_prefilled,
    )


def end_before(head: Head, position: int) -> Int32Array:
    """The end of a log's stream before `position`, which lies in the pending tail or at its edges."""
    within = position - head.written.tokens
    if within > 0:
        return head.tail.tokens[:within]
    return head.records.tokens.view(max(0, position - END_TOKENS), position)
