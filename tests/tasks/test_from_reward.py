"""Tasks made of a function."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any

import pytest

from chatenv_client import TaskError
from chatenv_server.engine import TokenEngine
from chatenv_server.tasks.from_reward import from_reward
from chatenv_server.tasks.task import Task
from tests.tasks.conftest import answered, opened, turn
from tests.tasks.ways import WAYS, playing, said


def length(text: str, row: Mapping[str, Any]) -> float:  # noqa: ARG001
    """How long it is."""
    return float(len(text))


def parts(text: str, row: Mapping[str, Any]) -> dict[str, float]:
    return {"right": float(row["solution"] in text), "short": 0.5}


async def later(text: str, row: Mapping[str, Any]) -> float:
    return length(text, row)


class Callable:
    async def __call__(self, text: str, row: Mapping[str, Any]) -> float:
        return length(text, row)


@pytest.mark.parametrize("function", [length, later, Callable()])
def test_a_turn_gets_what_the_function_returns_and_the_episode_has_terminated(function: Any) -> None:
    answer = answered(from_reward(function)(), turn("four"))
    assert (answer.reward, answer.terminated, answer.truncated, list(answer.messages)) == (4.0, True, False, [])


def test_components_stay_apart() -> None:
    answer = answered(from_reward(parts)(), turn("It is 5.", row={"solution": "5"}))
    assert (answer.rewards, answer.reward) == ({"right": 1.0, "short": 0.5}, None)


def test_without_a_row_the_function_reads_the_metadata() -> None:
    assert answered(from_reward(parts)(), turn("5", metadata={"solution": "6"})).rewards == {"right": 0, "short": 0.5}


def test_a_function_reads_all_that_the_model_wrote() -> None:
    said = turn("<think>hm</think>5")
    said.message["content"] = "5"
    assert answered(from_reward(length)(), said).reward == len("<think>hm</think>5")


def test_a_plain_function_is_called_by_a_plain_method_and_so_in_a_thread() -> None:
    assert not inspect.iscoroutinefunction(from_reward(length).answer)
    assert inspect.iscoroutinefunction(from_reward(later).answer)


def test_the_class_is_called_as_the_function_is() -> None:
    made = from_reward(length)
    assert issubclass(made, Task)
    assert (made.__name__, made.__module__, made.__doc__) == ("length", __name__, "How long it is.")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("score", [None, {}])
def test_a_function_that_returns_no_reward_fails_the_step_and_the_caller_is_told(
    engine: TokenEngine, way: str, score: Any
) -> None:
    def unsure(text: str, row: Mapping[str, Any]) -> Any:  # noqa: ARG001
        return score

    with playing(way, engine, task=from_reward(unsure)) as player:
        player.reset(messages=[USER])
        with pytest.raises(TaskError, match=re.escape(f"the reward function unsure returned {score!r}")) as caught:
            player.step(said("5"))
        assert caught.value.reason == "TASK_FAILED"
        assert player.state().step_count == 0


def test_what_a_function_raises_fails_the_step() -> None:
    with pytest.raises(KeyError, match="solution"):
        answered(from_reward(parts)(), turn("x"))


@pytest.mark.parametrize("given", ["length", None, lambda _: 0.0, lambda: 0.0, lambda *_, also: also])
def test_what_cannot_be_called_with_a_text_and_a_row_is_refused_at_once(given: Any) -> None:
    with pytest.raises(TypeError, match="a text and a row"):
        from_reward(given)


USER = {"role": "user", "content": "2 + 3?"}


@pytest.mark.parametrize(
    ("row", "messages", "expected"),
    [
        ({"prompt": "2 + 3?"}, [], [USER]),
        (
            {"prompt": [{"role": "system", "content": "Brief."}, USER]},
            [],
            [{"role": "system", "content": "Brief."}, USER],
        ),
        ({"prompt": "2 + 3?"}, [{"role": "user", "content": "4?"}], None),
        ({"question": "2 + 3?"}, [], None),
        (None, [], None),
    ],
)
def test_it_opens_with_the_callers_messages_or_the_rows_prompt(row: Any, messages: Any, expected: Any) -> None:
    opening = opened(from_reward(length)(), row=row, messages=messages)
    assert opening is not None
    assert opening.messages == expected


@pytest.mark.parametrize("prompt", [5, {"role": "user"}, ["2 + 3?"]])
def test_a_prompt_that_is_no_prompt_is_refused(prompt: Any) -> None:
    with pytest.raises(TypeError, match="a text or a list of messages"):
        opened(from_reward(length)(), row={"prompt": prompt})
