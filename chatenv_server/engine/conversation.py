"""The values that pass between an episode's log and its renderer: options, sampled turns, tails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from chatenv_client.models import (
    ColumnRows,
    ControlTokenPolicy,
    FidelityReport,
    HistoryPolicy,
    Message,
    MessageSnapshot,
    StopReason,
)
from chatenv_client.tokens import EMPTY_TOKENS, Int32Array
from chatenv_server.engine.forms import PreparedMessage
from chatenv_server.engine.locate import Place
from chatenv_server.values import value


@dataclass(frozen=True)
class RenderOptions:
    """What stays the same for a whole episode: template inputs beside the messages, and the caller's policies."""

    tools: tuple[Mapping[str, Any], ...] | None = None
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    clock_unix_seconds: float = 0.0
    add_generation_prompt: bool = True
    history_policy: HistoryPolicy = HistoryPolicy.APPEND
    control_token_policy: ControlTokenPolicy = ControlTokenPolicy.ESCAPE


@value
class SampledTurn:
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
    """Whether the template did write one there; some do not after a tool's result."""
    is_given: bool = False
    """Whether the caller gave the message with the tokens; else it can be read from them again."""
    is_prefilled: bool = False
    """Whether the turn begins with a prefill, so that `start` lies before the first token that was sampled."""


class KnownText(NamedTuple):
    """What the first tokens of a span read."""

    text: str
    tokens: int
    """How many they are."""


class SpanNotes(NamedTuple):
    """What a caller says of a sampled span that changes nothing about the conversation."""

    model_version: str = ""
    """Of the weights that sampled."""
    model_version_runs: tuple[tuple[str, int], ...] = ()
    """(version, number of tokens), where the weights changed within the span."""
    sampled_runs: tuple[int, ...] = ()
    """Which tokens the model sampled, as run lengths, first of those that it did not; empty: all."""
    columns: tuple[ColumnRows, ...] = ()
    """Of its tokens, and of the last one before."""


NO_NOTES = SpanNotes()


@value
class ReadTurn:
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
    inner_stop: int | None = None
    """Index, in the span, of the first token that ends a turn although the span goes on."""


class RecordedTurn(NamedTuple):
    """How a sampled span was read when it came, for a log that is made anew."""

    message: Message | None
    """None: it says its text, and nothing else."""
    reports: tuple[FidelityReport, ...]


class PendingRewrite(NamedTuple):
    """An assistant message on record that the template will write differently once later turns have come."""

    message: Message
    message_index: int
    follower: str
    """Who speaks after it: `tool`, `user`, or nobody yet."""


@value
class TailPlace:
    """Where a tail goes on: the end of the committed stream, and what of the conversation before it may matter."""

    history: MessageSnapshot
    """All messages before `last`; read only where the template's tails depend on them."""
    last: SampledTurn
    """The turn at the end of the committed stream."""
    before: Int32Array = field(compare=False)
    """(n,) int32, the committed stream; only its end is read."""
    pending: PendingRewrite | None = None
    """An earlier message that later turns may make the template rewrite."""


class Prefill(NamedTuple):
    """The beginning of an assistant's message that a model is to go on with, at the end of an opening."""

    start: int
    """First token of what the model might have said itself."""
    prompted: bool
    """Whether the template writes its generation prompt before that."""


class OpeningText(NamedTuple):
    """What a template wrote for an opening."""

    text: str
    """Marks included."""
    starts: tuple[int, ...]
    """First character of each message's part."""
    parted: tuple[bool, ...]
    """Of each message, whether another opening may begin with those before it: it and the one before have texts, by
    which its place is sure, and a token begins there, which does not hold the end of the part before, too."""
    prepared: Sequence[PreparedMessage]
    """The messages in the template's form."""
    suspicious: Sequence[Sequence[str]]
    """Of each message, the texts that may have a part in a forged control token; see `Forgeries.suspicious`."""
    reports: tuple[FidelityReport, ...] = ()
    """What was found in its messages."""
    places: Sequence[Place] = ()
    """Where the texts of its messages stand; empty where its beginning was taken over from another."""


class KnownOpening(NamedTuple):
    """An opening that was written before, of which another one may take over the beginning."""

    written: OpeningText
    tokens: Int32Array
    """(n,) int32, its tokens and what came after."""
    starts: Sequence[int]
    """First token of each message's part."""


class Reopening(NamedTuple):
    """What is known where a segment begins, or its opening is written anew, that is not the episode's first."""

    recorded: int
    """Leading messages that were on record before: taken then, and reported on."""
    same: int
    """Leading messages that are as they were when `known` was written."""
    known: KnownOpening | None
    own: AbstractSet[int] = frozenset()
    """Those on record that a model said, whose control-token strings are the control tokens that it sampled."""


@value
class Tail:
    """The stream after the last sampled span: rendered text, encoded, not yet committed."""

    tokens: Int32Array = field(compare=False)
    """(n,) int32."""
    generation_prompt_length: int = 0
    message_starts: tuple[int, ...] = ()
    """First token of each message of the tail, counted from the tail's beginning."""
    reports: tuple[FidelityReport, ...] = ()
    """What is not exact; indices count from the beginning of the stream and the conversation."""
    pending_rewrite: PendingRewrite | None = None
    """The first of its messages that the template will rewrite later."""
    opening: OpeningText | None = None
    """Its text, where it is an opening."""
    prefill: Prefill | None = None
    """Where it ends inside an assistant's message."""


EMPTY_TAIL = Tail(EMPTY_TOKENS)
