"""A proxy that cuts the line at the worst moment: the server has done what was asked, and nobody gets the answer."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable


class CuttingProxy:
    """Forwards TCP connections. When armed, it cuts one line as soon as the server has done what was asked."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._done: Callable[[], bool] | None = None
        self.cuts = 0
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def cut_when(self, done: Callable[[], bool]) -> None:
        """Hold back what the server sends from now on, and cut the line once `done` says that the work is done."""
        self._done = done

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
                for pair in ((client, server, False), (server, client, True)):
                    threading.Thread(target=self._forward, args=pair, daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket, answers: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if answers and self._done is not None:
                    self._hold_back_and_cut(self._done)
                    break
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)
        source.close()

    def _hold_back_and_cut(self, done: Callable[[], bool]) -> None:
        while not done():
            threading.Event().wait(0.005)
        self._done = None
        self.cuts += 1
