"""What was not exact about an episode: the reports of a step, and the report of an audit.

The kinds are defined here; the server's engine detects them.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class FidelityKind(enum.Enum):
    """What was not exact about a step."""

    HISTORY_REWRITTEN = "history_rewritten"
    """The template would now write an earlier turn differently; the stream keeps what the model saw."""
    CONTENT_ALTERED = "content_altered"
    """The template changed the text of a given message."""
    MESSAGE_DROPPED = "message_dropped"
    """The template left out a given message, a part of it, or the tools."""
    BOUNDARY_MERGE = "boundary_merge"
    """Encoding the whole conversation would merge text across the end of a sampled span."""
    CONTROL_TOKEN_ESCAPED = "control_token_escaped"
    """Message text held control-token strings, encoded as ordinary text."""
    NONCANONICAL_STOP = "noncanonical_stop"
    """The sampled turn ended in another stop token than the template's."""
    TRUNCATED_TURN_CLOSED = "truncated_turn_closed"
    """The sampled turn had no stop token; its close was written as template tokens."""
    STOP_STRING_OVERLAP = "stop_string_overlap"
    """A stop string in the sampled turn had already written a part of the template's close."""
    UNDECODABLE_TOKENS = "undecodable_tokens"
    """The sampled tokens do not decode to valid text."""
    KWARG_UNUSED = "kwarg_unused"
    """A chat-template keyword that the template never reads."""
    TOOL_CALL_MALFORMED = "tool_call_malformed"
    """A sampled turn looked like a tool call but could not be parsed; it is kept as text."""
    TEXT_AFTER_STOP = "text_after_stop"
    """The sampled span goes on after a token that ends a turn; what stands there is kept as text, calls included."""
    TOOL_RESULT_UNMATCHED = "tool_result_unmatched"
    """A tool's result answers no call of the assistant message before it."""


@dataclass(frozen=True, slots=True)
class FidelityReport:
    """One thing that was not exact, and where."""

    kind: FidelityKind
    detail: str
    """One sentence for a person; holds no message text."""
    token_index: int | None = None
    message_index: int | None = None


class Verdict(enum.Enum):
    """How an episode's stream compares with a full rendering of its messages."""

    EXACT = "exact"
    """Token for token the same."""
    TOKENS_DIFFER = "tokens_differ"
    """The text is the same, the tokens are not: the model sampled another tokenisation."""
    TEXT_DIFFERS = "text_differs"
    """The text is another one."""
    NOT_RENDERABLE = "not_renderable"
    """The template cannot render the whole conversation."""


@dataclass(frozen=True, slots=True)
class AuditReport:
    """Result of comparing an episode's stream with a full rendering of its messages."""

    verdict: Verdict
    index: int | None
    """First token (TOKENS_DIFFER) or character (TEXT_DIFFERS) that differs."""
    detail: str
    own_readings: tuple[int, ...] = ()
    """Indices of the messages that were rendered as chatenv reads them; the verdict holds for that reading alone.

    They are sampled turns that were parsed into calls or thoughts, or that a tool's result follows which answers none
    of their calls; and given messages that the template takes only in another form.
    """
