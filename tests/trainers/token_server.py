"""An HTTP server that speaks vLLM's token protocol: token ids in, token ids and logprobs out. It draws at random."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tests.local_http import JsonHandler, LocalServer
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

    class Handler(JsonHandler):
        protocol_version = "HTTP/1.1"

        def post(self, asked: Any) -> None:
            ids, logprobs = server.turn(asked["prompt"])
            choice = {"index": 0, "token_ids": ids, "logprobs": {"token_logprobs": logprobs}, "finish_reason": "stop"}
            self.send_json({"choices": [choice]})

    http = LocalServer(Handler)
    server = TokenServer(http.url, says)
    with http.running():
        yield server
