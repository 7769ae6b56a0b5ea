"""Ready-made tasks as trainers meet them, in every way to play."""

from __future__ import annotations

import asyncio
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from chatenv_client import FailureKind, TaskError, Verdict
from chatenv_server import Answer, ChatEnvironment, ModelTurn, Task, ToolTask, ToolUnavailableError, from_reward
from chatenv_server.engine import TokenEngine
from tests.tasks.conftest import Play
from tests.tasks.ways import said

QUESTION = {"role": "user", "content": "What is 2 + 3?"}


def calling(name: str, arguments: str = "{}") -> Any:
    """A turn with a call, as the embedded template writes it."""
    return said(f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>')


def prompt_of(shown: Any) -> bytes:
    """What the model reads, of the embedded tokenizer."""
    return bytes(token for token in shown.tokens if token < 256)


def add(a: int, b: int) -> int:
    """Add two numbers.

    Args:
        a: The first number.
        b: The second number.
    """
    return a + b


class Sums(ToolTask):
    """The model adds with a tool."""

    tools = (add,)

    def score(self, turn: ModelTurn) -> dict[str, float]:
        """Be right."""
        return {"right": float("5" in turn.text), "used the tool": float(self.rounds > 0)}


def right(text: str, row: Any) -> dict[str, float]:
    return {"right": float(str(row["sum"]) in text)}


def test_a_function_is_an_environment(play: Play) -> None:
    rows = [{"prompt": "What is 2 + 3?", "sum": 5}, {"prompt": "What is 3 + 3?", "sum": 6}]
    with play(from_reward(right), rows=rows) as player:
        assert player.reset(row=1).messages == [{"role": "user", "content": "What is 3 + 3?"}]
        ended = player.step(said("It is 6."))
        assert (ended.reward, ended.rewards, ended.terminated) == (1.0, {"right": 1.0}, True)


def test_a_tool_runs_within_the_step_that_calls_it(play: Play) -> None:
    with play(Sums) as player:
        assert b'"name": "add"' in prompt_of(player.reset(messages=[QUESTION]))
        answered = player.step(calling("add", '{"a": 2, "b": 3}'))
        call, result = answered.messages[-2:]
        assert result == {"role": "tool", "content": "5", "tool_call_id": call["tool_calls"][0]["id"], "name": "add"}
        assert (answered.reward, answered.terminated, answered.step_count) == (None, False, 1)
        ended = player.step(said("It is 5."))
        assert (ended.reward, ended.rewards, ended.terminated) == (2.0, {"right": 1.0, "used the tool": 1.0}, True)
        assert player.audit().verdict is Verdict.EXACT
        assert player.trajectory().turns[-1].rewards == {"right": 1.0, "used the tool": 1.0}


def test_what_goes_wrong_in_a_tool_is_a_message_and_the_model_tries_again(play: Play) -> None:
    with play(Sums) as player:
        player.reset(messages=[QUESTION])
        for turn, said_of_it in (
            (calling("add", '{"a": 2}'), "add was not called: the argument 'b' is missing."),
            (calling("sub"), "There is no tool 'sub'. The tools are: add."),
            (calling("add", '{"a": 2, "b": 3}'), "5"),
        ):
            assert player.step(turn).messages[-1]["content"] == said_of_it


def test_a_tool_that_cannot_work_now_takes_the_step_back(play: Play) -> None:
    up = threading.Event()

    def fetch() -> str:
        """Fetch something."""
        if not up.is_set():
            raise ToolUnavailableError("the network is down")
        return "something"

    class Fetching(ToolTask):
        tools = (fetch,)
        max_rounds = 1

    with play(Fetching) as player:
        player.reset(messages=[QUESTION])
        for _ in range(2):
            with pytest.raises(TaskError):
                player.step(calling("fetch"))
            state = player.state()
            assert (state.step_count, len(state.history_messages)) == (0, 1)
        up.set()
        assert player.step(calling("fetch")).messages[-1]["content"] == "something"
        assert player.step(calling("fetch")).truncated


def test_rounds_go_with_a_fork_and_with_a_snapshot(engine: TokenEngine) -> None:
    class Once(Sums):
        max_rounds = 1

    env, other = ChatEnvironment(engine, task=Once), ChatEnvironment(engine, task=Once)
    env.reset(messages=[QUESTION])
    env.step(calling("add", '{"a": 2, "b": 3}'))
    other.restore(env.snapshot())
    for each in (env.fork(), other, env):
        assert each.step(calling("add", '{"a": 2, "b": 3}')).truncated


def plain(error: BaseException) -> type[Task]:
    class Plain(Task):
        def answer(self, turn: ModelTurn) -> Answer:
            """Fail, or not."""
            if "fail" in turn.text:
                raise error
            return Answer(reward=1.0)

    return Plain


def asynchronous(error: BaseException) -> type[Task]:
    class Async(Task):
        async def answer(self, turn: ModelTurn) -> Any:
            """Fail, or not."""
            await asyncio.sleep(0)
            return plain(error)().answer(turn)

    return Async


@pytest.mark.parametrize("error", [SystemExit(1), StopIteration(1), asyncio.CancelledError(), ValueError("no")])
@pytest.mark.parametrize("kind", [plain, asynchronous])
def test_nothing_that_a_task_raises_ends_the_process(play: Play, error: BaseException, kind: Any) -> None:
    with play(kind(error)) as player:
        player.reset(messages=[QUESTION])
        with pytest.raises(TaskError):
            player.step(said("fail"))
        assert player.step(said("fine")).reward == 1.0


def test_tools_of_an_mcp_server_are_played_like_any_other(play: Play) -> None:
    pytest.importorskip("mcp", reason="the extra `mcp` is not installed")
    from chatenv_server import McpTask

    class Mcp(McpTask):
        server = (sys.executable, str(Path(__file__).with_name("mcp_server.py")))
        reconnects = False

    with play(Mcp) as player:
        assert b'"name": "add"' in prompt_of(player.reset(messages=[QUESTION]))
        assert player.step(calling("add", '{"a": 2, "b": 3}')).messages[-1]["content"] == "5"
        assert player.step(calling("fail")).messages[-1]["content"] == "Error executing tool fail"
        assert player.audit().verdict is Verdict.EXACT
        ended = player.step(calling("die"))
        assert ended.reward is None
        assert ended.failure.kind is FailureKind.TOOL


def test_a_user_who_is_played_by_a_model_talks_with_the_one_that_is_trained(play: Play) -> None:
    pytest.importorskip("openai", reason="the extra `endpoint` is not installed")
    from chatenv_server import Endpoint, SimulatedUser
    from tests.tasks.openai_server import OpenAIServer, saying

    with OpenAIServer().running() as server:
        server.answers = [saying("A train, please."), saying("To Bern."), saying("Thanks! ###STOP###")]

        class Traveller(SimulatedUser):
            endpoint = Endpoint("m", server.url)
            persona = "You want a train to Bern."

            def score(self, turn: ModelTurn) -> dict[str, float]:
                """Be booked."""
                return {"booked": float("booked" in turn.text)}

        with play(Traveller) as player:
            assert player.reset().messages == [{"role": "user", "content": "A train, please."}]
            assert player.step(said("Where to?")).messages[-1] == {"role": "user", "content": "To Bern."}
            ended = player.step(said("It is booked."))
            assert (ended.rewards, ended.terminated) == ({"booked": 1.0}, True)
            assert ended.metadata["simulated_user"]["reply"] == "Thanks! ###STOP###"
            assert player.audit().verdict is Verdict.EXACT
