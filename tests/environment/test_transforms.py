"""What can be found out about a transform before it is called."""

from __future__ import annotations

import asyncio
import functools
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from chatenv_client import ChatAction, ChatEnv, ChatObservation
from chatenv_client.errors import TransformError
from chatenv_server import ChatEnvironment, Settings, Transform, compose, serve
from chatenv_server.environment.transforms import load_transform
from chatenv_server.tokenizer_files.byte_tokenizer import ByteTokenizer


def plain(observation: ChatObservation) -> ChatObservation:
    return observation


def with_more(observation: ChatObservation, *, weight: float = 1.0) -> ChatObservation:  # noqa: ARG001
    return observation


class Keeping:
    def __init__(self) -> None:
        self.seen = 0

    def __call__(self, observation: ChatObservation) -> ChatObservation:
        self.seen += 1
        return observation


async def asynchronous(observation: ChatObservation) -> ChatObservation:
    return observation


class Asynchronous:
    async def __call__(self, observation: ChatObservation) -> ChatObservation:
        return observation


def generating(observation: ChatObservation) -> Iterator[ChatObservation]:
    yield observation


async def generating_too(observation: ChatObservation) -> AsyncIterator[ChatObservation]:
    yield observation


def without_arguments() -> None: ...


def of_two(observation: ChatObservation, message: str) -> ChatObservation:  # noqa: ARG001
    return observation


def by_name(*, observation: ChatObservation) -> ChatObservation:
    return observation


class Telling(Keeping):
    def state_dict(self) -> dict[str, int]:
        return {"seen": self.seen}


class Taking(Keeping):
    def load_state_dict(self, state: dict[str, int]) -> None:
        self.seen = state["seen"]


class NotCallable: ...


class Unmakeable:
    def __init__(self) -> None:
        raise FileNotFoundError("no answers.json")


class Exiting:
    def __init__(self) -> None:
        raise SystemExit(3)


class NeedsArguments:
    def __init__(self, path: str) -> None: ...

    def __call__(self, observation: ChatObservation) -> ChatObservation:
        return observation


class LengthRewardTransform(Transform):  # type: ignore[misc] # mypy knows no class that is a function
    """Written as for other chat environments: it reads the last message, whoever said it."""

    def __call__(self, observation: ChatObservation) -> ChatObservation:
        observation.reward = float(len(str(observation.messages[-1]["content"])))
        return observation


WRONG: list[Any] = [
    generating,
    generating_too,
    without_arguments,
    of_two,
    by_name,
    Telling(),
    Taking(),
    NotCallable(),
    3,
    None,
]


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module by the name of `a_task`."""
    made = ModuleType("a_task")
    monkeypatch.setitem(sys.modules, "a_task", made)
    return made


RIGHT: list[Any] = [
    plain,
    with_more,
    Keeping,
    Keeping(),
    functools.partial(with_more, weight=2.0),
    asynchronous,
    Asynchronous(),
    functools.partial(asynchronous),
]


@pytest.mark.parametrize("right", RIGHT)
def test_what_takes_one_observation_is_a_transform(module: Any, right: Any) -> None:
    module.it = right
    load_transform("a_task:it")
    if right is not Keeping:
        ChatEnvironment(ByteTokenizer(), transform=right)
        compose(plain, right)


@pytest.mark.parametrize("wrong", WRONG)
def test_what_cannot_be_a_transform_is_refused_before_it_is_called(module: Any, wrong: Any) -> None:
    module.it = wrong
    with pytest.raises(ValueError, match="a_task:it"):
        load_transform("a_task:it")
    if wrong is not None:
        with pytest.raises(TypeError, match="transform"):
            ChatEnvironment(ByteTokenizer(), transform=wrong)
    with pytest.raises(TypeError, match="transform"):
        compose(plain, wrong)


@pytest.mark.parametrize(
    ("wrong", "told"), [(Unmakeable, "no answers.json"), (NeedsArguments, "path"), (Exiting, "SystemExit: 3")]
)
def test_a_class_that_cannot_be_made_is_refused_with_what_it_raised(module: Any, wrong: Any, told: str) -> None:
    module.it = wrong
    with pytest.raises(ValueError, match=rf"{wrong.__name__}\(\) of transform 'a_task:it' raised .*{told}"):
        load_transform("a_task:it")


@pytest.mark.parametrize(
    ("code", "told"),
    [("1 / 0", "ZeroDivisionError"), ("exit(3)", "SystemExit: 3"), ("import nothing_at_all", "nothing_")],
)
@pytest.mark.parametrize("name", ["failing_task:it", "by-its-entry-point"])
def test_a_module_that_fails_is_refused_with_what_it_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, told: str, name: str
) -> None:
    (tmp_path / "failing_task.py").write_text(code)
    installed = tmp_path / "failing_task-1.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: failing-task\nVersion: 1\n")
    (installed / "entry_points.txt").write_text("[chatenv.transforms]\nby-its-entry-point = failing_task:it\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "failing_task", raising=False)
    with pytest.raises(ValueError, match=rf"transform '{name}' cannot be loaded: .*{told}"):
        load_transform(name)


def test_a_class_that_scores_the_length_of_the_last_message_works_as_it_is(module: Any) -> None:
    env = ChatEnvironment(ByteTokenizer(), transform=LengthRewardTransform())
    env.reset(messages=[{"role": "user", "content": "Hi"}])
    assert env.step(ChatAction(tokens=[*b"Hello you.", 257])).reward == 10.0
    module.it = LengthRewardTransform
    with serve(Settings(listen=("127.0.0.1:0",), transform="a_task:it")) as server, ChatEnv(server.target) as client:
        client.reset(messages=[{"role": "user", "content": "Hi"}])
        assert client.step(ChatAction(tokens=[*b"Hello you.", 257])).reward == 10.0
        assert client.step({"role": "user", "content": "Bye"}).reward == 3.0
        assert [turn.reward for turn in client.trajectory().turns] == [None, 10.0, 3.0]


def test_a_message_that_a_transform_adds_is_refused_with_a_word_on_tasks() -> None:
    def speaks(observation: ChatObservation) -> ChatObservation:
        observation.messages.append({"role": "user", "content": "Go on."})
        return observation

    env = ChatEnvironment(ByteTokenizer(), transform=speaks)
    env.reset()
    with pytest.raises(TransformError, match="only a task may speak"):
        env.step({"role": "user", "content": "Hi"})
    assert env.step_count == 0


@pytest.mark.parametrize("transform", [asynchronous, Asynchronous(), compose(plain, asynchronous)])
def test_a_transform_may_be_async(transform: Any) -> None:
    async def rewards(observation: ChatObservation) -> ChatObservation:
        await asyncio.sleep(0)
        observation.reward = 0.5
        return observation

    env = ChatEnvironment(ByteTokenizer(), transform=compose(transform, rewards))
    env.reset()
    assert env.step({"role": "user", "content": "Hi"}).reward == 0.5
