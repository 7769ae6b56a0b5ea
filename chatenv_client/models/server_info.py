"""What `server_info` reads: version, tokenizer, control tokens, limits and load of a server.

Nothing here belongs to an episode.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SpecialToken:
    """A control token of the server's tokenizer."""

    id: int
    text: str
    stops: bool
    """Whether a sampled turn that ends in it counts as stopped."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a server allows; None means no limit."""

    max_episodes: int | None = None
    """Live episodes."""
    max_live_tokens: int | None = None
    """Tokens over all live episodes."""
    max_steps: int | None = None
    """Default truncation of an episode, in steps."""
    max_tokens: int | None = None
    """Default truncation of an episode, in tokens."""
    max_turns: int | None = None
    """Default truncation of an episode, in turns that the model ends."""
    max_sampled_tokens: int | None = None
    """Default truncation of an episode, in sampled tokens."""
    max_message_bytes: int | None = None
    """One message on the wire, either way."""
    max_batch_items: int | None = None
    max_text_bytes: int | None = None
    """Messages, tools and prompts of one request, as they travel."""
    idle_timeout_seconds: float | None = None
    """Time without a call after which an episode expires."""


@dataclass(frozen=True, slots=True)
class RowCount:
    """How many rows of data a split has."""

    task: str
    """The task that they are for; empty: any."""
    split: str
    count: int


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What a server says of itself."""

    version: str
    tokenizer_name: str
    tokenizer_fingerprint: str
    """SHA-256; servers with the same fingerprint encode alike."""
    chat_template_fingerprint: str
    """SHA-256 of the chat template's text."""
    vocabulary_size: int
    token_id_limit: int
    """Token ids from this one on are refused."""
    special_tokens: tuple[SpecialToken, ...]
    features: tuple[str, ...]
    """What the template does, one word each."""
    turn_parser: str
    """The form of calls in sampled turns, as in docs/tokens.md; `verbatim` where none can be read."""
    limits: Limits
    uptime_seconds: float
    live_episodes: int
    live_tokens: int
    processes: int = 1
    """Processes that serve at this address; each serves any episode."""
    process: int = 1
    """Which of them answered, from 1 on: the one that a connection leads to."""
    tasks: tuple[str, ...] = ()
    """Names of the tasks that `reset(task=...)` chooses from."""
    row_counts: tuple[RowCount, ...] = ()
    """How many rows of data there are."""

    @property
    def stop_ids(self) -> list[int]:
        """Ids of the tokens that end a sampled turn: what a sampler is to stop at."""
        return [token.id for token in self.special_tokens if token.stops]
