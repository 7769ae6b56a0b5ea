"""An HTTP server that speaks vLLM's token protocol: token ids in, token ids and logprobs out. It draws at random."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.trainers.tasks import STOP

Turn = tuple[list[int], list[float]]


class TokenServer:
    """Answers with a random word as a turn, or with what `says` gives; keeps what it said to each prompt."""

    def __init__(self, url: str, says: Callable[[random.Random], str] | None = None) -> None:
        self.url = url
        self.said: dict[tuple[int, ...], list[Turn]] = {}
        self._says = says or (lambda draw: "".join(draw.choices("abcdef", k=draw.randint(1, 5))))
        self._draw = random.Random(7)
        self._lock = threading.Lock()

    def turn(self, prompt: list[int]) -> Turn:
        """A turn for a prompt."""
        with self._lock:
            ids = [*self._says(self._draw).encode(), STOP]
            turn = ids, [-self._draw.random() for _ in ids]
            self.said.setdefault(tuple(prompt), []).append(turn)
        return turn


@contextmanager
def token_server(says: Callable[[random.Random], str] | None = None) -> Iterator[TokenServer]:
    """A server for as long as the block."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            ids, logprobs = server.turn(asked["prompt"])
            choice = {"index": 0, "token_ids": ids, "logprobs": {"token_logprobs": logprobs}, "finish_reason": "stop"}
            body = json.dumps({"choices": [choice]}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server = TokenServer(f"http://127.0.0.1:{http.server_port}", says)
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        thread.join()
        http.server_close()
