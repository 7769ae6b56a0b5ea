"""The values that pass between an episode's log and the part that renders: contexts, sampled turns, tails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from chatenv_client.models import (
    ControlTokenPolicy,
    FidelityReport,
    HistoryPolicy,
    Message,
    MessageSnapshot,
    StopReason,
)
from chatenv_client.tokens import EMPTY_TOKENS, Int32Array


@dataclass(frozen=True)
class RenderOptions:
    """What stays the same for a whole episode: template inputs beside the messages, and the caller's policies."""

    tools: tuple[Mapping[str, Any], ...] | None = None
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    clock_unix_seconds: float = 0.0
    add_generation_prompt: bool = True
    history_policy: HistoryPolicy = HistoryPolicy.APPEND
    control_token_policy: ControlTokenPolicy = ControlTokenPolicy.ESCAPE


class SampledTurn(NamedTuple):
    """The assistant turn at the end of the committed stream, as the next tail sees it."""

    message: Message
    message_index: int
    text: str
    """The span decoded, without its close."""
    close: str
    """What the span itself holds of the turn's close: its stop token, and what some templates write before that."""
    stop_id: int | None
    """The stop token that ends the span, None where it ends without one."""
    stop_reason: StopReason
    start: int
    """First token of the span."""
    after_prompt: bool
    """Whether the prompt it was sampled from asked for a generation prompt."""
    prompted: bool
    """Whether the template did write one there; some do not behind a tool's result."""


class Tail(NamedTuple):
    """The stream behind the last sampled span: rendered text, encoded, not yet committed."""

    tokens: Int32Array
    """(n,) int32."""
    generation_prompt_length: int = 0
    message_starts: tuple[int, ...] = ()
    """First token of each message of the tail, counted from the tail's beginning."""
    reports: tuple[FidelityReport, ...] = ()
    """What is not exact; indices count from the beginning of the stream and the conversation."""
    watch: PendingRewrite | None = None
    """A message whose rendering may still change when later turns come."""


EMPTY_TAIL = Tail(EMPTY_TOKENS)


class PendingRewrite(NamedTuple):
    """An assistant message on record that the template will write differently once later turns have come."""

    message: Message
    message_index: int
    follower: str
    """Who speaks behind it: `tool`, `user`, or nobody yet."""


class ReadTurn(NamedTuple):
    """A sampled span, read."""

    message: Message
    text: str
    """The span decoded, without its close."""
    close: str
    stop_id: int | None
    problems: tuple[str, ...] = ()
    undecodable: bool = False
    merges: bool = False
    """Encoding prompt and span together would give other tokens at the end of the prompt."""


class Renderer(Protocol):
    """A tokenizer under certain options: all that an episode's log needs to know about it."""

    reads_history: bool
    """Whether tails are rendered from all messages, not only from the last ones."""

    def opening(self, messages: Sequence[Message]) -> Tail:
        """Everything up to the first sampled token. Raises TemplateRejectedError."""

    def tail(
        self,
        history: MessageSnapshot,
        last: SampledTurn,
        messages: Sequence[Message],
        before: Int32Array,
        watch: PendingRewrite | None,
    ) -> Tail:
        """Everything behind the sampled turn `last` for the messages that follow it. Raises TemplateRejectedError."""

    def read_turn(self, ids: Int32Array, before: Int32Array, *, prompted: bool) -> ReadTurn:
        """Decode and parse a sampled span behind the prompt that ends in `before`. Never raises.

        `prompted` says whether the stream before it ends in the generation prompt, which may have opened a thought.
        """

    def whole_tokens(self, messages: Sequence[Message], prompt: bool) -> Int32Array:
        """The full tokenisation of a conversation."""

    def text_of(self, ids: Int32Array) -> str:
        """The text of a whole stream."""
