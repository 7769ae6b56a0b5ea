"""Who uses which connection: each episode one of its own, or all one that name the same server."""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from typing import Final

from chatenv_server.tasks.mcp_connection import McpConnection, McpServer

_shared: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[McpServer, McpConnection]] = (
    weakref.WeakKeyDictionary()
)
"""By event loop, of which a process has one for its tasks."""
_LEAVING: Final[set[asyncio.Task[None]]] = set()
"""Tasks that the loop itself would hold only weakly."""


class ConnectionUse:
    """An episode's use of a connection, which the last use closes. It begins in the event loop of the connection.

    A use that is dropped without a word, as that of an episode is which goes on in another process, ends by itself.

    Args:
        server: the server.
        timeout_s: seconds in which it has to have connected and listed its tools.
        is_shared: whether to use the connection that others use already.
    """

    def __init__(self, server: McpServer, timeout_s: float, *, is_shared: bool) -> None:
        loop = asyncio.get_running_loop()
        self.connection = _common(loop, server, timeout_s) if is_shared else McpConnection(server, timeout_s)
        self.connection.users += 1
        self._dropped = weakref.finalize(self, _leave_soon, loop, self.connection)
        self._dropped.atexit = False

    async def end(self) -> None:
        """Use it no longer."""
        if self._dropped.detach() is not None:
            await _leave(self.connection)


def _common(loop: asyncio.AbstractEventLoop, server: McpServer, timeout_s: float) -> McpConnection:
    here = _shared.setdefault(loop, {})
    connection = here.get(server)
    if connection is None or connection.is_lost:
        connection = here[server] = McpConnection(server, timeout_s)
    return connection


def _leave_soon(loop: asyncio.AbstractEventLoop, connection: McpConnection) -> None:
    """Leave a connection, called from any thread."""

    def begin() -> None:
        leaving = loop.create_task(_leave(connection))
        _LEAVING.add(leaving)
        leaving.add_done_callback(_LEAVING.discard)

    with contextlib.suppress(RuntimeError):  # the loop is closed, and the connection with it
        loop.call_soon_threadsafe(begin)


async def _leave(connection: McpConnection) -> None:
    connection.users -= 1
    if connection.users:
        return
    here = _shared.get(asyncio.get_running_loop(), {})
    for server in [server for server, shared in here.items() if shared is connection]:
        del here[server]
    await connection.close()
