"""What callers may know of the data that a server's tasks have."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Row:
    """A row of a server's data, as `list_rows` shows it."""

    index: int
    """Its place in the split, from 0: what `reset(row=...)` takes."""
    id: str
    """What `reset(row_id=...)` takes."""
    public: dict[str, Any] = field(default_factory=dict)
    """What the row's key `public` holds. All else of it stays on the server."""
