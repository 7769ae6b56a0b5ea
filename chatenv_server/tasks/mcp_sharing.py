"""Which connections are shared: one for each episode, or one for all episodes that name the same server."""

from __future__ import annotations

import asyncio
from weakref import WeakKeyDictionary

from chatenv_server.tasks.mcp_connection import McpConnection, McpServer

_shared: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[McpServer, McpConnection]] = WeakKeyDictionary()
"""By event loop, of which a process has one for its tasks."""


def join(server: McpServer, timeout_s: float, *, is_shared: bool) -> McpConnection:
    """A connection to use until `leave`: a new one, or the one that others use already."""
    if is_shared:
        here = _shared.setdefault(asyncio.get_running_loop(), {})
        connection = here.get(server)
        if connection is None or connection.is_lost:
            connection = here[server] = McpConnection(server, timeout_s)
    else:
        connection = McpConnection(server, timeout_s)
    connection.users += 1
    return connection


async def leave(connection: McpConnection) -> None:
    """Use it no longer. The last user closes it."""
    connection.users -= 1
    if connection.users:
        return
    here = _shared.get(asyncio.get_running_loop(), {})
    for server in [server for server, shared in here.items() if shared is connection]:
        del here[server]
    await connection.close()
