"""A TCP proxy that can stop passing bytes, in either direction, while its connections stay open."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress


class StallingProxy:
    """Passes connections on to a port of this machine."""

    def __init__(self, port: int) -> None:
        self.passes_requests = True
        self.passes_answers = True
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._open = True
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._open = False
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
                for source, sink, way in ((near, far, "passes_requests"), (far, near, "passes_answers")):
                    threading.Thread(target=self._pass, args=(source, sink, way), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket, way: str) -> None:
        with suppress(OSError), source, sink:
            while data := source.recv(65536):
                while not getattr(self, way) and self._open:
                    time.sleep(0.01)
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
