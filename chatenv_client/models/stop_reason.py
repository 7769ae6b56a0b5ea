"""Why sampling of a turn stopped, in chatenv's three words, and in the words of engines and APIs."""

from __future__ import annotations

import enum
from typing import Any, Final

from chatenv_client.errors import InvalidRequestError
from chatenv_client.reasons import Reason


class StopReason(enum.Enum):
    """Why sampling of a turn stopped."""

    STOP = "stop"
    """The model ended its turn, by a stop token or a stop string."""
    LENGTH = "length"
    """The sampler's length limit cut the turn off."""
    ABORT = "abort"
    """The sampler gave up."""


ENGINE_WORDS: Final = {
    StopReason.STOP: (
        *("stop", "stopped", "eos", "eos_token", "stop_token", "stop_sequence", "stop_string", "stop_word"),
        *("tool_calls", "tool_call", "tool_use", "function_call", "end_turn", "completed", "finished"),
    ),
    StopReason.LENGTH: (
        *("length", "limit", "max_tokens", "max_new_tokens", "max_length", "max_output_tokens", "token_limit"),
        *("truncated", "content_filter", "refusal"),
    ),
    StopReason.ABORT: (
        *("abort", "aborted", "cancel", "cancelled", "canceled", "interrupted", "preempted", "pause_turn", "timeout"),
        "error",
    ),
}
"""What engines say, by what it means here. `make docs` writes the table of docs/training.md from it."""

_BY_WORD: Final = {word: reason for reason, words in ENGINE_WORDS.items() for word in words}


def as_stop_reason(reason: Any) -> StopReason:
    """A stop reason, or the word of an engine for one, in capitals or not.

    Raises:
        TypeError: it is neither.
        InvalidRequestError: reason BAD_ENUM: no engine is known to say so; the message lists what is known.
    """
    if isinstance(reason, StopReason):
        return reason
    if not isinstance(reason, str):
        raise TypeError(f"a stop reason is a word, such as 'stop', not {reason!r:.99}")
    found = _BY_WORD.get(reason.lower())
    if found is None:
        known = "; ".join(f"{each.value}: {', '.join(words)}" for each, words in ENGINE_WORDS.items())
        what = f"{reason!r:.99} is no stop reason that is known; give one of these, by what they mean: {known}"
        raise InvalidRequestError(what, reason=Reason.BAD_ENUM, field="stop_reason")
    return found
