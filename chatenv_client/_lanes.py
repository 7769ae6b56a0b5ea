"""The connections of a client with many episodes: one to each process of the server.

A connection leads to one process, which the kernel chooses. So connections are opened until each process has one, and
every episode keeps to one of them: the process there has it in memory.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

from chatenv_client._connection import AsyncConnection, Connection
from chatenv_client.errors import ChatEnvError
from chatenv_client.models import ServerInfo

ConnectionT = TypeVar("ConnectionT", Connection, AsyncConnection)

_TRIES: Final = 8
"""Connections opened for each process, at most. Some lead to one that is reached already."""


class _Lanes(Generic[ConnectionT]):
    """The processes that are reached so far, each by one connection."""

    def __init__(self, first: ConnectionT, info: ServerInfo, most: int) -> None:
        self._wanted = min(info.processes, most)
        self._tries = _TRIES * self._wanted
        self._by_process: dict[int, ConnectionT] = {info.process: first}

    def wants_another(self) -> bool:
        """Whether one more connection is to be tried."""
        self._tries -= 1
        return self._tries >= 0 and len(self._by_process) < self._wanted

    def takes(self, connection: ConnectionT, process: int) -> bool:
        """Take a connection to a process, if none leads there yet; whether it does."""
        return self._by_process.setdefault(process, connection) is connection

    @property
    def connections(self) -> list[ConnectionT]:
        """One for each process that is reached."""
        return list(self._by_process.values())


def reach_all(
    first: Connection,
    info: ServerInfo,
    most: int,
    another: Callable[[], Connection],
    ask: Callable[[Connection], ServerInfo],
) -> list[Connection]:
    """Connections to different processes of a server, the first one among them; closed with the first.

    Where a process cannot be reached, there are fewer: any process serves any episode.

    Args:
        first: the connection that is there.
        info: what was answered on it.
        most: connections that are of use.
        another: opens a connection of its own.
        ask: asks what the server is.
    """
    lanes = _Lanes(first, info, most)
    while lanes.wants_another():
        lane = another()
        try:
            process = ask(lane).process
        except ChatEnvError:
            lane.at_close.close()
            break  # whoever makes the next call will learn why
        if lanes.takes(lane, process):
            first.at_close.callback(lane.at_close.close)
        else:
            lane.at_close.close()
    return lanes.connections


async def reach_all_async(
    first: AsyncConnection,
    info: ServerInfo,
    another: Callable[[], AsyncConnection],
    ask: Callable[[AsyncConnection], Awaitable[ServerInfo]],
) -> list[AsyncConnection]:
    """As `reach_all`, in an event loop."""
    lanes = _Lanes(first, info, info.processes)
    while lanes.wants_another():
        lane = another()
        try:
            process = (await ask(lane)).process
        except ChatEnvError:
            await lane.at_close.aclose()
            break
        if lanes.takes(lane, process):
            first.at_close.push_async_callback(lane.at_close.aclose)
        else:
            await lane.at_close.aclose()
    return lanes.connections
