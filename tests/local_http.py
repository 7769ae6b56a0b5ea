"""HTTP servers on a port of this machine, for tests that stand something in for an engine."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class JsonHandler(BaseHTTPRequestHandler):
    """Reads and answers JSON, and logs nothing. Subclasses define `post`."""

    def do_POST(self) -> None:
        """Read, and leave the answer to `post`."""
        self.post(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def post(self, asked: Any) -> None:
        """Answer what was asked."""
        raise NotImplementedError

    def send_json(self, answer: Any, status: int = 200) -> None:
        """Answer."""
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


class LocalServer(ThreadingHTTPServer):
    """Serves on any port that is free."""

    request_queue_size = 256  # callers that come while there is no room would wait a second

    def __init__(self, handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server_port}"

    @contextmanager
    def running(self) -> Iterator[None]:
        """Serve for as long as the block."""
        thread = threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            self.shutdown()
            self.server_close()
            thread.join()
