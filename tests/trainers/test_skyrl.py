"""SkyRL: its text environment for real; its generator against its declared types, with an engine of that shape."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from guessing_game import Guess

from chatenv_client import ChatEnvError
from chatenv_client.trainers.skyrl import ChatGenerator
from chatenv_client.trainers.skyrl_rows import rows_of
from chatenv_server import ChatEnvironment, Settings, serve
from chatenv_server.tokenizer_files.byte_tokenizer import ByteTokenizer
from tests.trainers.tasks import STOP, said

CHECKOUT = Path(__file__).resolve().parents[2]
EXAMPLE = CHECKOUT / "examples" / "trainers" / "skyrl_text_chat.py"
PAGE = CHECKOUT / "docs" / "trainers" / "skyrl.md"


@pytest.fixture(scope="module")
def bare() -> Iterator[str]:
    """The address of a server without a task."""
    with serve(Settings(listen=("127.0.0.1:0",))) as server:
        yield server.target


@dataclass
class SamplingParams:
    max_generate_length: int = 64
    logprobs: int | None = 1


@dataclass
class GeneratorConfig:
    """The part of SkyRL's `cfg.generator` that the generator reads, with the names that SkyRL has."""

    sampling_params: SamplingParams = field(default_factory=SamplingParams)
    step_wise_trajectories: bool = False
    zero_reward_on_non_stop: bool = False
    apply_overlong_filtering: bool = False
    max_input_length: int = 4096
    max_turns: int = 8


@dataclass
class TrajectoryID:
    instance_id: str
    repetition_id: int


@dataclass
class BatchMetadata:
    global_step: int
    training_phase: str = "train"


class Engine:
    """Stands in for SkyRL's inference engine client: the same call and the same answer."""

    def __init__(self, says: Callable[[str, int], str] = lambda _, turn: "abc"[turn:], **answer: Any) -> None:
        self.says, self.answer = says, answer
        self.asked: dict[str, list[list[int]]] = {}
        self.finished: list[str] = []
        self.stop_ids: list[int] = []

    async def generate(self, input_batch: Mapping[str, Any], model: str | None = None) -> dict[str, Any]:
        assert model is None
        (session,), (prompt,) = input_batch["session_ids"], input_batch["prompt_token_ids"]
        turns = self.asked.setdefault(session, [])
        self.stop_ids = input_batch["sampling_params"]["stop_token_ids"]
        ids = [*self.says(session, len(turns)).encode(), STOP]
        turns.append(prompt)
        logprobs = [-(index + 1) / 8 for index in range(len(ids))]
        return {
            "responses": [""],
            "response_ids": [ids],
            "stop_reasons": ["stop"],
            "response_logprobs": [logprobs],
            **self.answer,
        }

    async def finish_session(self, session: str) -> None:
        self.finished.append(session)


def batch(*extras: Mapping[str, Any], repetitions: int = 1, prompts: Sequence[Any] | None = None) -> dict[str, Any]:
    rows = [dict(own) for own in extras for _ in range(repetitions)]
    return {
        "prompts": [[]] * len(rows) if prompts is None else list(prompts),
        "env_classes": ["chatenv"] * len(rows),
        "env_extras": rows,
        "sampling_params": None,
        "trajectory_ids": [
            TrajectoryID(f"row-{index // repetitions}", index % repetitions) for index in range(len(rows))
        ],
        "batch_metadata": BatchMetadata(3),
    }


def generated(address: str, input_batch: dict[str, Any], engine: Any = None, **config: Any) -> dict[str, Any]:
    generator = ChatGenerator(GeneratorConfig(**config), engine or Engine(), None, address)
    output = asyncio.run(generator.generate(input_batch))
    check_with_skyrl(input_batch, output, step_wise=bool(config.get("step_wise_trajectories")))
    return output


def check_with_skyrl(input_batch: Mapping[str, Any], output: dict[str, Any], *, step_wise: bool) -> None:
    """What the trainer checks itself, where SkyRL is installed, which needs Python 3.12."""
    try:
        from skyrl.train.generators.base import GeneratorOutput
        from skyrl.train.generators.utils import concatenate_generator_outputs
        from skyrl.train.utils.trainer_utils import validate_generator_output
    except ImportError:
        return
    assert output.keys() <= GeneratorOutput.__annotations__.keys()
    validate_generator_output(len(input_batch["prompts"]), output, step_wise=step_wise)
    concatenate_generator_outputs([output], step_wise=step_wise)


# The generator.


def test_rows_are_what_was_sampled_with_rewards_on_their_turns(address: str) -> None:
    engine = Engine()
    output = generated(address, batch({"chatenv": {"seed": 5}}), engine)
    (session,) = engine.asked
    first, second = engine.asked[session]
    (response,), (mask,), (rewards,) = output["response_ids"], output["loss_masks"], output["rewards"]
    assert output["prompt_token_ids"] == [first]
    assert first + response == [*second, *b"bc", STOP]
    assert [token for token, is_one in zip(response, mask, strict=True) if is_one] == [*b"abc", STOP, *b"bc", STOP]
    assert {place: value for place, value in enumerate(rewards) if value} == {3: 3.0, len(response) - 1: 2.0}
    (logprobs,) = output["rollout_logprobs"]
    assert [value for value, is_one in zip(logprobs, mask, strict=True) if is_one] == [
        -0.125, -0.25, -0.375, -0.5, -0.125, -0.25, -0.375,
    ]  # fmt: skip
    assert not any(value for value, is_one in zip(logprobs, mask, strict=True) if not is_one)
    assert (output["stop_reasons"], output["trajectory_ids"], output["is_last_step"]) == (["stop"], None, None)
    assert output["rollout_metrics"]["chatenv/reward/length"] == 5.0
    assert engine.finished == [session]


def test_the_engine_stops_at_the_servers_ids_and_at_skyrls(address: str) -> None:
    engine = Engine()
    generated(address, {**batch({}), "sampling_params": {"logprobs": 1, "stop_token_ids": [65]}}, engine)
    assert engine.stop_ids == [65, STOP, 258]


def test_rows_come_in_the_order_of_their_prompts(address: str) -> None:
    output = generated(address, batch(*({"chatenv": {"seed": seed}} for seed in range(8))))
    texts = [bytes(token for token in prompt if token < 256).decode() for prompt in output["prompt_token_ids"]]
    assert [f"Seed {seed}." in text for seed, text in enumerate(texts)] == [True] * 8


def test_an_episode_that_nobody_rewards_is_raised(bare: str) -> None:
    asked = [{"role": "user", "content": "What is 2 + 3?"}]
    with pytest.raises(RuntimeError, match="has no reward"):
        generated(bare, batch({}, prompts=[asked]))


def test_a_group_in_which_an_episode_failed_is_not_trained_on(address: str) -> None:
    whole, broken = {"chatenv": {"seed": 1}}, {"chatenv": {"task_args": {"breaks_at": 1}}}
    rows = batch(whole, whole, whole, broken)
    for index, name in enumerate(("a", "a", "b", "b")):
        rows["trajectory_ids"][index].instance_id = name
    output = generated(address, rows)
    assert [any(mask) for mask in output["loss_masks"]] == [True, True, False, False]
    assert output["stop_reasons"] == ["stop", "stop", "error", "error"]
    assert output["rollout_metrics"]["chatenv/failed_episodes"] == 1.0
    assert sum(output["rewards"][2]) == 5.0


@pytest.mark.parametrize("breaks_at", [-1, 0])
def test_where_no_group_came_through_nothing_is_trained_on(address: str, breaks_at: int) -> None:
    with pytest.raises(RuntimeError, match="no group of episodes came through"):
        generated(address, batch({"chatenv": {"task_args": {"breaks_at": breaks_at}}}))


def test_a_mistake_of_the_caller_is_raised(address: str) -> None:
    with pytest.raises(ChatEnvError, match="bored"):
        generated(address, batch({"chatenv": {"history_policy": "bored"}}))


def test_an_engine_without_logprobs_gives_none_for_all(address: str) -> None:
    assert generated(address, batch({}), Engine(response_logprobs=None))["rollout_logprobs"] is None


def test_a_turn_that_was_cut_off_is_told_and_filtered_as_configured(address: str) -> None:
    rows, cut = (
        batch({"chatenv": {"task_args": {"turns": 1}}}),
        Engine(stop_reasons=["length"], response_ids=[[97, 98]]),
    )
    cut.answer["response_logprobs"] = [[-0.5, -0.25]]
    plain = generated(address, rows, cut)
    assert (plain["stop_reasons"], sum(plain["rewards"][0])) == (["length"], 2.0)
    assert any(plain["loss_masks"][0])
    zeroed = generated(address, rows, cut, zero_reward_on_non_stop=True, apply_overlong_filtering=True)
    assert (sum(zeroed["rewards"][0]), any(zeroed["loss_masks"][0])) == (0.0, False)


def test_a_long_prompt_ends_the_episode_as_configured(address: str) -> None:
    engine = Engine(lambda *_: "a")
    generated(address, batch({"chatenv": {"task_args": {"turns": 50}}}), engine, max_input_length=100, max_turns=40)
    (prompts,) = engine.asked.values()
    assert 80 < len(prompts[-1]) <= 100
    output = generated(address, batch({"chatenv": {"task_args": {"turns": 50}}}), Engine(lambda *_: "a"), max_turns=3)
    assert sum(output["loss_masks"][0]) == 6


def test_an_episode_of_several_segments_is_several_rows_and_its_reward_is_on_the_last() -> None:
    env = ChatEnvironment(ByteTokenizer(), history_policy="segment")
    env.reset(messages=[{"role": "user", "content": "2 + 2?"}])
    env.step(said("abc"))
    env.set_reward(3.0, step=1)
    env.step({"role": "user", "content": "5 + 5?"}, replace_from=0)
    env.step(said("de"))
    env.set_reward(2.0, step=3)
    trajectory = env.trajectory()
    with pytest.raises(RuntimeError, match="step_wise_trajectories"):
        rows_of(trajectory, is_step_wise=False)
    rows = rows_of(trajectory, is_step_wise=True)
    assert [row.is_last for row in rows] == [False, True]
    assert [row.rewards for row in rows] == [[0.0] * 4, [0.0, 0.0, 5.0]]
    assert [row.response_ids for row in rows] == [[*b"abc", STOP], [*b"de", STOP]]


def test_rows_of_a_trajectory_stand_together_and_name_it(address: str) -> None:
    output = generated(address, batch({}, {}, repetitions=2), step_wise_trajectories=True)
    named = [(each.instance_id, each.repetition_id) for each in output["trajectory_ids"]]
    assert named == [("row-0", 0), ("row-0", 1), ("row-1", 0), ("row-1", 1)]
    assert output["is_last_step"] == [True] * 4
    assert [sum(rewards) for rewards in output["rewards"]] == [5.0] * 4


# The text environment.


@pytest.fixture
def make(address: str) -> Callable[..., Any]:
    skyrl_gym = pytest.importorskip("skyrl_gym", reason="the extra skyrl is not installed")
    if "chatenv" not in skyrl_gym.envs.registration.registry:
        skyrl_gym.register(id="chatenv", entry_point="chatenv_client.trainers.skyrl_text:ChatTextEnv")
    return lambda at=address, **extras: skyrl_gym.make("chatenv", env_config={"address": at}, extras=extras)


def test_skyrls_gym_plays_an_episode_of_texts(make: Callable[..., Any]) -> None:
    env = make(max_turns=5, chatenv={"seed": 4})
    messages, _ = env.init([])
    assert messages == [{"role": "user", "content": "Seed 4."}]
    step = env.step("abc")
    assert (step["observations"], step["reward"], step["done"]) == ([{"role": "user", "content": "abc"}], 3.0, False)
    assert "postprocessed_action" not in step
    step = env.step("de<|im_end|>")
    assert (step["observations"], step["reward"], step["done"]) == ([], 2.0, True)
    assert env.get_metrics() == {"length": 5.0}
    env.close()


def test_its_turns_are_limited_as_skyrl_says(make: Callable[..., Any]) -> None:
    env = make(max_turns=2, chatenv={"task_args": {"turns": 9}})
    env.init([])
    assert [env.step("a")["done"] for _ in range(2)] == [False, True]
    env.close()


def test_what_breaks_is_raised_and_is_no_reward(make: Callable[..., Any]) -> None:
    env = make(chatenv={"task_args": {"breaks_at": 0}})
    env.init([])
    with pytest.raises(ChatEnvError):
        env.step("abc")
    env.close()


def test_an_episode_of_texts_that_nobody_rewarded_is_raised(make: Callable[..., Any], bare: str) -> None:
    env = make(bare, max_turns=1)
    env.init([{"role": "user", "content": "Hi."}])
    with pytest.raises(RuntimeError, match="nothing in it was rewarded"):
        env.step("abc")
    env.close()


def test_the_example_and_the_code_of_the_page_run() -> None:
    pytest.importorskip("skyrl_gym", reason="the extra skyrl is not installed")
    with serve(Settings(listen=("127.0.0.1:0",)), task=Guess) as server:
        code = textenv_of_the_page().replace("localhost:50051", server.target)
        for arguments, told in (([str(EXAMPLE), server.target], "found, reward 1.0"), (["-c", code], "'Lower.'")):
            command = [sys.executable, *arguments]
            played = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
            assert played.returncode == 0, played.stderr
            assert told in played.stdout


def textenv_of_the_page() -> str:
    *_, block = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    return str(block)
