"""Tasks called directly, as the server calls them, and what a model says to them."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, cast

import pytest

from chatenv_client.models import Message
from chatenv_server.engine import TokenEngine
from chatenv_server.tasks.task import Answer, ModelTurn, Opening, Task, TaskEpisode
from chatenv_server.tokenizer_files.byte_tokenizer import ByteTokenizer
from tests.tasks.ways import WAYS, Player, playing

Play = Callable[..., AbstractContextManager[Player]]


@pytest.fixture(scope="session")
def engine() -> TokenEngine:
    """The embedded tokenizer's engine, probed once."""
    return TokenEngine.load(ByteTokenizer())


@pytest.fixture(params=WAYS)
def play(request: pytest.FixtureRequest, engine: TokenEngine) -> Play:
    """Opens a player with a task."""

    @contextmanager
    def play(task: Any, **settings: Any) -> Iterator[Player]:
        with playing(request.param, engine, task=task, **settings) as player:
            yield player

    return play


def settled(condition: Callable[[], Any]) -> Any:
    """What a condition comes to, once it is something; else what it is after a while."""
    until = time.monotonic() + 20
    while not (value := condition()) and time.monotonic() < until:
        time.sleep(0.01)
    return value


def turn(text: str = "", *calls: Any, **fields: Any) -> ModelTurn:
    """A turn of the model."""
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if calls:
        message["tool_calls"] = list(calls)
    return ModelTurn(cast("Message", message), text=text, **fields)


def call(name: str, arguments: Any = None, call_id: str | None = None) -> Any:
    """A call of a tool, as the engine reads it off a turn."""
    read = {"type": "function", "function": {"name": name, "arguments": {} if arguments is None else arguments}}
    return read if call_id is None else {"id": call_id, **read}


def opened(task: Task, **fields: Any) -> Opening | None:
    """How a task opens."""
    return cast("Opening | None", asyncio.run(_result(task.open(TaskEpisode(**fields)))))


def answered(task: Task, turn: ModelTurn) -> Answer:
    """What a task answers, in an event loop of its own."""
    return cast("Answer", asyncio.run(_result(task.answer(turn))))


def contents(answer: Answer) -> list[Any]:
    """The texts of what it says."""
    return [message["content"] for message in answer.messages]


async def _result(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value
