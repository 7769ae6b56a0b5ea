"""What a filter of groups says."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class DynamicFilterOutput:
    """Whether a group is kept, and why not."""

    keep: bool
    reason: str | None = None
