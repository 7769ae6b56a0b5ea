"""The executor with OpenRLHF's own base, and what its sample generator makes of the result. vLLM is stood in for."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("openrlhf.utils.agent", reason="OpenRLHF is not installed")

from chatenv_server import Opening, Settings, TaskEpisode, serve
from tests.trainers.engines import THOUGHT, TinyEngine
from tests.trainers.pages import block_of
from tests.trainers.tasks import Echo

MAX_LENGTH = 400
Loads = Callable[..., Any]


class Engine:
    """Answers as OpenRLHF's rollout actor does, in vLLM's form, with the tiny engine's samples."""

    def __init__(self, thought: str = "", finish_reason: str = "") -> None:
        self.tiny = TinyEngine(thought=thought)
        self.finish_reason = finish_reason
        self.asked: list[Any] = []

    async def generate(self, prompt_token_ids: list[int], sampling_params: Any, multi_modal_data: Any = None) -> Any:
        assert isinstance(prompt_token_ids, list)
        assert multi_modal_data is None
        self.asked.append(sampling_params)
        made = self.tiny.generate(prompt_token_ids, sampling_params.max_tokens, sampling_params.stop_token_ids)
        known = [{t: SimpleNamespace(logprob=lp)} for t, lp in zip(made.tokens, made.logprobs, strict=True)]
        said = SimpleNamespace(
            token_ids=made.tokens,
            text="never read",
            logprobs=known if sampling_params.logprobs is not None else None,
            finish_reason=self.finish_reason or ("stop" if made.stopped else "length"),
        )
        return SimpleNamespace(outputs=[said])


def params(**own: Any) -> Any:
    """What OpenRLHF asks vLLM for."""
    return SimpleNamespace(**{"max_tokens": None, "logprobs": 1, "stop_token_ids": None, "temperature": 1.0, **own})


@pytest.fixture
def loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Loads:
    """Loads a user's file as OpenRLHF's rollout actor does."""
    vllm = ModuleType("vllm")
    vllm.SamplingParams = SimpleNamespace  # type: ignore[attr-defined]
    inputs, utils = ModuleType("vllm.inputs"), ModuleType("vllm.utils")
    inputs.TokensPrompt = utils.random_uuid = object  # type: ignore[attr-defined]
    for module in (vllm, inputs, utils):
        monkeypatch.setitem(sys.modules, module.__name__, module)

    def load(address: str, more: str = "") -> Any:
        from openrlhf.trainer.ray.vllm_engine import _load_agent_executor

        user = tmp_path / "agent.py"
        user.write_text(block_of("openrlhf", "python", address) + more, encoding="utf-8")
        return _load_agent_executor(str(user))

    return load


def executed(executor: Any, engine: Engine, label: Any = None, **own: Any) -> dict[str, Any]:
    made: dict[str, Any] = asyncio.run(
        executor.execute(
            "Go.", label, own.pop("params", params()), own.pop("max_length", MAX_LENGTH), own.get("tokenizer"), engine
        )
    )
    return made


def experience_of(made: dict[str, Any], max_length: int = MAX_LENGTH) -> Any:
    """What OpenRLHF's own generator makes of an executor's answer."""
    from openrlhf.trainer.ppo_utils.samples_generator import SamplesGenerator

    return SamplesGenerator._process_response_into_experience(None, made, max_len=max_length)


def test_ids_mask_and_logprobs_in_the_experience_are_the_engines(loaded: Loads, address: str) -> None:
    engine = Engine()
    made = executed(loaded(address), engine, json.dumps({"seed": 3, "task_args": {"turns": 3}}))
    experience = experience_of(made)
    ((ids, mask, logprobs),) = engine.tiny.rows()
    assert experience.sequences[0].tolist() == ids.tolist()
    assert experience.action_mask[0].tolist() == mask[1:].tolist()
    assert experience.rollout_log_probs[0].numpy().tobytes() == logprobs[1:].tobytes()
    assert len(made["action_ranges"]) == 3
    assert experience.rewards.tolist() == [made["reward"]]
    assert experience.info["chatenv_turns"].tolist() == [3]
    assert not made["truncated"]


def test_a_row_is_never_longer_than_openrlhf_lets_it_be(loaded: Loads, address: str) -> None:
    engine = Engine()
    made = executed(loaded(address), engine, json.dumps({"task_args": {"turns": 99}}), max_length=100)
    assert len(made["observation_tokens"]) <= 100
    assert made["truncated"]
    assert experience_of(made, 100).action_mask.sum() == sum(len(each.tokens) for each in engine.tiny.generated)


def test_a_turn_is_no_longer_than_the_parameters_say_and_they_stay_as_they_are(loaded: Loads, address: str) -> None:
    engine, given = Engine(), params(max_tokens=5, stop_token_ids=[65])
    executed(loaded(address), engine, params=given)
    assert {each.max_tokens for each in engine.asked} == {5}
    assert all({65, 257} <= set(each.stop_token_ids) for each in engine.asked)
    assert (given.max_tokens, given.stop_token_ids) == (5, [65])


def test_without_logprobs_there_are_none(loaded: Loads, address: str) -> None:
    made = executed(loaded(address), Engine(), params=params(logprobs=None))
    assert made["rollout_log_probs"] is None
    assert experience_of(made).rollout_log_probs is None


def test_logs_have_the_same_keys_in_every_episode(loaded: Loads, address: str) -> None:
    executor = loaded(address)
    keys = [executed(executor, Engine(), json.dumps({"task_args": {"turns": n}}))["extra_logs"].keys() for n in (1, 3)]
    assert keys[0] == keys[1]


def test_an_episode_that_breaks_is_played_again(loaded: Loads, flaky: str) -> None:
    engine = Engine()
    made = executed(loaded(flaky), engine)
    assert made["reward"] > 0
    assert experience_of(made).action_mask.sum() == sum(len(each.tokens) for each in engine.tiny.generated[2:])


def test_one_that_cannot_be_played_ends_the_call_and_has_no_reward(loaded: Loads, address: str) -> None:
    broken = json.dumps({"task_args": {"breaks_at": 0}})
    with pytest.raises(RuntimeError, match=r"an episode failed .*; 2 episodes were tried"):
        executed(loaded(address, "    attempts = 2\n"), Engine(), broken)


def test_an_episode_that_nobody_rewarded_ends_the_call(loaded: Loads, bare_address: str) -> None:
    with pytest.raises(RuntimeError, match="nobody rewarded episode"):
        executed(loaded(bare_address), Engine())


def test_an_engine_that_gives_up_ends_the_call(loaded: Loads, address: str) -> None:
    with pytest.raises(RuntimeError, match="the engine gave the turn up"):
        executed(loaded(address), Engine(finish_reason="abort"))


def test_several_rows_are_refused(loaded: Loads, forgetful: str) -> None:
    with pytest.raises(ValueError, match="an episode has 2 rows, and OpenRLHF takes one"):
        executed(loaded(forgetful, "    options = {'history_policy': 'segment'}\n"), Engine(THOUGHT))


def test_eight_episodes_at_once_share_a_channel(loaded: Loads, address: str) -> None:
    executor, engines = loaded(address), [Engine() for _ in range(8)]

    async def all_of_them() -> list[dict[str, Any]]:
        calls = [executor.execute("Go.", None, params(), MAX_LENGTH, None, engine) for engine in engines]
        made: list[dict[str, Any]] = await asyncio.gather(*calls)
        return made

    for made, engine in zip(asyncio.run(all_of_them()), engines, strict=True):
        assert np.array_equal(made["observation_tokens"], engine.tiny.rows()[0][0])


def test_with_another_tokenizer_nothing_is_played(loaded: Loads, turned: Any) -> None:
    engine = Engine()
    with (
        serve(Settings(listen=("127.0.0.1:0",)), task=Echo) as server,
        pytest.raises(ValueError, match="start the server with the model's own tokenizer"),
    ):
        executed(loaded(server.target), engine, tokenizer=turned)
    assert not engine.asked


class Asked(Echo):
    """Says the label."""

    def open(self, episode: TaskEpisode) -> Opening:
        return Opening(messages=[{"role": "user", "content": f"label {episode.metadata['label']}"}])


@pytest.mark.parametrize("label", ["{1, 2}", "17", "[1]"])
def test_a_label_that_holds_no_options_is_for_the_task_to_see(loaded: Loads, label: str) -> None:
    with serve(Settings(listen=("127.0.0.1:0",)), task=Asked) as server:
        made = executed(loaded(server.target), Engine(), label)
    assert f"label {label}".encode() in bytes(token for token in made["observation_tokens"] if token < 256)
