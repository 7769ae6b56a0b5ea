"""TRL's environment_factory of a task's tools, for real: the trainer, the server, and a model whose words are given."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

pytest.importorskip("trl", reason="TRL is not installed: make test-trainers")

import torch
import trl
from calculator import Arithmetic, calculate
from datasets import Dataset
from transformers import Qwen2ForCausalLM
from transformers.utils import get_json_schema
from trl import GRPOConfig, GRPOTrainer

from chatenv_client.trainers.trl_tools import EpisodeEnvironment, environment_factory, say_last_words
from chatenv_server import Settings, ToolTask, ToolUnavailableError, serve
from tests.trainers.page import run_block
from tests.trainers.tasks import STOP
from tests.trainers.tiny_model import tiny_model, tiny_tokenizer

torch.set_num_threads(1)
GROUP = 4


def look_up(
    word: str,
    count: int,
    kinds: list[str],
    how: Literal["fast", "well"],
    deep: bool = False,
    least: float | None = None,
) -> str:
    """Look a word up.

    Args:
        word: The word,
            as it is written.
        count: How many meanings.
        kinds: Of which kinds.
        how: In which way.
        deep: Whether to look everywhere.
        least: How sure it has to be.
    """
    if word == "gone":
        raise ToolUnavailableError("the dictionary is down")
    return f"{count} meanings of {word}, {kinds}, {how}, {deep}, {least}"


class Dictionary(ToolTask):
    """Has a tool of many types."""

    tools = (look_up, calculate)


@pytest.fixture(scope="module")
def dictionary() -> Iterator[str]:
    with serve(Settings(listen=("127.0.0.1:0",)), task=Dictionary) as server:
        yield server.target


def methods_of(environment: object) -> dict[str, Any]:
    """What TRL takes for tools: all public functions but the two of its own."""
    names = {name for name, value in vars(type(environment)).items() if callable(value) and name[0] != "_"}
    inherited = {name for name, value in vars(EpisodeEnvironment).items() if callable(value) and name[0] != "_"}
    assert inherited == {"reset", "get_reward"}
    return {name: getattr(environment, name) for name in names}


def test_each_tool_of_the_task_is_a_method_of_the_same_schema_and_there_is_no_other(dictionary: str) -> None:
    methods = methods_of(environment_factory(dictionary)())
    assert {name: get_json_schema(method) for name, method in methods.items()} == {
        "look_up": get_json_schema(look_up),
        "calculate": get_json_schema(calculate),
    }


def test_a_tool_runs_in_the_server(dictionary: str) -> None:
    environment: Any = environment_factory(dictionary)()
    environment.reset()
    said = environment.look_up(word="a", count=2, kinds=["noun"], how="well")
    assert said == "2 meanings of a, ['noun'], well, False, None"
    assert environment.calculate(expression="1 / 0") != ""  # the task's own words for it
    assert environment.get_reward() is None


def test_a_tool_that_is_unavailable_is_remembered_until_the_next_reset(dictionary: str) -> None:
    environment: Any = environment_factory(dictionary)()
    environment.reset()
    environment.look_up(word="gone", count=2, kinds=[], how="well")
    environment._rewards.append(1.0)
    assert environment.get_reward() is None
    environment.reset()
    environment._rewards.append(1.0)
    assert environment.get_reward() == 1.0


def test_a_task_without_tools_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match=r"use chatenv_client\.trainers\.trl "):
        environment_factory(address)


class Taken(ToolTask):
    """Has a tool of a name that TRL takes."""

    def reset(self) -> str:
        """Reset it."""
        return ""

    tools = (reset,)


def test_a_tool_of_a_name_that_trl_takes_is_refused() -> None:
    with serve(Settings(listen=("127.0.0.1:0",)), task=Taken) as server, pytest.raises(ValueError, match="reset"):
        environment_factory(server.target)


class Scripted(Qwen2ForCausalLM):
    """Calls the calculator with what it was asked, and says what came of it. Of every fourth prompt it knows better."""

    calls = 0

    def generate(self, input_ids: Any, **_: Any) -> Any:
        """As transformers' own."""
        turns = [[*self._said(bytes(i for i in row.tolist() if i < 256).decode()).encode(), STOP] for row in input_ids]
        longest = max(map(len, turns))
        rows = [torch.tensor(turn + [258] * (longest - len(turn))) for turn in turns]
        return torch.cat([input_ids, torch.stack(rows)], dim=1)

    def _said(self, prompt: str) -> str:
        if result := re.findall(r"<tool_response>\s*(.*?)\s*</tool_response>", prompt, re.DOTALL):
            return f"It is {result[-1]}."
        self.calls += 1
        (expression,) = re.findall(r"What is (.*)\?", prompt)
        expression = "gone" if self.calls % 4 == 0 else expression if self.calls % 2 else "1 + 1"
        call = json.dumps({"name": "calculate", "arguments": {"expression": expression}})
        return f"<tool_call>\n{call}\n</tool_call>"


def sometimes(expression: str) -> float:
    """Calculate an arithmetic expression.

    Args:
        expression: It.
    """
    if expression == "gone":
        raise ToolUnavailableError("the calculator is down")
    return calculate(expression)


sometimes.__name__ = "calculate"


class Unsure(Arithmetic):
    """Its calculator is sometimes down."""

    tools = (sometimes,)


def with_template(folder: Path) -> Any:
    """The tokenizer with a chat template whose calls TRL can read."""
    tokenizer = tiny_tokenizer(folder)
    tokenizer.chat_template = Path(trl.__file__).parent.joinpath("chat_templates/qwen3.jinja").read_text()
    return tokenizer


class Recording(GRPOTrainer):
    """Keeps what its loss is computed from."""

    inputs: Any = None

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **more: Any) -> Any:
        """As it is."""
        self.inputs = dict(inputs)
        return super().compute_loss(model, inputs, *args, **more)


def test_a_trainer_calls_the_tools_and_a_failed_one_is_never_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    monkeypatch.chdir(tmp_path)
    tokenizer = with_template(tmp_path / "tokenizer")
    model = tiny_model(tokenizer)
    model.__class__ = Scripted
    with serve(Settings(listen=("127.0.0.1:0",)), task=Unsure) as server:
        trainer = Recording(
            model=model,
            args=GRPOConfig(
                output_dir=str(tmp_path),
                per_device_train_batch_size=2 * GROUP,
                num_generations=GROUP,
                max_completion_length=400,
                max_steps=1,
                bf16=False,
                use_cpu=True,
                report_to=[],
                save_strategy="no",
                disable_tqdm=True,
                logging_steps=1,
            ),
            train_dataset=Dataset.from_list([{"prompt": [{"role": "user", "content": ""}], "seed": n} for n in (1, 2)]),
            processing_class=tokenizer,
            environment_factory=environment_factory(server.target),
            reward_funcs=say_last_words,
        )
        trainer.train()
    assert [environment.get_reward() for environment in trainer.environments] == [1.1, 0.1, 1.1, None] * 2
    advantages = trainer.inputs["advantages"]
    assert sorted(advantages.sign().tolist()) == [-1, -1, 0, 0, 1, 1, 1, 1]
    assert abs(float(advantages.sum())) < 1e-4


def test_the_episodes_of_a_group_have_one_seed() -> None:
    with serve(Settings(listen=("127.0.0.1:0",)), task=Arithmetic) as server:
        factory = environment_factory(server.target)
        same = [factory().reset(prompt=[{"role": "user", "content": ""}], n=1) for _ in range(2)]
        other = factory().reset(prompt=[{"role": "user", "content": ""}], n=2)
    assert same[0] == same[1] != other


def test_a_server_that_is_gone_gives_no_reward() -> None:
    with serve(Settings(listen=("127.0.0.1:0",)), task=Arithmetic) as server:
        environment: Any = environment_factory(server.target)()
    environment.reset(seed=1)
    assert environment.calculate(expression="1") == ""
    assert environment.get_reward() is None


def test_the_last_words_are_scored_once() -> None:
    with serve(Settings(listen=("127.0.0.1:0",)), task=Arithmetic) as server:
        environment: Any = environment_factory(server.target)()
        asked = environment.reset(seed=1)
        right = calculate(asked.removeprefix("What is ").removesuffix("?"))
        for _ in range(2):
            assert say_last_words([[{"role": "assistant", "content": f"It is {right}."}]], [environment]) == [None]
    assert environment.get_reward() == 1.0


@pytest.mark.parametrize(
    "completion",
    [
        [],
        [{"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": {"name": "calculate"}}]}],
        [{"role": "assistant", "content": ""}, {"role": "tool", "name": "calculate", "content": "5"}],
    ],
    ids=["nothing", "a call", "the result of a call"],
)
def test_where_a_rollout_was_cut_off_at_a_call_nothing_is_said_for_the_model(completion: list[Any]) -> None:
    with serve(Settings(listen=("127.0.0.1:0",)), task=Arithmetic) as server:
        environment: Any = environment_factory(server.target)()
        environment.reset(seed=1)
        assert say_last_words([completion], [environment]) == [None]
        assert environment._env.observation.step_count == 0
    assert environment.get_reward() is None


def test_the_page_trains_as_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dictionary: str) -> None:
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    monkeypatch.chdir(tmp_path)
    tokenizer = with_template(tmp_path / "tokenizer")
    tokenizer.save_pretrained(tmp_path / "model")
    tiny_model(tokenizer).save_pretrained(tmp_path / "model")
    assert run_block(2, dictionary, tmp_path / "model")["trainer"].state.global_step == 1
