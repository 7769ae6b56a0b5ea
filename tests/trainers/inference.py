"""Inference servers on a port of this machine that speak the token protocols of vLLM and SGLang, with a tiny model."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.local_http import JsonHandler, LocalServer
from tests.trainers.engines import Generated, TinyEngine


class InferenceServer:
    """Serves `/v1/completions` as vLLM does, and `/generate` as SGLang. It notes what it is `asked`.

    Args:
        thought: what each turn begins with.
        aborts_at: requests, from 0, of which half is answered, as when the engine is paused to get new weights.
    """

    def __init__(self, thought: str = "", aborts_at: tuple[int, ...] = ()) -> None:
        self.tiny = TinyEngine(thought=thought)
        self.aborts_at = aborts_at
        self.weight_version = "7"
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self._lock = threading.Lock()
        server = self

        class Handler(JsonHandler):
            def post(self, asked: Any) -> None:
                with server._lock:
                    server.headers.append(dict(self.headers))
                    answer = {"/v1/completions": server._vllm, "/generate": server._sglang}[self.path](asked)
                self.send_json(answer)

        self._http = LocalServer(Handler)
        self.host, self.port, self.url = "127.0.0.1", self._http.server_port, self._http.url

    def _generated(
        self, asked: dict[str, Any], ids: list[int], most: int, stop_ids: list[int]
    ) -> tuple[Generated, str]:
        """What is sampled, and why it stopped."""
        aborts = len(self.asked) in self.aborts_at
        self.asked.append(asked)
        made = self.tiny.generate(ids, most, stop_ids, half=aborts)
        return made, "abort" if aborts else "stop" if made.stopped else "length"

    def _vllm(self, asked: dict[str, Any]) -> dict[str, Any]:
        assert asked["return_token_ids"]
        assert asked["logprobs"] == 0
        made, why = self._generated(asked, asked["prompt"], asked["max_tokens"], asked["stop_token_ids"])
        choice = {
            "index": 0,
            "text": "never read",
            "logprobs": {"token_logprobs": made.logprobs, "tokens": ["never read"] * len(made.tokens)},
            "finish_reason": why,
            "stop_reason": made.tokens[-1] if made.stopped else None,
            "token_ids": made.tokens,
            "prompt_token_ids": asked["prompt"],
        }
        return {"id": "cmpl-1", "object": "text_completion", "model": asked["model"], "choices": [choice]}

    def _sglang(self, asked: dict[str, Any]) -> dict[str, Any]:
        assert asked["return_logprob"]
        params = asked["sampling_params"]
        made, why = self._generated(asked, asked["input_ids"], params["max_new_tokens"], params["stop_token_ids"])
        pairs = [[logprob, token, None] for logprob, token in zip(made.logprobs, made.tokens, strict=True)]
        meta = {
            "id": asked.get("rid", "1"),
            "finish_reason": {"type": why, **({"matched": made.tokens[-1]} if made.stopped else {})},
            "prompt_tokens": len(asked["input_ids"]),
            "completion_tokens": len(made.tokens),
            "cached_tokens": 0,
            "weight_version": self.weight_version,
            "output_token_logprobs": pairs,
        }
        return {"text": "never read", "output_ids": made.tokens, "meta_info": meta}

    @contextmanager
    def running(self) -> Iterator[InferenceServer]:
        """Serve."""
        with self._http.running():
            yield self
