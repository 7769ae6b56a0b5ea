"""A server of the Model Context Protocol for tests, written as its SDK shows it: over stdio, or HTTP on a port."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Annotated

from mcp.server import MCPServer
from mcp.server.mcpserver import Image
from mcp.shared.exceptions import MCPError
from mcp_types import INTERNAL_ERROR, INVALID_PARAMS
from pydantic import Field

server = MCPServer("Tools for tests", log_level="CRITICAL")
notes: list[str] = []


@server.tool()
def add(a: Annotated[int, Field(description="The first number.")], b: int) -> int:
    """Add two numbers."""
    return a + b


@server.tool()
def note(text: str) -> int:
    """Note a text; answers how many texts are noted."""
    notes.append(text)
    return len(notes)


@server.tool()
async def nap(seconds: float) -> str:
    """Sleep."""
    await asyncio.sleep(seconds)
    return "slept"


@server.tool()
def table() -> dict[str, list[int]]:
    """Return an object."""
    return {"primes": [2, 3, 5]}


@server.tool()
def big(characters: int) -> str:
    """Return a long text."""
    return "é" * characters


@server.tool()
def picture() -> Image:
    """Return an image."""
    return Image(data=b"\x89PNG" + bytes(96), format="png")


@server.tool()
def who() -> str:
    """Return the variable WHO."""
    return os.environ.get("WHO", "nobody")


@server.tool()
def process() -> int:
    """Return the id of this process."""
    return os.getpid()


@server.tool()
def fail() -> str:
    """Raise an error."""
    raise ValueError("no such thing")


@server.tool()
def refuse() -> str:
    """Refuse the arguments by an error of the protocol."""
    raise MCPError(INVALID_PARAMS, "there is no such page")


@server.tool()
def break_down() -> str:
    """Fail by an error of the protocol."""
    raise MCPError(INTERNAL_ERROR, "the disk is full")


@server.tool()
def die() -> str:
    """End the server."""
    os._exit(3)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        server.run(transport="streamable-http", port=int(sys.argv[1]))
    else:
        server.run()
