"""The peer: a chat environment on OpenEnv's HTTP/WebSocket + JSON server, which returns the whole history every step.

Written as OpenEnv's own chat environment is: tokens are decoded to a message, a message is rendered and encoded alone,
and the observation is all messages and all tokens. In its favour, the template is compiled once. Run as
`python -m benchmarks.peer_server TOKENIZER`; says its port in its first line.
"""
# ruff: noqa: ARG002, RUF012 - the names and the defaults are OpenEnv's and pydantic's

from __future__ import annotations

import socket
import sys
from typing import Any

import uvicorn
from openenv.core.env_server import Action, Environment, Observation, State, create_app

from benchmarks.work import Subject
from chatenv_server.engine.template import ChatTemplate

MAX_SESSIONS = 1024


class ChatAction(Action):  # type: ignore[misc]
    """Sampled tokens, or a message."""

    tokens: list[int] = []
    message: dict[str, str] | None = None


class ChatObservation(Observation):  # type: ignore[misc]
    """The whole conversation."""

    messages: list[dict[str, str]] = []
    tokens: list[int] = []


class Chat(Environment[ChatAction, ChatObservation, State]):  # type: ignore[misc]
    """One conversation."""

    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self, tokenizer: Any, template: ChatTemplate) -> None:
        super().__init__()
        self._backend = tokenizer.backend_tokenizer
        self._variables = {**tokenizer.special_tokens_map, "tools": None}
        self._template = template
        self._messages: list[dict[str, str]] = []
        self._tokens: list[int] = []
        self._state = State()

    def reset(self, seed: int | None = None, episode_id: str | None = None, **_: Any) -> ChatObservation:
        """Begin anew."""
        self._messages, self._tokens = [], []
        self._state = State(episode_id=episode_id, step_count=0)
        return ChatObservation()

    def step(self, action: ChatAction, timeout_s: float | None = None, **_: Any) -> ChatObservation:
        """Append one turn."""
        if action.message is None:
            text = self._backend.decode(action.tokens, skip_special_tokens=False)
            self._messages.append({"role": "assistant", "content": text})
            self._tokens += action.tokens
        else:
            self._messages.append(action.message)
            text = self._template.render([action.message], self._variables, add_generation_prompt=True)
            self._tokens += self._backend.encode(text, add_special_tokens=False).ids
        self._state.step_count += 1
        return ChatObservation(messages=self._messages, tokens=self._tokens)

    @property
    def state(self) -> State:
        """Counts of the episode."""
        return self._state


def _serve(tokenizer: Any) -> None:
    template = ChatTemplate(tokenizer.chat_template)
    app = create_app(lambda: Chat(tokenizer, template), ChatAction, ChatObservation, max_concurrent_envs=MAX_SESSIONS)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        config = uvicorn.Config(app, log_level="warning", ws_ping_interval=None)
        uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    _serve(Subject("peer", sys.argv[1]).tokenizer)
