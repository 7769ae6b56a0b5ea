"""What a chat template does on one tokenizer whatever the episode, as the probe found it out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from chatenv_server.engine.forms import Forms


@dataclass(frozen=True, slots=True)
class Profile:
    """How messages are given to one template on one tokenizer, and how its turns end. Immutable, shared by all.

    What its tails depend on is another thing, since that differs with an episode's options: see `Dependencies`.
    """

    forms: Forms
    closers: tuple[str, ...]
    """Control tokens that close an assistant turn of text whatever follows."""
    call_closers: tuple[str, ...]
    """Control tokens that close an assistant turn of calls whatever follows."""
    opener: str
    """The control token that turns begin with; empty where there is none, or none that ends no turn."""
    last_closers: tuple[str, ...]
    """Control tokens that close an assistant turn that is the last message."""
    stop_ids: frozenset[int]
    """A sampled span that ends in one of these counts as stopped."""
    role_closes: Mapping[str, str]
    """What closes a role's text: what follows it in the last message, or through a closer that comes only later."""
    call_close: str
    """What the template writes last of a message of calls, whatever their arguments; empty where that is nothing."""
    needs_call_ids: bool
    """Whether the template insists on an id for every tool call."""
    wants_system: bool = False
    """Whether the template rejects a conversation that has no system prompt."""
    takes: frozenset[str] = field(default_factory=frozenset)
    """Roles and shapes the template takes: `system`, `tool`, `tool_calls`, `tools`, `reasoning`, ..."""

    def closers_of(self, turn: Mapping[str, Any]) -> tuple[str, ...]:
        """Control tokens that close this assistant turn whatever follows, the likeliest first."""
        return (*self.call_closers, *self.closers) if turn.get("tool_calls") else self.closers
