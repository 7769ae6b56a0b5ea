"""verifiers 0.3: episodes of a chatenv server as a `MultiTurnEnv`, evaluated against an engine."""

from __future__ import annotations

import asyncio
import json
import math
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("chatenv_server", reason="the server extra is not installed", exc_type=ImportError)
pytest.importorskip("verifiers.legacy", reason="verifiers 0.3 is not installed")

import verifiers.legacy as vf

from chatenv_client import Failure, FailureKind
from chatenv_client.trainers.verifiers_v0 import ChatEnvMultiTurnEnv
from chatenv_server import Answer, ModelTurn, Opening, Settings, Task, TaskEpisode, ToolTask, serve
from tests.trainers.engine_server import EngineServer, Model, Refused, Said
from tests.trainers.tasks import Echo

WAYS = ("messages", "ids")
EXAMPLES = Path(__file__).resolve().parent.parent.parent / "examples" / "trainers"
PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "trainers" / "verifiers.md"


def evaluated(env: Any, model: Model, way: str = "messages", **options: Any) -> list[Any]:
    """Evaluates an environment with the model; gives what came out."""
    with EngineServer(model).running() as engine:
        client = vf.ClientConfig(api_key_var="NO_KEY", api_base_url=engine.url, max_retries=0)
        ids = {"logprobs": True, "extra_body": {"return_token_ids": True}} if way == "ids" else {}
        results = asyncio.run(env.evaluate(client, "m", sampling_args=ids, **options))
    return list(results["outputs"])


def hello(_: str) -> Said:
    return Said("hello")


@pytest.fixture
def serving() -> Iterator[Callable[[Any], str]]:
    """Serves a task until the test is over, or `stack` of the function is closed; gives the address."""
    with ExitStack() as stack:

        def start(task: Any) -> str:
            return stack.enter_context(serve(Settings(listen=("127.0.0.1:0",)), task=task)).target

        start.stack = stack  # type: ignore[attr-defined]
        yield start


@pytest.mark.parametrize("way", WAYS)
def test_an_episode_is_played_to_its_end_and_rewarded(address: str, way: str) -> None:
    (output,) = evaluated(ChatEnvMultiTurnEnv(address, seeds=1), hello, way, state_columns=["chatenv_exact"])
    assert output["error"] is None
    assert output["stop_condition"] == "has_final_env_response"
    said = [message["content"] for message in [*output["prompt"], *output["completion"]]]
    assert said == ["Seed 0.", "hello", "hello", "hello"]
    assert output["reward"] == 10.0
    assert output["metrics"]["length"] == 10.0
    assert output["metrics"]["chatenv_exact"] == float(way == "ids")


def test_many_rollouts_run_at_once(address: str) -> None:
    outputs = evaluated(ChatEnvMultiTurnEnv(address, seeds=4), hello, rollouts_per_example=4)
    assert [output["reward"] for output in outputs] == [10.0] * 16


def test_an_example_for_each_row_of_the_servers_data() -> None:
    class Rows(Task):
        def open(self, episode: TaskEpisode) -> Opening:
            assert episode.row is not None
            return Opening(messages=[{"role": "user", "content": episode.row["question"]}])

        def answer(self, _: ModelTurn) -> Answer:
            return Answer(rewards={"right": 1.0}, terminated=True)

    rows = [{"question": "one"}, {"question": "two"}]
    with serve(Settings(listen=("127.0.0.1:0",)), task=Rows, rows=rows) as server:
        outputs = evaluated(ChatEnvMultiTurnEnv(server.target), hello)
    assert [output["prompt"][0]["content"] for output in outputs] == ["one", "two"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("breaks_at", [-1, 0, 1])
def test_a_task_that_raises_is_an_error_and_no_reward(address: str, way: str, breaks_at: int) -> None:
    env = ChatEnvMultiTurnEnv(address, seeds=1, reset={"task_args": {"breaks_at": breaks_at}})
    (output,) = evaluated(env, hello, way)
    assert output["error"]["error"] == "InfraError"
    assert math.isnan(output["reward"])


def test_a_server_that_is_down_is_an_error_and_no_reward() -> None:
    (output,) = evaluated(ChatEnvMultiTurnEnv("127.0.0.1:1", seeds=1), hello)
    assert "see that a chatenv server runs at this address" in output["error"]["error_chain_repr"]
    assert math.isnan(output["reward"])


@pytest.mark.parametrize("way", WAYS)
def test_a_server_that_goes_down_in_the_middle_is_an_error_and_no_reward(serving: Any, way: str) -> None:
    env = ChatEnvMultiTurnEnv(serving(Echo), seeds=1, reset={"task_args": {"turns": 3}})

    def stopping(prompt: str) -> Said:
        if prompt == "hello":
            serving.stack.close()
        return Said("hello")

    (output,) = evaluated(env, stopping, way)
    assert output["error"] is not None
    assert math.isnan(output["reward"])


def test_an_episode_that_ends_in_a_failure_is_an_error_and_no_reward(serving: Any) -> None:
    class Failing(Echo):
        def answer(self, _: ModelTurn) -> Answer:
            return Answer(failure=Failure(FailureKind.TASK, "the sandbox is down"))

    (output,) = evaluated(ChatEnvMultiTurnEnv(serving(Failing), seeds=1), hello)
    assert "the sandbox is down" in output["error"]["error_chain_repr"]
    assert math.isnan(output["reward"])


def test_a_rollout_that_broke_has_no_part_in_the_mean_of_its_group(serving: Any) -> None:
    times = iter([True])

    class Moody(Echo):
        def answer(self, turn: ModelTurn) -> Answer:
            if next(times, False):
                raise OSError("the sandbox is down")
            return super().answer(turn)

    env = ChatEnvMultiTurnEnv(serving(Moody), seeds=1)
    outputs = evaluated(env, hello, rollouts_per_example=3, state_columns=["trajectory"])
    played = [output for output in outputs if output["error"] is None]
    assert [output["reward"] for output in played] == [10.0] * 2
    assert [step["advantage"] for output in played for step in output["trajectory"]] == [0.0] * 4
    (broken,) = (output for output in outputs if output["error"] is not None)
    assert math.isnan(broken["reward"])


def test_a_rollout_that_nobody_rewarded_has_no_part_in_it_either(serving: Any) -> None:
    numbers = iter(range(3))

    class Silent(Echo):
        def __init__(self) -> None:
            super().__init__()
            self.number = next(numbers)

        def answer(self, turn: ModelTurn) -> Answer:
            return replace(super().answer(turn), rewards={"number": float(self.number)} if self.number else {})

    env = ChatEnvMultiTurnEnv(serving(Silent), seeds=1)
    outputs = evaluated(env, hello, rollouts_per_example=3, state_columns=["trajectory", "advantage"])
    assert [output["error"] for output in outputs] == [None] * 3
    steps = {output["reward"]: {step["advantage"] for step in output["trajectory"]} for output in outputs}
    assert [steps.pop(reward) for reward in (2.0, 4.0)] == [{-1.0}, {1.0}]
    ((reward, advantages),) = steps.items()
    assert math.isnan(reward)
    assert advantages == {None}


def test_a_rollout_that_broke_is_tried_again_where_that_is_asked_for(serving: Any) -> None:
    times = iter([True])

    class Moody(Echo):
        def answer(self, turn: ModelTurn) -> Answer:
            if next(times, False):
                raise OSError("the sandbox is down")
            return super().answer(turn)

    (output,) = evaluated(ChatEnvMultiTurnEnv(serving(Moody), seeds=1), hello, max_retries=1)
    assert output["reward"] == 10.0


def test_a_rollout_that_is_cancelled_in_the_middle_of_a_step_spoils_no_other(serving: Any) -> None:
    holding, times = threading.Event(), iter([True])

    class Slow(Echo):
        def answer(self, turn: ModelTurn) -> Answer:
            if next(times, False):
                holding.wait(30)
            return super().answer(turn)

    env = ChatEnvMultiTurnEnv(serving(Slow), seeds=1, timeout_seconds=2)
    (first,) = evaluated(env, hello)
    holding.set()
    (second,) = evaluated(env, hello)
    assert first["stop_condition"] == "timeout_reached"
    assert math.isnan(first["reward"])
    assert second["reward"] == 10.0


def test_an_engine_that_refuses_is_an_error_and_no_reward(address: str) -> None:
    (output,) = evaluated(ChatEnvMultiTurnEnv(address, seeds=1), lambda _: Refused())
    assert output["error"] is not None
    assert math.isnan(output["reward"])


def test_an_empty_turn_is_an_error_of_verifiers(address: str) -> None:
    (output,) = evaluated(ChatEnvMultiTurnEnv(address, seeds=1), lambda _: Said(""))
    assert output["error"]["error"] == "EmptyModelResponseError"
    assert math.isnan(output["reward"])


@pytest.mark.parametrize("way", WAYS)
def test_an_episode_that_a_limit_cut_off_keeps_the_rewards_that_it_had(address: str, way: str) -> None:
    (output,) = evaluated(ChatEnvMultiTurnEnv(address, seeds=1, reset={"max_turns": 1}), hello, way)
    assert output["is_truncated"]
    assert output["reward"] == 5.0


@pytest.mark.parametrize("way", WAYS)
def test_a_turn_that_was_cut_off_counts_as_cut_off(serving: Any, way: str) -> None:
    seen = []

    class Watching(Echo):
        def answer(self, turn: ModelTurn) -> Answer:
            seen.append((turn.text, turn.stop_reason.value, len(turn.tokens)))
            return super().answer(turn)

    (output,) = evaluated(ChatEnvMultiTurnEnv(serving(Watching), seeds=1), lambda _: Said("hel", is_cut=True), way)
    assert output["error"] is None
    assert seen == [("hel", "length", 3)] * 2


def add(a: int, b: int) -> int:
    """Add two numbers.

    Args:
        a: The first number.
        b: The second number.
    """
    return a + b


class Sum(ToolTask):
    """2 + 3."""

    tools = (add,)

    def begin(self, _: TaskEpisode) -> Opening:
        return Opening(messages=[{"role": "user", "content": "What is 2 + 3?"}])

    def score(self, turn: ModelTurn) -> dict[str, float]:
        return {"right": float("5" in turn.text)}


def test_tools_of_the_task_are_offered_run_and_answered_by_their_ids(serving: Any) -> None:
    def calling(prompt: str) -> Said:
        call = {"name": "add", "arguments": '{"a": 2, "b": 3}'}
        return Said("It is 5.") if prompt == "5" else Said("", calls=(call,))

    (output,) = evaluated(ChatEnvMultiTurnEnv(serving(Sum), seeds=1), calling)
    assert output["reward"] == 1.0
    assert [tool["name"] for tool in output["tool_defs"]] == ["add"]
    (result,) = (message for message in output["completion"] if message["role"] == "tool")
    assert (result["content"], result["tool_call_id"]) == ("5", "call_0")


def test_rewards_of_your_own_count_beside_those_of_the_server(address: str) -> None:
    async def friendly(completion: Any) -> float:
        return 2.0 if completion[0].content == "hello" else 0.0

    env = ChatEnvMultiTurnEnv(address, seeds=1, rubric=vf.Rubric(funcs=[friendly]))
    (output,) = evaluated(env, hello)
    assert output["reward"] == 12.0
    assert output["metrics"]["friendly"] == 2.0


def test_advantages_are_those_of_all_rewards(address: str) -> None:
    said = iter(["hello", "howdy"] * 2)

    async def friendly(completion: Any) -> float:
        return 2.0 if completion[0].content == "hello" else 0.0

    env = ChatEnvMultiTurnEnv(address, seeds=1, reset={"task_args": {"turns": 1}}, rubric=vf.Rubric(funcs=[friendly]))
    outputs = evaluated(env, lambda _: Said(next(said)), rollouts_per_example=2, state_columns=["trajectory"])
    assert {output["reward"]: output["trajectory"][0]["advantage"] for output in outputs} == {7.0: 1.0, 5.0: -1.0}


@pytest.mark.timeout(400)  # a command that imports half of what is installed
def test_the_example_is_evaluated_by_the_command_of_verifiers(address: str, tmp_path: Path) -> None:
    command = [
        str(Path(sys.executable).parent / "vf-eval"),
        "guess_v0",
        "-m",
        "m",
        "-k",
        "NO_KEY",
        "-n",
        "2",
        "-r",
        "2",
    ]
    with EngineServer(hello).running() as engine:
        arguments = json.dumps({"address": address, "seeds": 2})
        finished = subprocess.run(
            [*command, "-b", engine.url, "-a", arguments, "-s"],
            env={**os.environ, "PYTHONPATH": str(EXAMPLES)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=390,
        )
    assert finished.returncode == 0, finished.stderr[-2000:]
    results = [json.loads(line) for path in tmp_path.rglob("results.jsonl") for line in path.open()]
    assert [result["reward"] for result in results] == [10.0] * 4


def test_the_module_of_the_example_is_the_one_of_the_page() -> None:
    (_, block) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(block, PAGE.name, "exec"), names)
    own = (EXAMPLES / "guess_v0.py").read_text(encoding="utf-8")
    assert names["load_environment"].__defaults__ == ("localhost:50051", 100)
    assert "return ChatEnvMultiTurnEnv(address, seeds=seeds, **options)" in own
    assert "return ChatEnvMultiTurnEnv(address, seeds=seeds, **options)" in block
