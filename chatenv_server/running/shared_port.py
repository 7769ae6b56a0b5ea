"""Holds ports for several processes of one server, so that they share them and nobody else does.

Linux lets any process of the same user bind a port that others have bound with SO_REUSEPORT, and a stranger's server
would get its part of the calls. So the parent first takes the port for itself alone, which fails where anybody has it.
Then it opens it to SO_REUSEPORT, and keeps it for as long as it lives. A stranger that asks for the port in the same
way fails at the first step.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from chatenv_server.running.listeners import numeric_hosts
from chatenv_server.settings.errors import BindError

if TYPE_CHECKING:
    from typing_extensions import Self


class SharedPorts:
    """The ports of some addresses, held until it is closed. No connection ever arrives here.

    Raises:
        BindError: one of them cannot be had.
    """

    def __init__(self, addresses: Sequence[str]) -> None:
        self._sockets: list[socket.socket] = []
        try:
            self.addresses = tuple(map(self._hold, addresses))
            """With real ports."""
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let the ports go."""
        for held in self._sockets:
            held.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _hold(self, address: str) -> str:
        host, _, port_text = address.rpartition(":")
        port = int(port_text)
        for numeric in numeric_hosts(host):
            try:
                self._sockets.append(_taken(numeric.strip("[]"), port))
            except OSError as error:
                raise BindError(
                    f"cannot serve on {numeric}:{port}: {error.strerror}; choose another --listen, or end the process "
                    "that holds it"
                ) from error
            port = self._sockets[-1].getsockname()[1]
        return f"{host}:{port}"


def _taken(host: str, port: int) -> socket.socket:
    """A socket that has the port, and that only sockets with SO_REUSEPORT of the same user can share."""
    held = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        # Else connections that have just ended would be in the way.
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind((host, port))
        # Of two that are bound so, only one can listen: that decides it. A free port that the system chose is nobody's.
        if port:
            held.listen()
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if port:
            held.shutdown(socket.SHUT_RDWR)  # it listens no more, and is bound still
    except BaseException:
        held.close()
        raise
    return held
