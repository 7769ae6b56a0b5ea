"""A server of the OpenAI protocol on a port of this machine: it says what a test tells it to, or breaks."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tests.local_http import JsonHandler, LocalServer

Answer = Callable[[], bytes]
"""Gives the bytes of an HTTP answer; it may take its time."""


def http(
    body: str | bytes, status: str = "200 OK", *, content_type: str = "application/json", length: int = -1
) -> bytes:
    """An HTTP answer; one that announces more than comes is cut off."""
    sent = body.encode() if isinstance(body, str) else body
    announced = len(sent) if length < 0 else length
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {announced}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + sent


def completion(text: str | None, finish_reason: str = "stop") -> bytes:
    """An answer with a completion."""
    choice = {"index": 0, "finish_reason": finish_reason, "message": {"role": "assistant", "content": text}}
    return http(json.dumps({"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}))


def failed(status: str) -> bytes:
    """An answer with an error, as OpenAI gives it."""
    return http(json.dumps({"error": {"message": "it\ndid not work", "type": "error"}}), status)


def saying(text: str | None, finish_reason: str = "stop", *, after_s: float = 0.0) -> Answer:
    """Say a text, after some seconds."""

    def answer() -> bytes:
        time.sleep(after_s)
        return completion(text, finish_reason)

    return answer


class OpenAIServer:
    """The server. It gives its `answers` in order, the last one again and again, and notes what it is `asked`."""

    def __init__(self) -> None:
        self.answers: list[Answer] = [saying("Hello!")]
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.most_at_once = 0
        self._at_once = 0
        self._lock = threading.Lock()
        server = self

        class Handler(JsonHandler):
            def post(self, asked: Any) -> None:
                self.wfile.write(server.answer(self.path, asked, self.headers["Authorization"]))
                self.close_connection = True

        self._http = LocalServer(Handler)
        self.url = f"{self._http.url}/v1"

    def answer(self, path: str, asked: dict[str, Any], key: str | None) -> bytes:
        """The answer to a request."""
        assert path == "/v1/chat/completions"
        with self._lock:
            self.asked.append(asked)
            self.keys.append(key)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        try:
            return answer()
        finally:
            with self._lock:
                self._at_once -= 1

    @contextmanager
    def running(self) -> Iterator[OpenAIServer]:
        """Serve."""
        with self._http.running():
            yield self
