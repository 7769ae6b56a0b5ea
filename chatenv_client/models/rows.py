"""What callers may know of the data that a server's tasks have."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Row:
    """A row of a server's data, as `list_rows` shows it."""

    index: int
    """Its place in the split, from 0: what `reset(row=...)` takes."""
    id: str
    """What `reset(row_id=...)` takes."""
    public: dict[str, Any] = field(default_factory=dict)
    """What the row's key `public` holds. All else of it stays on the server."""


def row_id_text(given: str | int) -> str:
    """What `reset(row_id=...)` was given, as a text: of a whole number its digits.

    Raises:
        TypeError: it is neither.
    """
    if isinstance(given, str):
        return given
    if isinstance(given, bool) or not isinstance(given, int | np.integer):
        raise TypeError(f"a row_id is a text or a whole number, not a {type(given).__name__}")
    return str(given)
