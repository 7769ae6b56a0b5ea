"""What a list of episodes shows of each."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class EpisodeSummary:
    """A live episode, as a list shows it."""

    episode_id: str
    step_count: int
    """Steps taken since Reset."""
    token_count: int
    """Length of the stream."""
    message_count: int
    """Messages of the conversation."""
    created_unix_seconds: float
    """When it was opened, forked or imported."""
    last_used_unix_seconds: float
    """When the last call on it was answered; calls that change nothing may show late."""
    terminated: bool = False
    truncated: bool = False
    failed: bool = False
    """Whether something broke in it."""
    metadata: dict[str, Any] = field(default_factory=dict)
    """As given at Reset."""
