"""Tasks whose model calls tools."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatenv_client import Failure, FailureKind
from chatenv_server.tasks.task import Answer, ModelTurn, Opening, TaskEpisode
from chatenv_server.tasks.tool import Tool, ToolUnavailableError
from chatenv_server.tasks.tool_task import ToolTask
from tests.tasks.conftest import answered, call, contents, opened, turn


def divide(a: float, b: float) -> float:
    """Divide a number.

    Args:
        a: The number.
        b: By this.
    """
    return a / b


async def nap(seconds: float) -> str:
    """Sleep.

    Args:
        seconds: How long.
    """
    await asyncio.sleep(seconds)
    return f"slept {seconds:g} s"


class Sums(ToolTask):
    """Has one tool of each kind."""

    tools = (divide, nap)

    def score(self, turn: ModelTurn) -> dict[str, float]:
        """Be right with a five."""
        return {"right": float("5" in turn.text)}


def told(function: Any, **limits: Any) -> str:
    """What the model reads of a tool that is this function."""
    schema = {"type": "function", "function": {"name": "f", "description": "Do."}}
    task = ToolTask([Tool(schema, function)])
    for name, value in limits.items():
        setattr(task, name, value)
    (text,) = contents(answered(task, turn("", call("f"))))
    assert isinstance(text, str)
    text.encode()
    return text


# -- calls ---------------------------------------------------------------------------------------------------


def test_results_answer_the_calls_in_order_with_their_ids_and_names() -> None:
    calls = [call("nap", {"seconds": 0.02}, "c1"), call("divide", {"a": 1, "b": 2}, "c2"), call("nap", {"seconds": 0})]
    assert list(answered(Sums(), turn("Let me see.", *calls)).messages) == [
        {"role": "tool", "content": "slept 0.02 s", "tool_call_id": "c1", "name": "nap"},
        {"role": "tool", "content": "0.5", "tool_call_id": "c2", "name": "divide"},
        {"role": "tool", "content": "slept 0 s", "name": "nap"},
    ]


def test_a_round_of_calls_earns_nothing_and_goes_on() -> None:
    answer = answered(Sums(), turn("5", call("nap", {"seconds": 0})))
    assert (answer.reward, answer.rewards, answer.terminated, answer.truncated) == (None, None, False, False)


def test_a_turn_without_calls_is_scored_and_ends() -> None:
    answer = answered(Sums(), turn("5"))
    assert (answer.rewards, answer.terminated, list(answer.messages)) == ({"right": 1.0}, True, [])


def test_without_a_score_there_is_no_reward() -> None:
    answer = answered(ToolTask(), turn("5"))
    assert (answer.reward, answer.rewards, answer.terminated) == (None, None, True)


def test_async_tools_run_at_once() -> None:
    began = time.monotonic()
    answer = answered(Sums(), turn("", *[call("nap", {"seconds": 0.2})] * 10))
    assert contents(answer) == ["slept 0.2 s"] * 10
    assert time.monotonic() - began < 1


def test_plain_tools_run_in_the_order_of_the_calls_and_hold_nobody_up() -> None:
    seen: list[tuple[int, int]] = []

    def note(arguments: dict[str, int]) -> None:
        time.sleep(0.02 / (1 + arguments["n"]))  # the first is the slowest
        seen.append((arguments["n"], threading.get_ident()))

    task = ToolTask([Tool({"type": "function", "function": {"name": "note"}}, note)])
    answered(task, turn("", *(call("note", {"n": n}) for n in range(4))))
    assert [n for n, _ in seen] == [0, 1, 2, 3]
    assert threading.get_ident() not in {thread for _, thread in seen}


def test_calls_with_arguments_as_text_are_read() -> None:
    assert contents(answered(Sums(), turn("", call("divide", '{"a": 1, "b": 4}')))) == ["0.25"]


# -- what a model does wrong ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("add", {}, "There is no tool 'add'. The tools are: divide, nap."),
        ("divide", {"a": 1}, "divide was not called: the argument 'b' is missing."),
        ("divide", {"a": 1, "b": 2, "c": 3}, "divide was not called: there is no argument 'c', only 'a', 'b'."),
        ("divide", {"a": "1", "b": 2}, "divide was not called: 'a' has to be of type number."),
        ("divide", {"a": True, "b": 2}, "divide was not called: 'a' has to be of type number."),
        ("divide", "{", "divide was not called: its arguments are not JSON."),
        ("divide", "[" * 100_000, "divide was not called: its arguments are not JSON."),
        ("divide", "[1, 2]", "divide was not called: its arguments are not a JSON object."),
    ],
)
def test_what_went_wrong_is_told_in_one_sentence(name: str, arguments: Any, said: str) -> None:
    answer = answered(Sums(), turn("", call(name, arguments)))
    assert contents(answer) == [said]
    assert (answer.reward, answer.terminated, answer.truncated) == (None, False, False)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
names = st.sampled_from(["whole", "number", "text", "flag", "numbers", "either", "table", "pair", "choice"])


def demanding(
    whole: int = 0,
    number: float = 0,
    text: str = "",
    flag: bool = False,
    numbers: list[int] = [],  # noqa: B006
    either: int | list[str] | None = None,
    table: dict[str, int] = {},  # noqa: B006
    pair: tuple[int, str] = (0, ""),
) -> str:
    """Take arguments of many types.

    Args:
        whole: A whole number.
        number: A number.
        text: A text.
        flag: A flag.
        numbers: Whole numbers.
        either: A whole number or texts.
        table: Whole numbers by name.
        pair: A whole number and a text.
    """
    assert type(whole) is int
    assert type(number) in (int, float)
    assert type(text) is str
    assert type(flag) is bool
    assert all(type(each) is int for each in numbers)
    assert either is None or type(either) is int or all(type(each) is str for each in either)  # type: ignore[union-attr]
    assert all(type(each) is int for each in table.values())
    assert [type(each) for each in pair] == [int, str]
    return "called"


class Demanding(ToolTask):
    """Its tool asserts that what it gets is what it asked for."""

    tools = (demanding,)


@given(st.dictionaries(names, values, max_size=3) | values)
def test_a_function_gets_what_its_hints_say_or_is_not_called(arguments: Any) -> None:
    (text,) = contents(answered(Demanding(), turn("", call("demanding", arguments))))
    assert text == "called" or text.startswith("demanding was not called: ")
    assert "\n" not in text


def test_whole_numbers_are_ints_however_they_are_written() -> None:
    arguments = {"whole": 3.0, "numbers": [1.0, 2], "either": 2.0, "table": {"a": 4.0}, "pair": [1.0, "b"]}
    assert contents(answered(Demanding(), turn("", call("demanding", arguments)))) == ["called"]


# -- what tools do wrong -------------------------------------------------------------------------------------

LOOP: list[Any] = []
LOOP.append(LOOP)
DEEP: Any = None
for _ in range(100_000):
    DEEP = [DEEP]


class Unwritable(Exception):  # noqa: N818
    def __str__(self) -> str:
        raise SystemExit


def raising(error: BaseException) -> Any:
    def function(_: Any) -> Any:
        raise error

    return function


def returning(value: Any) -> Any:
    return lambda _: value


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("text", "text"),
        ("", ""),
        (None, "null"),
        ([1, "é", None, True], '[1, "é", null, true]'),
        ({"a": {"b": 1.5}}, '{"a": {"b": 1.5}}'),
        ("half \ud800 of a pair", "half ? of a pair"),
        (["\ud800"], '["?"]'),
        ({1, 2}, "f failed: it returned a set that cannot be written as JSON."),
        (b"bytes", "f failed: it returned a bytes that cannot be written as JSON."),
        (float("nan"), "f failed: it returned a float that cannot be written as JSON."),
        (LOOP, "f failed: it returned a list that cannot be written as JSON."),
        (DEEP, "f failed: it returned a list that is nested too deeply for JSON."),
        (10**5000, "f failed: it returned a int that cannot be written as JSON."),
        (object(), "f failed: it returned a object that cannot be written as JSON."),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_result_is_told_as_text_or_json_or_not_at_all(value: Any, said: str) -> None:
    assert told(returning(value)) == said


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("no\nsuch\n  thing"), "f failed: ValueError: no such thing"),
        (KeyError(), "f failed: KeyError"),
        (StopIteration(3), "f failed: RuntimeError: coroutine raised StopIteration"),
        (SystemExit(3), "f failed: RuntimeError: a function raised SystemExit"),
        (KeyboardInterrupt(), "f failed: RuntimeError: a function raised KeyboardInterrupt"),
        (GeneratorExit(), "f failed: GeneratorExit"),
        (asyncio.CancelledError(), "f was cancelled."),
        (Unwritable(), "f failed: Unwritable: (an exception that fails when it is asked for its text)"),
        (ValueError("\udfff" * 10), "f failed: ValueError: " + "?" * 10),
    ],
    ids=lambda value: type(value).__name__,
)
def test_whatever_a_tool_raises_becomes_a_message(error: BaseException, said: str) -> None:
    assert told(raising(error)) == said


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(), StopIteration(), asyncio.CancelledError()])
def test_whatever_an_async_tool_raises_becomes_a_message(error: BaseException) -> None:
    async def function(_: Any) -> Any:
        await asyncio.sleep(0)
        raise error

    assert told(function).startswith("f ")


def test_a_tool_that_hangs_is_given_up_whatever_it_does() -> None:
    released = threading.Event()

    def plain(_: Any) -> None:
        released.wait(30)

    async def waiting(_: Any) -> None:
        await asyncio.sleep(30)

    async def stubborn(_: Any) -> None:
        for _ in range(3):
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.3)

    began = time.monotonic()
    for function in (plain, waiting, stubborn):
        assert told(function, call_timeout_s=0.05) == "f was stopped: it took longer than 0.05 s."
    released.set()
    assert time.monotonic() - began < 5


def test_a_tool_that_cannot_work_now_fails_the_step_and_stops_the_others() -> None:
    ended: list[str] = []

    async def down(_: Any) -> None:
        raise ToolUnavailableError("the sandbox is down")

    async def long(_: Any) -> None:
        try:
            await asyncio.sleep(30)
        finally:
            ended.append("stopped")

    def tool(name: str, function: Any) -> Tool:
        return Tool({"type": "function", "function": {"name": name}}, function)

    task = ToolTask([tool("down", down), tool("long", long)])
    with pytest.raises(ToolUnavailableError, match="the sandbox is down"):
        answered(task, turn("", call("long"), call("down")))
    assert ended == ["stopped"]


# -- limits --------------------------------------------------------------------------------------------------


def test_a_result_of_200_kb_is_cut_and_says_how_much() -> None:
    text = told(returning("é" * 200_000), max_result_characters=1000)
    assert text == "é" * 1000 + "\n[199,000 of 200,000 characters cut off]"
    assert told(returning("é" * 200_000), max_result_characters=200_000) == "é" * 200_000


def test_calls_beyond_the_limit_are_refused_each_by_a_message() -> None:
    task = Sums()
    task.max_calls = 2
    answer = answered(task, turn("", *(call("divide", {"a": n, "b": 1}, f"c{n}") for n in range(4))))
    refused = "This call was not run: a turn may have 2 calls."
    assert contents(answer) == ["0.0", "1.0", refused, refused]
    assert [message["tool_call_id"] for message in answer.messages] == ["c0", "c1", "c2", "c3"]


def test_after_the_last_round_a_turn_is_scored_and_the_episode_truncated() -> None:
    task = Sums()
    task.max_rounds = 2
    rounds = [answered(task, turn("5", call("nap", {"seconds": 0}))) for _ in range(3)]
    assert [len(one.messages) for one in rounds] == [1, 1, 0]
    assert (rounds[2].rewards, rounds[2].truncated, rounds[2].terminated) == ({"right": 1.0}, True, False)


def test_rounds_survive_a_reload() -> None:
    before = Sums()
    answered(before, turn("", call("nap", {"seconds": 0})))
    after = Sums()
    after.max_rounds = 1
    vars(after).update(vars(before))
    assert answered(after, turn("", call("nap", {"seconds": 0}))).truncated


# -- what a subclass defines ---------------------------------------------------------------------------------


def test_begin_opens_and_the_tools_come_along() -> None:
    class Own(Sums):
        async def begin(self, episode: TaskEpisode) -> Opening:
            """Ask for the seed."""
            return Opening(messages=[{"role": "user", "content": f"{episode.seed}?"}], metadata={"a": 1})

    opening = opened(Own(), seed=7)
    assert opening is not None
    assert opening.messages == [{"role": "user", "content": "7?"}]
    assert opening.metadata == {"a": 1}
    assert [tool["function"]["name"] for tool in opening.tools or ()] == ["divide", "nap"]


def test_a_row_has_the_prompt_where_nothing_else_has() -> None:
    opening = opened(Sums(), row={"prompt": "2 + 3?"})
    assert opening is not None
    assert opening.messages == [{"role": "user", "content": "2 + 3?"}]


@pytest.mark.parametrize("truncated", [False, True])
def test_a_score_may_be_an_answer_of_its_own(truncated: bool) -> None:
    class Asking(ToolTask):
        tools = (nap,)

        async def score(self, turn: ModelTurn) -> Any:
            """Ask again."""
            return Answer(messages=[{"role": "user", "content": f"{turn.text}?"}], reward=0.5)

    task = Asking()
    task.max_rounds = 0 if truncated else 1
    answer = answered(task, turn("Sure", *([call("nap", {"seconds": 0})] * truncated)))
    assert contents(answer) == ["Sure?"]
    assert (answer.reward, answer.terminated, answer.truncated) == (0.5, False, truncated)


def test_a_score_that_raises_fails_the_step_and_nothing_worse() -> None:
    class Failing(Sums):
        def score(self, turn: ModelTurn) -> Any:  # noqa: ARG002
            """Fail."""
            raise SystemExit(1)

    with pytest.raises(RuntimeError, match="SystemExit"):
        answered(Failing(), turn("5"))


def test_a_subclass_need_not_call_the_constructor() -> None:
    class Careless(Sums):
        def __init__(self, level: int) -> None:
            self.level = level

    assert contents(answered(Careless(1), turn("", call("divide", {"a": 1, "b": 1})))) == ["1.0"]


def test_a_score_may_be_a_failure_also_after_the_last_round() -> None:
    class Broken(ToolTask):
        tools = (nap,)
        max_rounds = 0

        def score(self, turn: ModelTurn) -> Answer:  # noqa: ARG002
            return Answer(failure=Failure(FailureKind.TOOL, "gone"))

    answer = answered(Broken(), turn("", call("nap", {"seconds": 0})))
    assert answer.failure == Failure(FailureKind.TOOL, "gone")
    assert not answer.truncated
