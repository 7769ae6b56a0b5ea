"""A task whose model calls the tools of a server of the Model Context Protocol (https://modelcontextprotocol.io)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from chatenv_client.models import Failure, FailureKind
from chatenv_server.tasks.argument_check import BadArgumentsError
from chatenv_server.tasks.mcp_connection import BadCallError, ConnectionLostError, McpConnection, McpServer
from chatenv_server.tasks.mcp_results import schema_of, text_of_result
from chatenv_server.tasks.mcp_sharing import ConnectionUse
from chatenv_server.tasks.task import Answer, End, ModelTurn
from chatenv_server.tasks.tool import Tool, by_name
from chatenv_server.tasks.tool_task import ToolTask

if TYPE_CHECKING:
    import mcp_types as types


class McpTask(ToolTask):
    """A `ToolTask` whose tools are those of a server of the Model Context Protocol, beside functions in `tools`.

    Subclass it, say where the `server` is, and define `score`, and `begin` where the task makes its own problem. Needs
    the extra `mcp`.

    ```python
    class Files(McpTask):
        server = ("python", "-m", "my_file_server")
        offered = ("read_file", "list_folder")

        def score(self, turn):
            return float(turn.row["answer"] in turn.text)
    ```

    The server is connected to when the episode opens, or when it is first needed after the episode was taken up again.
    What a tool says is what the model reads, errors of its own included. A server that cannot be reached, or is out of
    order, fails the step, which may be tried again with a new connection.
    """

    __slots__ = ("_use",)  # beside the attributes, which are the state

    server: str | Sequence[str] = ()
    """The URL of a server (streamable HTTP), or the command that starts one (stdio)."""
    environment: Mapping[str, str] = {}
    """Variables for the command. Of this process's own, only PATH, HOME and a few others are handed on."""
    headers: Mapping[str, str] = {}
    """Sent with each request to the URL."""
    offered: Sequence[str] | None = None
    """Names of the tools that the model may call; None: all of the server's."""
    is_shared: bool = False
    """Whether all episodes of this process share one connection: for servers that keep nothing for an episode. A
    command is then started once, and not for each episode."""
    reconnects: bool = True
    """Whether an episode goes on with a new connection. Where the server keeps something for an episode, such as a
    sandbox, that is gone with the connection: False, and the episode ends with a failure."""
    connect_timeout_s: float = 30.0
    """Seconds in which the server has to be started, connected to, and asked for its tools."""

    has_connected: bool = False
    """Whether there was a connection for this episode."""

    async def answer(self, turn: ModelTurn) -> Answer:
        """Run the calls of the turn, or score it."""
        try:
            return await super().answer(turn)
        except ConnectionLostError as error:
            if self.reconnects:
                raise
            return Answer(failure=Failure(FailureKind.TOOL, str(error)[:4096]))

    async def close(self, reason: End) -> None:  # noqa: ARG002
        """Close the connection. A subclass that closes more awaits this, too."""
        await self._end_use()

    async def _ready_tools(self) -> Mapping[str, Tool]:
        own = await super()._ready_tools()
        connection = await self._connected()
        tools = [_tool_of(tool, connection) for tool in await connection.tools() if self._offers(tool.name)]
        return by_name([*own.values(), *tools])

    def _offers(self, name: str) -> bool:
        return self.offered is None or name in self.offered

    async def _connected(self) -> McpConnection:
        use: ConnectionUse | None = getattr(self, "_use", None)
        if use is not None and not use.connection.is_lost:
            return use.connection
        if self.has_connected and not self.reconnects:
            raise ConnectionLostError("the connection of this episode is lost, and with it what its MCP server kept")
        await self._end_use()
        self._use = ConnectionUse(_server_of(self), self.connect_timeout_s, is_shared=self.is_shared)
        self.has_connected = True
        return self._use.connection

    async def _end_use(self) -> None:
        use: ConnectionUse | None = getattr(self, "_use", None)
        if use is not None:
            del self._use
            await use.end()


def _server_of(task: McpTask) -> McpServer:
    address = task.server if isinstance(task.server, str) else tuple(task.server)
    if not address:
        raise ValueError(f"{type(task).__name__} has no `server`: give it a URL or a command")
    return McpServer(address, tuple(task.environment.items()), tuple(task.headers.items()))


def _tool_of(tool: types.Tool, connection: McpConnection) -> Tool:
    return Tool(schema_of(tool), partial(_call, connection, tool.name))


async def _call(connection: McpConnection, name: str, arguments: dict[str, Any]) -> str:
    try:
        return text_of_result(await connection.call(name, arguments))
    except BadCallError as error:
        raise BadArgumentsError(str(error)) from error
