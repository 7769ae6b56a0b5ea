"""The workflow with AReaL's own classes, its format check and its groups; the engine behind is a tiny one."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("areal.api.workflow_api", reason="AReaL is not installed")

import torch
from areal.api import ModelResponse
from areal.api.cli_args import GenerationHyperparameters
from areal.infra.remote_inf_engine import GroupedRolloutWorkflow
from areal.infra.workflow_executor import check_trajectory_format
from areal.utils.dynamic_import import import_from_string

from chatenv_client.trainers.areal import ChatEnvWorkflow
from chatenv_server import Settings, serve
from tests.trainers.engines import THOUGHT, TinyEngine
from tests.trainers.pages import block_of
from tests.trainers.tasks import Echo


class Engine:
    """Answers as AReaL's inference engine does. Its weights are renewed in the middle of each turn."""

    def __init__(self, thought: str = "", stop_reason: str = "") -> None:
        self.tiny = TinyEngine(thought=thought)
        self.stop_reason = stop_reason
        self.asked: list[Any] = []
        self.versions: list[list[int]] = []

    async def agenerate(self, request: Any) -> Any:
        asked = request.gconfig
        self.asked.append(request)
        assert asked.n_samples == 1
        made = self.tiny.generate(request.input_ids, asked.max_new_tokens, asked.stop_token_ids)
        step = len(self.asked)
        versions = [step + (index >= len(made.tokens) // 2) for index in range(len(made.tokens))]
        self.versions.append(versions)
        return ModelResponse(
            input_tokens=request.input_ids,
            output_tokens=made.tokens,
            output_logprobs=made.logprobs,
            output_versions=versions,
            stop_reason=self.stop_reason or ("stop" if made.stopped else "length"),
        )


def workflow(address: str, **own: Any) -> Any:
    gconfig = GenerationHyperparameters(max_new_tokens=own.pop("max_new_tokens", 64), max_tokens=400)
    return ChatEnvWorkflow(address, gconfig, **own)


def rolled_out(made: Any, engine: Engine, **options: Any) -> Any:
    data = {"messages": [{"role": "user", "content": "Go."}], "chatenv": options}
    return asyncio.run(made.arun_episode(engine, data))


def test_the_tensors_are_the_engines_and_of_the_form_that_areal_checks(address: str) -> None:
    engine = Engine()
    made = rolled_out(workflow(address), engine, seed=3, task_args={"turns": 3})
    assert check_trajectory_format(made, batch_size=1, expected_keys=set(made))
    ((ids, mask, logprobs),) = engine.tiny.rows()
    assert made["input_ids"][0].tolist() == ids.tolist()
    assert made["loss_mask"][0].tolist() == mask.tolist()
    assert made["logprobs"][0].numpy().tobytes() == logprobs.tobytes()
    assert made["attention_mask"].all()
    assert {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in made.items()} == {
        "input_ids": (torch.int32, (1, len(ids))),
        "attention_mask": (torch.bool, (1, len(ids))),
        "loss_mask": (torch.int32, (1, len(ids))),
        "logprobs": (torch.float32, (1, len(ids))),
        "versions": (torch.int32, (1, len(ids))),
        "rewards": (torch.float32, (1,)),
    }


def test_the_workflow_of_the_page_plays_an_episode(address: str) -> None:
    names: dict[str, Any] = {"config": SimpleNamespace(gconfig=GenerationHyperparameters(max_tokens=400))}
    exec(block_of("areal", "python", address), names)
    made = import_from_string(names["workflow"])(**names["workflow_kwargs"])
    assert rolled_out(made, Engine())["rewards"][0] > 0


def test_each_token_has_the_version_of_the_weights_that_sampled_it(address: str) -> None:
    engine = Engine()
    made = rolled_out(workflow(address), engine)
    versions = made["versions"][0]
    assert versions[made["loss_mask"][0].bool()].tolist() == [each for turn in engine.versions for each in turn]
    assert set(versions[~made["loss_mask"][0].bool()].tolist()) == {-1}


def test_a_broken_episode_is_none_and_its_siblings_are_trained_on(flaky: str) -> None:
    engine = Engine()
    group = GroupedRolloutWorkflow(workflow(flaky), 4, logging.getLogger("areal"))
    made = rolled_out(group, engine)
    assert check_trajectory_format(made, batch_size=2)
    assert made["rewards"].shape == (2,)


@pytest.mark.parametrize("breaks_at", [-1, 0, 1])
def test_where_the_task_raises_nothing_is_trained_on(address: str, breaks_at: int) -> None:
    assert rolled_out(workflow(address), Engine(), task_args={"breaks_at": breaks_at}) is None


def test_an_episode_that_nobody_rewarded_is_none(bare_address: str) -> None:
    assert rolled_out(workflow(bare_address), Engine()) is None


def test_what_the_engine_gives_up_is_none(address: str) -> None:
    assert rolled_out(workflow(address), Engine(stop_reason="abort")) is None


def test_several_rows_are_several_of_the_tensors(forgetful: str) -> None:
    engine = Engine(THOUGHT)
    made = rolled_out(workflow(forgetful, options={"history_policy": "segment"}), engine, task_args={"turns": 3})
    assert check_trajectory_format(made, batch_size=3)
    for index, (ids, mask, logprobs) in enumerate(engine.tiny.rows()):
        is_token = made["attention_mask"][index].bool()
        assert made["input_ids"][index][is_token].tolist() == ids.tolist()
        assert made["loss_mask"][index][is_token].tolist() == mask.tolist()
        assert made["logprobs"][index][is_token].numpy().tobytes() == logprobs.tobytes()
    assert len(set(made["rewards"].tolist())) == 1


def test_turns_and_episodes_are_no_longer_than_the_parameters_say(address: str) -> None:
    engine = Engine()
    made = rolled_out(workflow(address, max_new_tokens=5), engine, task_args={"turns": 99}, max_tokens=120)
    assert all(request.gconfig.max_new_tokens <= 5 for request in engine.asked)
    assert made["input_ids"].shape[1] <= 120
    assert all(257 in request.gconfig.stop_token_ids for request in engine.asked)


def test_with_another_tokenizer_nothing_is_played(turned: Any) -> None:
    engine = Engine()
    with (
        serve(Settings(listen=("127.0.0.1:0",)), task=Echo) as server,
        pytest.raises(ValueError, match="start the server with the model's own tokenizer"),
    ):
        rolled_out(workflow(server.target, tokenizer=turned), engine)
    assert not engine.asked
