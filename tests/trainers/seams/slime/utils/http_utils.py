"""slime's way to ask an engine."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from typing import Any


async def post(url: str, payload: Any, max_retries: int = 60, headers: dict[str, str] | None = None) -> Any:  # noqa: ARG001
    """The JSON that is answered to JSON."""
    request = urllib.request.Request(
        url, json.dumps(payload).encode(), {"Content-Type": "application/json", **(headers or {})}
    )

    def ask() -> Any:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    return await asyncio.to_thread(ask)
