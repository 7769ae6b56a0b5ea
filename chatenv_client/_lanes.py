"""The connections of a client with many episodes: one to each process of the server.

A connection leads to one process, which the kernel chooses. So connections are opened until each process has one, and
every episode keeps to one of them: the process there has it in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from chatenv_client._connection import Connection
from chatenv_client.errors import ChatEnvError
from chatenv_client.models import ServerInfo

_TRIES: Final = 8
"""Connections opened for each process, at most. Some lead to one that is reached already."""


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
    wanted = min(info.processes, most)
    lanes = {info.process: first}
    for _ in range(_TRIES * wanted):
        if len(lanes) >= wanted:
            break
        lane = another()
        try:
            process = ask(lane).process
        except ChatEnvError:
            lane.at_close.close()
            break  # whoever makes the next call will learn why
        if process in lanes:
            lane.at_close.close()
        else:
            lanes[process] = lane
            first.at_close.callback(lane.at_close.close)
    return list(lanes.values())
