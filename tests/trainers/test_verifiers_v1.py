"""verifiers 0.4: episodes of a chatenv server as a taskset, played by its own rollouts against an engine."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("chatenv_server", reason="the server extra is not installed", exc_type=ImportError)
pytest.importorskip("verifiers", minversion="0.4")

import verifiers.v1 as vf
from renderers import CustomRendererConfig
from transformers import AutoTokenizer
from verifiers.v1.cli.eval.runner import run_eval
from verifiers.v1.configs.cli.eval import EvalConfig
from verifiers.v1.configs.client import EvalClientConfig, TrainClientConfig
from verifiers.v1.serve.client import EnvClient
from verifiers.v1.serve.server import EnvServer
from verifiers.v1.utils.loaders import load_environment, resolve_env_config

from chatenv_client import Failure, FailureKind
from chatenv_server import Answer, ModelTurn, Opening, Settings, Task, TaskEpisode, ToolTask, serve
from chatenv_server.tokenizer_files.exporting import export_embedded
from tests.conformance import CONFORMANCE, do_without, why_missing
from tests.trainers.engine_server import EngineServer, Model, Refused, Said
from tests.trainers.tasks import Echo

EXAMPLES = Path(__file__).resolve().parent.parent.parent / "examples" / "trainers"
PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "trainers" / "verifiers.md"
MODULE = """
from chatenv_client.trainers.verifiers_v1 import ChatEnvEnv, ChatEnvHarness, ChatEnvTaskset

__all__ = ["ChatEnvEnv", "ChatEnvHarness", "ChatEnvTaskset"]
"""
WAYS = ("messages", "ids")


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the module of a user lies, and the tokenizer."""
    folder = tmp_path_factory.mktemp("verifiers")
    export_embedded(folder / "tokenizer")
    (folder / "my_episodes.py").write_text(MODULE, encoding="utf-8")
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))


@pytest.fixture(autouse=True)
def a_lock_for_each_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """`renderers` keeps one lock for the process, bound to the event loop in which two callers first met at it."""
    monkeypatch.setattr("renderers.client._max_prompt_len_lock", asyncio.Lock())


class Player:
    """Plays tasks of a server with the rollouts of verifiers."""

    def __init__(self, folder: Path, address: str) -> None:
        self.folder, self.address = folder, address
        self.renderer_options: dict[str, Any] = {}
        self.tokenizer: Path | None = None

    def client(self, way: str, url: str) -> Any:
        if way == "messages":
            return EvalClientConfig(base_url=url, api_key_var="NO_KEY")
        path = "chatenv_server.renderers.ChatEnvRenderer"
        renderer = CustomRendererConfig(import_path=path, **self.renderer_options)
        name = str(self.tokenizer or self.folder / "tokenizer")
        return TrainClientConfig(base_url=url, api_key_var="NO_KEY", renderer=renderer, renderer_model_name=name)

    def play(
        self,
        model: Model,
        way: str = "messages",
        *,
        rollouts: int = 1,
        player: Any = None,
        timeout: Any = None,
        **taskset: Any,
    ) -> tuple[list[vf.Episode], list[dict[str, Any]]]:
        """The episodes, and what the engine was asked."""
        config: dict[str, Any] = {"taskset": {"id": "my-episodes", "address": self.address, "seeds": 1, **taskset}}
        config |= {name: value for name, value in (("player", player), ("timeout", timeout)) if value}
        env = load_environment(resolve_env_config(config))

        async def played(url: str) -> list[vf.Episode]:
            context = vf.ModelContext(model="m", client=self.client(way, url))
            async with env.serving():
                slots = [slot for task in env.taskset for slot in env.slots(task, rollouts)]
                return list(await asyncio.gather(*(env.run_slot(slot, context) for slot in slots)))

        tokenizer = self.tokenizer and AutoTokenizer.from_pretrained(self.tokenizer)
        with EngineServer(model, tokenizer).running() as engine:
            return asyncio.run(played(engine.url)), engine.asked


@pytest.fixture
def player(folder: Path, address: str) -> Player:
    return Player(folder, address)


def player_of(folder: Path, stack: ExitStack, task: Any) -> Player:
    server = stack.enter_context(serve(Settings(listen=("127.0.0.1:0",)), task=task))
    return Player(folder, server.target)


def trace_of(episodes: list[vf.Episode]) -> vf.Trace:
    (episode,) = episodes
    (trace,) = episode.traces
    return trace


def hello(_: str) -> Said:
    return Said("hello")


@pytest.mark.parametrize("way", WAYS)
def test_an_episode_is_played_to_its_end_and_its_rewards_are_recorded(player: Player, way: str) -> None:
    episodes, _ = player.play(hello, way)
    trace = trace_of(episodes)
    assert episodes[0].ok
    assert trace.stop_condition == "terminated"
    assert [(message.role, message.content) for message in trace.messages] == [
        *(("user", "Seed 0."), ("assistant", "hello")),
        *(("user", "hello"), ("assistant", "hello")),
    ]
    assert {name: reward.value for name, reward in trace.rewards.items()} == {"length": 10.0}
    assert trace.reward == 10.0


def test_ids_that_were_sampled_reach_chatenv_as_they_are_in_one_branch(player: Player) -> None:
    trace = trace_of(player.play(hello, "ids")[0])
    assert trace.metrics["chatenv_exact"] == 1.0
    (branch,) = trace.branches
    assert sum(branch.sampled_mask) == 2 * len("hello!")
    said = [token for token, sampled in zip(branch.token_ids, branch.sampled_mask, strict=True) if sampled]
    assert said == [*b"hello", 257] * 2


def test_ids_after_another_prompt_than_chatenvs_are_not_sent_as_if_they_were_exact(player: Player) -> None:
    other = "{% for message in messages %}{{ message.role }}: {{ message.content }}<|im_end|>{% endfor %}A: "
    player.renderer_options = {"chat_template": other}
    with pytest.warns(RuntimeWarning, match="another prompt than chatenv has"):
        trace = trace_of(player.play(hello, "ids")[0])
    assert trace.metrics["chatenv_exact"] == 0.0
    assert trace.reward == 10.0


@pytest.mark.parametrize("policy", ["segment", "append"])
def test_a_model_whose_thoughts_are_stripped_is_asked_as_chatenv_would(folder: Path, policy: str) -> None:
    tokenizer = CONFORMANCE / "tokenizers" / "standin_qwen3_6"
    if reason := why_missing(tokenizer):
        do_without(reason)
    with serve(Settings(listen=("127.0.0.1:0",), tokenizer=str(tokenizer)), task=Echo) as server:
        player = Player(folder, server.target)
        player.tokenizer = tokenizer
        if policy == "append":
            player.renderer_options = {"thinking_retention": "all"}
        options = {"history_policy": policy, "task_args": {"turns": 3}}
        trace = trace_of(player.play(lambda _: Said("I greet.\n</think>\n\nHello."), "ids", reset=options)[0])
    assert trace.metrics["chatenv_exact"] == 1.0
    assert len(trace.branches) == (3 if policy == "segment" else 1)


def test_without_ids_the_turns_are_sent_as_the_template_writes_them(player: Player) -> None:
    assert trace_of(player.play(hello, "messages")[0]).metrics["chatenv_exact"] == 0.0


@pytest.mark.parametrize("way", WAYS)
def test_many_episodes_run_at_once(player: Player, way: str) -> None:
    episodes, _ = player.play(hello, way, seeds=4, rollouts=4)
    assert [trace.reward for episode in episodes for trace in episode.traces] == [10.0] * 16
    assert {episode.task.key for episode in episodes} == {f"seed {seed}" for seed in range(4)}


def test_an_env_server_plays_episodes_for_a_trainer_elsewhere_as_prime_rl_has_it(player: Player) -> None:
    """With the server and the client of verifiers, over ZMQ: the whole of what prime-rl sees of an environment."""
    config = {"taskset": {"id": "my-episodes", "address": player.address, "seeds": 2}}

    async def played(url: str) -> list[Any]:
        server = EnvServer(resolve_env_config(config), "tcp://127.0.0.1:0")
        serving, client = asyncio.create_task(server.run()), EnvClient(server.address)
        try:
            tasks = list(server.env.taskset)
            asked = player.client("ids", url), "m", vf.SamplingConfig()
            return list(await asyncio.gather(*(client.run(*asked, task.data.model_dump()) for task in tasks)))
        finally:
            await client.close()
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)

    with EngineServer(hello).running() as engine:
        episodes = asyncio.run(played(engine.url))
    for episode in episodes:
        trace = trace_of([episode])
        assert (trace.reward, trace.metrics["chatenv_exact"]) == (10.0, 1.0)
        (branch,) = trace.branches
        assert len(branch.token_ids) == len(branch.sampled_mask) == len(branch.logprobs)
        assert sum(branch.sampled_mask) == 2 * len("hello!")


def test_an_evaluation_runs_as_from_the_command_line(player: Player, tmp_path: Path) -> None:
    with EngineServer(hello).running() as engine:
        config = EvalConfig.model_validate(
            {
                "env": {"taskset": {"id": "my-episodes", "address": player.address, "seeds": 2}},
                "client": {"type": "eval", "base_url": engine.url, "api_key_var": "NO_KEY"},
                "model": "m",
                "num_rollouts": 2,
                "output_dir": str(tmp_path),
                "rich": None,
                "push": False,
            }
        )
        episodes = asyncio.run(run_eval(config))
    assert [episode.ok for episode in episodes] == [True] * 4
    assert [trace.reward for episode in episodes for trace in episode.traces] == [10.0] * 4


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("breaks_at", [-1, 0, 1])
def test_a_task_that_raises_is_an_error_and_no_reward(player: Player, way: str, breaks_at: int) -> None:
    (episode,), _ = player.play(hello, way, reset={"task_args": {"breaks_at": breaks_at}})
    assert not episode.ok
    assert "TaskError" in episode.errors[0].message
    assert all(trace.rewards == {} and not trace.ok for trace in episode.traces)


def test_a_server_that_is_down_is_an_error_and_no_reward(folder: Path) -> None:
    (episode,), asked = Player(folder, "127.0.0.1:1").play(hello)
    assert not episode.ok
    assert "see that a chatenv server runs at this address" in episode.errors[0].message
    assert (episode.traces, asked) == ([], [])


@pytest.mark.parametrize("way", WAYS)
def test_a_server_that_goes_down_in_the_middle_is_an_error_and_no_reward(folder: Path, way: str) -> None:
    with ExitStack() as stack:
        player = player_of(folder, stack, Echo)

        def stopping(prompt: str) -> Said:
            if "hello" in prompt:
                stack.close()
            return Said("hello")

        (episode,), _ = player.play(stopping, way, reset={"task_args": {"turns": 3}})
    assert not episode.ok
    assert episode.errors
    assert [trace.rewards for trace in episode.traces] == [{}]


def test_an_episode_that_failed_is_tried_again_as_a_whole_where_that_is_asked_for(folder: Path) -> None:
    times = iter([True, False, False])

    class Moody(Echo):
        def answer(self, turn: ModelTurn) -> Answer:
            if next(times):
                raise OSError("the sandbox is down")
            return super().answer(turn)

    with ExitStack() as stack:
        player = player_of(folder, stack, Moody)
        config = {"id": "my-episodes", "address": player.address, "seeds": 1}
        env = load_environment(resolve_env_config({"taskset": config, "retries": {"max_retries": 1}}))

        async def played(url: str) -> vf.Episode:
            async with env.serving():
                (slot,) = (slot for task in env.taskset for slot in env.slots(task))
                return await env.run_slot(slot, vf.ModelContext(model="m", client=player.client("messages", url)))

        with EngineServer(hello).running() as engine:
            episode = asyncio.run(played(engine.url))
    assert episode.ok
    assert trace_of([episode]).reward == 10.0


@pytest.mark.parametrize("way", WAYS)
def test_an_engine_that_refuses_is_an_error_and_no_reward(player: Player, way: str) -> None:
    (episode,), _ = player.play(lambda _: Refused(), way)
    assert not episode.ok
    assert trace_of([episode]).rewards == {}
    assert "no such model" in trace_of([episode]).errors[0].message


@pytest.mark.parametrize("way", WAYS)
def test_rewards_from_before_an_engine_refused_are_not_recorded(player: Player, way: str) -> None:
    def refusing(prompt: str) -> Said | Refused:
        return Refused() if "hello" in prompt else Said("hello")

    (episode,), _ = player.play(refusing, way, reset={"task_args": {"turns": 3}})
    assert not episode.ok
    assert trace_of([episode]).num_turns == 1
    assert trace_of([episode]).rewards == {}


@pytest.mark.parametrize("way", WAYS)
def test_an_episode_that_a_limit_cut_off_keeps_the_rewards_that_it_had(player: Player, way: str) -> None:
    trace = trace_of(player.play(hello, way, reset={"max_turns": 1})[0])
    assert trace.ok
    assert trace.stop_condition == "truncated"
    assert trace.reward == 5.0


def test_a_limit_of_verifiers_ends_the_episode_too(player: Player) -> None:
    limited = {"max_turns": 1}
    trace = trace_of(player.play(hello, reset={"task_args": {"turns": 3}}, player=limited)[0])
    assert trace.stop_condition == "max_turns"
    assert trace.reward == 5.0


@pytest.mark.parametrize("way", WAYS)
def test_a_turn_that_was_cut_off_counts_as_cut_off(folder: Path, way: str) -> None:
    seen = []

    class Watching(Echo):
        def answer(self, turn: ModelTurn) -> Answer:
            seen.append((turn.text, turn.stop_reason.value, len(turn.tokens)))
            return super().answer(turn)

    with ExitStack() as stack:
        trace = trace_of(player_of(folder, stack, Watching).play(lambda _: Said("hel", is_cut=True), way)[0])
    assert trace.ok
    assert seen == [("hel", "length", 3)] * 2


@pytest.mark.parametrize("way", WAYS)
def test_an_empty_turn_is_a_turn(player: Player, way: str) -> None:
    trace = trace_of(player.play(lambda _: Said(""), way)[0])
    assert trace.ok
    assert trace.rewards["length"].value == 0.0


def add(a: int, b: int) -> int:
    """Add two numbers.

    Args:
        a: The first number.
        b: The second number.
    """
    return a + b


del add.__annotations__["return"]  # verifiers drops what a schema says of it


class Sum(ToolTask):
    """2 + 3."""

    tools = (add,)

    def begin(self, _: TaskEpisode) -> Opening:
        return Opening(messages=[{"role": "user", "content": "What is 2 + 3?"}])

    def score(self, turn: ModelTurn) -> dict[str, float]:
        return {"right": float("5" in turn.text)}


def calling(prompt: str) -> Said:
    return Said("It is 5.") if prompt == "5" else Said("", calls=({"name": "add", "arguments": '{"a": 2, "b": 3}'},))


def test_tools_of_the_task_are_offered_run_and_answered_by_their_ids(folder: Path) -> None:
    with ExitStack() as stack:
        episodes, asked = player_of(folder, stack, Sum).play(calling)
    assert trace_of(episodes).reward == 1.0
    assert [tool["function"]["name"] for tool in asked[0]["tools"]] == ["add"]
    result = {"role": "tool", "content": "5", "tool_call_id": "call_0"}
    assert asked[1]["messages"][-1].items() >= result.items()


def test_tools_are_run_where_calls_are_read_off_the_ids(folder: Path) -> None:
    def calling(prompt: str) -> Said:
        answered = "<tool_response>" in prompt
        return Said(
            "It is 5." if answered else '<tool_call>\n{"name": "add", "arguments": {"a": 2, "b": 3}}\n</tool_call>'
        )

    with ExitStack() as stack:
        trace = trace_of(player_of(folder, stack, Sum).play(calling, "ids")[0])
    assert trace.reward == 1.0
    assert trace.metrics["chatenv_exact"] == 1.0
    (called, _) = trace.assistant_messages
    (result,) = trace.tool_messages
    assert called.tool_calls[0].id == result.tool_call_id
    assert len(trace.branches) == 1


def test_a_call_with_arguments_that_are_none_is_text(folder: Path) -> None:
    with ExitStack() as stack:
        broken = Said("", calls=({"name": "add", "arguments": '{"a": 2'},))
        trace = trace_of(player_of(folder, stack, Sum).play(lambda _: broken)[0])
    assert trace.ok
    assert trace.reward == 0.0


class Weighted(Task):
    """One turn, and rewards that do not count alike."""

    def answer(self, _: ModelTurn) -> Answer:
        return Answer(rewards={"right": 1.0, "short": 1.0}, weights={"short": 0.5}, terminated=True)


def test_rewards_with_weights_are_one_reward_and_metrics(folder: Path) -> None:
    with ExitStack() as stack:
        opening = {"messages": [{"role": "user", "content": "Hi"}]}
        trace = trace_of(player_of(folder, stack, Weighted).play(hello, reset=opening)[0])
    assert trace.reward == 1.5
    assert (trace.metrics["right"], trace.metrics["short"]) == (1.0, 1.0)


class Failing(Task):
    """Says that something broke."""

    def answer(self, _: ModelTurn) -> Answer:
        return Answer(failure=Failure(FailureKind.TASK, "the sandbox is down"), rewards={"right": 1.0})


@pytest.mark.parametrize("way", WAYS)
def test_an_episode_that_ends_in_a_failure_is_an_error_and_no_reward(folder: Path, way: str) -> None:
    with ExitStack() as stack:
        opening = {"messages": [{"role": "user", "content": "Hi"}]}
        (episode,), _ = player_of(folder, stack, Failing).play(hello, way, reset=opening)
    assert not episode.ok
    assert "the sandbox is down" in episode.errors[0].message
    assert trace_of([episode]).rewards == {}


def test_an_episode_without_a_reward_has_none(folder: Path) -> None:
    class Silent(Task):
        def answer(self, _: ModelTurn) -> Answer:
            return Answer(terminated=True)

    with ExitStack() as stack:
        opening = {"messages": [{"role": "user", "content": "Hi"}]}
        trace = trace_of(player_of(folder, stack, Silent).play(hello, reset=opening)[0])
    assert trace.ok
    assert trace.rewards == {}


def test_a_task_for_each_row_of_the_servers_data(folder: Path) -> None:
    class Rows(Task):
        def open(self, episode: TaskEpisode) -> Opening:
            assert episode.row is not None
            return Opening(messages=[{"role": "user", "content": episode.row["question"]}])

        def answer(self, _: ModelTurn) -> Answer:
            return Answer(rewards={"right": 1.0}, terminated=True)

    rows = [{"question": "one"}, {"question": "two"}]
    with serve(Settings(listen=("127.0.0.1:0",)), task=Rows, rows=rows) as server:
        episodes, asked = Player(folder, server.target).play(hello, seeds=None)
    assert [episode.task.key for episode in episodes] == ["row 0", "row 1"]
    assert sorted(each["messages"][0]["content"] for each in asked) == ["one", "two"]


def test_an_episode_that_is_cancelled_in_the_middle_of_a_step_spoils_no_other(folder: Path) -> None:
    holding, times = threading.Event(), iter([True])

    class Slow(Echo):
        def answer(self, turn: ModelTurn) -> Answer:
            if next(times, False):
                holding.wait(30)
            return super().answer(turn)

    with ExitStack() as stack:
        player = player_of(folder, stack, Slow)
        (first,), _ = player.play(hello, timeout={"episode": 2})
        holding.set()
        (second,), _ = player.play(hello)
    assert first.is_timeout
    assert not first.ok
    assert [trace.rewards for trace in first.traces] in ([], [{}])
    assert trace_of([second]).reward == 10.0


@pytest.mark.timeout(400)  # a command that imports half of what is installed
def test_the_example_is_evaluated_by_the_command_of_the_page(address: str, tmp_path: Path) -> None:
    with EngineServer(hello).running() as engine:
        (command,) = re.findall(r"PYTHONPATH=examples/trainers (vf-eval .*?--no-push)", PAGE.read_text(), re.DOTALL)
        words = shlex.split(command.replace("\\\n", " "))
        words[0] = str(Path(sys.executable).parent / words[0])
        words[words.index("localhost:50051")] = address
        words[words.index("http://localhost:8000/v1")] = engine.url
        finished = subprocess.run(
            [*words, "--no-rich", "--output-dir", str(tmp_path)],
            env={**os.environ, "PYTHONPATH": str(EXAMPLES)},
            capture_output=True,
            text=True,
            check=False,
            timeout=390,
        )
    assert finished.returncode == 0, finished.stderr[-2000:]
    ends = re.findall(r'"(?:stop_condition|message)": "(?!role)(.*)"', finished.stdout)
    assert ends == ["terminated"] * 20 * 4


def test_the_module_of_the_example_is_the_one_of_the_page() -> None:
    (block, _) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert block in (EXAMPLES / "guess_v1.py").read_text(encoding="utf-8")
