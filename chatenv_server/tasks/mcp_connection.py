"""A connection to one server of the Model Context Protocol.

The `mcp` client enters and leaves its scopes in one asyncio task. So a connection lives in a task of its own, from the
connect to the close; calls come from any other task of the same event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from chatenv_client.distribution import needing
from chatenv_server.tasks.last_words import LastWords
from chatenv_server.tasks.tool import ToolUnavailableError
from chatenv_server.tasks.tool_results import error_text

with needing("mcp", "chatenv_server.McpTask"):
    import httpx2
    import mcp_types as types
    from mcp import Client, MCPError, StdioServerParameters
    from mcp.client.stdio import stdio_client
    from mcp.client.streamable_http import streamable_http_client

if TYPE_CHECKING:
    from mcp.client import Transport

ResultT = TypeVar("ResultT")

CLOSE_S: Final = 10.0
"""Seconds that a server may take to end. The client kills a command that takes longer, in less than that."""
HTTP_S: Final = 30.0
"""Seconds to connect, and to send a request. How long a call may take is the task's to say."""
LOST: Final = (types.CONNECTION_CLOSED, types.INVALID_REQUEST)
"""Codes of errors after which no call gets through: the server has ended, or it knows the session no more."""
MOST_PAGES: Final = 1000
"""Of a list of tools. A server that pages for ever must not hold an episode up."""


class McpServer(NamedTuple):
    """Where a server is found."""

    address: str | tuple[str, ...]
    """Its URL, or the command that starts it."""
    environment: tuple[tuple[str, str], ...] = ()
    """Variables for the command, beside those that any command has, such as PATH."""
    headers: tuple[tuple[str, str], ...] = ()
    """Sent with each request to the URL."""


class BadCallError(Exception):
    """The server says that nothing can be called with this name and these arguments."""


class ConnectionLostError(ToolUnavailableError):
    """There is no connection to the server, or none that works."""


class McpConnection:
    """A connection. Once it is lost, it stays lost.

    Args:
        server: the server.
        timeout_s: seconds in which it has to have connected and listed its tools.
    """

    def __init__(self, server: McpServer, timeout_s: float) -> None:
        self.users = 0
        """Episodes that use it."""
        self._server = server
        self._timeout_s = timeout_s
        self._closing = asyncio.Event()
        self._client: Client | None = None
        self._ready: asyncio.Future[list[types.Tool]] = asyncio.get_running_loop().create_future()
        self._error: BaseException | None = None
        self._last_words = LastWords()
        self._is_given_up = False
        self._life = asyncio.ensure_future(self._live())

    @property
    def is_lost(self) -> bool:
        """Whether nothing can be called any more."""
        return self._is_given_up or self._life.done()

    async def tools(self) -> list[types.Tool]:
        """The tools of the server, as it listed them when it was connected to.

        Raises:
            ConnectionLostError: it cannot be connected to.
        """
        either: list[asyncio.Future[Any]] = [self._ready, self._life]
        await asyncio.wait(either, timeout=self._timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if self._ready.done():
            return self._ready.result()
        if self.is_lost:
            raise self._lost("the MCP server cannot be connected to")
        self._give_up()
        raise ConnectionLostError(f"the MCP server did not answer within {self._timeout_s:g} s")

    async def call(self, name: str, arguments: Mapping[str, Any]) -> types.CallToolResult:
        """What a tool returns, errors of its own included.

        Raises:
            BadCallError: the server refuses the name or the arguments.
            ConnectionLostError: the connection is lost.
            ToolUnavailableError: the server is out of order.
        """
        if self._client is None or self.is_lost:
            raise self._lost("the connection to the MCP server is lost")
        try:
            return await self._unless_lost(self._client.call_tool(name, dict(arguments)))
        except MCPError as error:
            if error.code == types.INVALID_PARAMS:
                raise BadCallError(error.message) from error
            if error.code in LOST:
                self._give_up()
                raise self._lost("the connection to the MCP server is lost") from error
            raise _out_of_order(error) from error
        except ConnectionLostError:
            raise
        except Exception as error:  # an answer that is none, say
            raise _out_of_order(error) from error

    async def close(self) -> None:
        """Close it, and wait until the server has ended if it was started for this connection."""
        self._closing.set()
        await asyncio.wait({self._life}, timeout=CLOSE_S)
        self._give_up()

    async def _live(self) -> None:
        try:
            async with AsyncExitStack() as scopes:
                self._client = await scopes.enter_async_context(Client(await self._transport(scopes)))
                self._ready.set_result(await _all_tools(self._client))
                await self._closing.wait()
        except BaseException as error:  # noqa: BLE001 - told to whoever calls
            self._error = error

    async def _transport(self, scopes: AsyncExitStack) -> Transport:
        address, environment, headers = self._server
        if isinstance(address, str):
            timeout = httpx2.Timeout(HTTP_S, read=None)
            http = await scopes.enter_async_context(httpx2.AsyncClient(headers=dict(headers), timeout=timeout))
            return streamable_http_client(address, http_client=http)
        command = StdioServerParameters(command=address[0], args=list(address[1:]), env=dict(environment))
        return stdio_client(command, errlog=await scopes.enter_async_context(self._last_words.file()))

    async def _unless_lost(self, call: Coroutine[Any, Any, ResultT]) -> ResultT:
        calling = asyncio.ensure_future(call)
        try:
            await asyncio.wait({calling, self._life}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            calling.cancel()  # which does nothing to one that is done
        if calling.done() and not calling.cancelled():
            return calling.result()
        raise self._lost("the connection to the MCP server is lost")

    def _give_up(self) -> None:
        self._is_given_up = True
        self._life.cancel()

    def _lost(self, what: str) -> ConnectionLostError:
        reasons = [] if self._error is None else [error_text(_told_of(self._error))]
        if line := self._last_words.line:
            reasons.append(f"its command wrote {line!r}")
        return ConnectionLostError(": ".join([what, "; ".join(reasons)] if reasons else [what]))


def _out_of_order(error: Exception) -> ToolUnavailableError:
    return ToolUnavailableError(f"the MCP server is out of order: {error_text(error)}")


async def _all_tools(client: Client) -> list[types.Tool]:
    page = await client.list_tools()
    tools = list(page.tools)
    for _ in range(MOST_PAGES):
        if page.next_cursor is None:
            return tools
        page = await client.list_tools(cursor=page.next_cursor)
        tools += page.tools
    raise RuntimeError(f"its list of tools has more than {MOST_PAGES} pages")


def _told_of(error: BaseException) -> BaseException:
    """The exception inside groups of one, which says more than they do."""
    inner: tuple[BaseException, ...] = getattr(error, "exceptions", ())
    return _told_of(inner[0]) if len(inner) == 1 else error
