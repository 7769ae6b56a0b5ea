"""What a chat template does on one tokenizer, as the probe found it out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from chatenv_server.engine.forms import Forms


@dataclass(frozen=True, slots=True)
class Profile:
    """Everything the probe found out about one template on one tokenizer. Immutable, shared by all episodes."""

    forms: Forms
    closers: tuple[str, ...]
    """Control tokens that close an assistant turn whatever follows."""
    last_closers: tuple[str, ...]
    """Control tokens that close an assistant turn that is the last message."""
    stop_ids: frozenset[int]
    """A sampled span that ends in one of these counts as stopped."""
    role_closes: Mapping[str, str]
    """What follows a role's text when it is the last message."""
    needs_system: bool
    """Whether a tail depends on the system prompt."""
    needs_tools: bool
    """Whether a tail depends on the tools."""
    needs_clock: bool
    """Whether a tail depends on the time that the template sees."""
    needs_skeleton: bool
    """Whether a tail depends on what came before the last assistant turn."""
    needs_call_ids: bool
    """Whether the template insists on an id for every tool call."""
    rounds_are_alike: bool
    """Whether further questions and answers of plain text change no tail after two in a row. False where no skeleton is
    needed: nobody asks."""
    forgets: bool
    """Whether the template writes an assistant turn differently once later turns have come."""
    forgets_late: bool
    """Whether it does so even where a user has answered the turn already."""
    takes: frozenset[str] = field(default_factory=frozenset)
    """Roles and shapes the template takes: `system`, `tool`, `tool_calls`, `tools`, `reasoning`, ..."""
