"""The agent loop in verl's own workers: the engine behind them is a tiny one, and so is the queue to the trainer."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("verl.experimental.agent_loop.agent_loop", reason="verl is not installed")

import hydra
from verl.experimental.agent_loop.agent_loop import AgentLoopWorker

from chatenv_client import AsyncChatEnv
from chatenv_server import Settings, serve
from tests.trainers.engines import THOUGHT, TinyEngine
from tests.trainers.pages import block_of
from tests.trainers.tasks import Echo

MODEL = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "vocab_size": 259}
PROMPT_LENGTH, RESPONSE_LENGTH = 64, 256


class Client:
    """Answers as verl's LLMServerClient does, with the tiny engine's samples."""

    def __init__(
        self, *, aborts: bool = False, logprobs: bool = True, experts: bool = False, thought: str = ""
    ) -> None:
        self.engine = TinyEngine(thought=thought)
        self.aborts, self.logprobs, self.experts = aborts, logprobs, experts
        self.asked: list[dict[str, Any]] = []

    async def generate(self, request_id: str, *, prompt_ids: list[int], sampling_params: dict[str, Any]) -> Any:
        from verl.workers.rollout.replica import TokenOutput

        self.asked.append({"request_id": request_id, **sampling_params})
        made = self.engine.generate(prompt_ids, sampling_params["max_tokens"], sampling_params["stop_token_ids"])
        step = 7 + len(self.asked)
        length = len(prompt_ids) + len(made.tokens)
        return TokenOutput(
            token_ids=made.tokens,
            log_probs=made.logprobs if self.logprobs else None,
            stop_reason="aborted" if self.aborts else "completed",
            routed_experts=np.arange(length * 2).reshape(length, 1, 2) if self.experts else None,
            extra_fields={"global_steps": step, "min_global_steps": step, "max_global_steps": step},
        )


@pytest.fixture(scope="module")
def config(embedded: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    model = tmp_path_factory.mktemp("model") / "tiny"
    shutil.copytree(embedded, model)
    model.joinpath("config.json").write_text(json.dumps(MODEL), encoding="utf-8")
    with hydra.initialize_config_module("verl.trainer.config", version_base=None):
        made = hydra.compose("ppo_trainer")
    rollout = made.actor_rollout_ref.rollout
    rollout.prompt_length, rollout.response_length = PROMPT_LENGTH, RESPONSE_LENGTH
    rollout.name, rollout.calculate_log_probs, rollout.n = "vllm", True, 2
    made.actor_rollout_ref.model.path = str(model)
    return made


def worker(config: Any, tmp_path: Path, address: str, client: Client, kind: Any = None, **own: Any) -> Any:
    """One of verl's workers, whose YAML names the adapter."""
    loops = tmp_path / "loops.yaml"
    more = "".join(f"  {name}: {json.dumps(value)}\n" for name, value in own.items())
    loops.write_text(block_of("verl", "yaml", address) + more, encoding="utf-8")
    made = config.copy()
    made.actor_rollout_ref.rollout.agent.agent_loop_config_path = str(loops)
    made.actor_rollout_ref.rollout.agent.default_agent_loop = "chatenv"
    own_worker = AgentLoopWorker.__new__(kind or AgentLoopWorker)
    AgentLoopWorker.__init__(own_worker, made, client)
    return own_worker


def batch_of(rows: list[dict[str, Any]]) -> Any:
    from verl.protocol import DataProto

    columns = {name: np.empty(len(rows), dtype=object) for name in rows[0]}
    for name, column in columns.items():
        column[:] = [row[name] for row in rows]
    return DataProto.from_dict(non_tensors=columns, meta_info={"global_steps": 7})


def generated(config: Any, tmp_path: Path, address: str, client: Client, rows: list[dict[str, Any]], **own: Any) -> Any:
    async def generate() -> Any:
        return await worker(config, tmp_path, address, client, **own).generate_sequences(batch_of(rows))

    return asyncio.run(generate())


def row(**options: Any) -> dict[str, Any]:
    return {"raw_prompt": [{"role": "user", "content": "Go."}], "uid": "prompt 3", "chatenv": options}


def test_ids_mask_and_logprobs_in_verls_batch_are_the_engines(config: Any, tmp_path: Path, address: str) -> None:
    client = Client()
    made = generated(config, tmp_path, address, client, [row(seed=3, task_args={"turns": 3})])
    ((ids, mask, logprobs),) = client.engine.rows()
    (first,) = {int(mask.argmax())}
    is_token = made.batch["attention_mask"][0].bool()
    assert made.batch["input_ids"][0][is_token].tolist() == ids.tolist()
    assert is_token[PROMPT_LENGTH:].sum() == len(ids) - first
    response = slice(0, len(ids) - first)
    assert made.batch["response_mask"][0][response].tolist() == mask[first:].tolist()
    assert made.batch["rollout_log_probs"][0][response].numpy().tobytes() == logprobs[first:].tobytes()
    assert made.batch["response_mask"][0].sum() == mask.sum()
    assert len(client.asked) == 3


def test_the_reward_is_on_the_last_sampled_token(config: Any, tmp_path: Path, address: str) -> None:
    made = generated(config, tmp_path, address, Client(), [row(seed=3)])
    rewarded = made.batch["rm_scores"][0].nonzero().flatten().tolist()
    assert rewarded == [int(made.batch["response_mask"][0].nonzero().max())]
    assert made.batch["rm_scores"][0].sum() == made.non_tensor_batch["chatenv_rewards"][0]["length"]


def test_one_episode_stays_at_one_engine_and_stops_at_the_servers_ids(
    config: Any, tmp_path: Path, address: str
) -> None:
    client = Client()
    made = generated(config, tmp_path, address, client, [row()])
    assert {asked["request_id"] for asked in client.asked} == {made.non_tensor_batch["chatenv_episode"][0]}
    assert all({257, 258} <= set(asked["stop_token_ids"]) for asked in client.asked)


def test_the_versions_of_the_weights_are_those_of_the_first_and_the_last_turn(
    config: Any, tmp_path: Path, address: str
) -> None:
    made = generated(config, tmp_path, address, Client(), [row()])
    assert [made.non_tensor_batch[f"{which}_global_steps"][0] for which in ("min", "max")] == [8, 9]


def test_a_response_ends_where_verl_has_no_room_for_more(config: Any, tmp_path: Path, address: str) -> None:
    client = Client()
    made = generated(config, tmp_path, address, client, [row(task_args={"turns": 99})])
    assert made.batch["attention_mask"][0][PROMPT_LENGTH:].sum() <= RESPONSE_LENGTH
    ((_, mask, _),) = client.engine.rows()
    assert made.batch["response_mask"].sum() == mask.sum()
    assert made.batch["rm_scores"][0].sum() > 0


def test_where_the_engine_gives_no_logprobs_verl_gets_none(config: Any, tmp_path: Path, address: str) -> None:
    made = generated(config, tmp_path, address, Client(logprobs=False), [row(), row()])
    assert "rollout_log_probs" not in set(made.batch.keys())


def test_routed_experts_are_those_of_the_last_request(config: Any, tmp_path: Path, address: str) -> None:
    made = generated(config, tmp_path, address, Client(experts=True), [row()])
    is_token = made.batch["attention_mask"][0].bool()
    assert made.batch["routed_experts"][0][is_token].flatten().tolist() == list(range(2 * int(is_token.sum())))


def test_an_episode_that_breaks_is_played_again_and_no_batch_has_a_reward_for_it(
    config: Any, tmp_path: Path, address: str
) -> None:
    client = Client()
    with pytest.raises(RuntimeError, match="2 episodes were tried"):
        generated(config, tmp_path, address, client, [row(task_args={"breaks_at": 1})], attempts=2)
    assert len({asked["request_id"] for asked in client.asked}) == 2


def test_what_the_engine_has_aborted_is_dropped(config: Any, tmp_path: Path, address: str) -> None:
    with pytest.raises(RuntimeError, match="verl drops what it has aborted"):
        generated(config, tmp_path, address, Client(aborts=True), [row()])


def test_a_prompt_that_is_too_long_is_told_and_not_cut(config: Any, tmp_path: Path, bare_address: str) -> None:
    long = {**row(), "raw_prompt": [{"role": "user", "content": "Go on. " * 20}]}
    with pytest.raises(ValueError, match=r"the prompt has \d+ tokens; raise rollout.prompt_length, which is 64"):
        generated(config, tmp_path, bare_address, Client(), [long])


def test_several_rows_are_too_many_for_the_trainer_that_pads(config: Any, tmp_path: Path, forgetful: str) -> None:
    with pytest.raises(ValueError, match="an episode has 3 rows"):
        generated(
            config,
            tmp_path,
            forgetful,
            Client(thought=THOUGHT),
            [row(history_policy="segment", task_args={"turns": 3})],
        )


# With TransferQueue: verl's own worker, and a list in the place of the queue.


def queued(
    config: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    address: str,
    client: Client,
    rows: list[dict[str, Any]],
    **own: Any,
) -> Any:
    workers = pytest.importorskip("verl.trainer.ppo.v1.agent_loop_tq", reason="TransferQueue is not installed")
    queue = SimpleNamespace(status=[], keys=[], fields=[])

    async def put(*, key: str, tag: dict[str, Any], **_: Any) -> None:
        queue.status.append((key, tag["status"]))

    async def put_batch(*, keys: list[str], fields: Any, **_: Any) -> None:
        queue.keys += keys
        queue.fields += [fields[index] for index in range(len(keys))]

    monkeypatch.setattr(workers, "tq", SimpleNamespace(async_kv_put=put, async_kv_batch_put=put_batch))
    kind = workers.AgentLoopWorkerTQ.__ray_metadata__.modified_class

    async def generate() -> None:
        own_worker = worker(config, tmp_path, address, client, kind, **own)
        trajectory = {"step": 7, "sample_index": 0, "rollout_n": 0, "validate": False}
        for each in rows:
            prompt = {**each, "agent_name": "chatenv", "global_steps": 7}
            await own_worker._run_prompt(prompt, {"temperature": 1.0, "logprobs": True}, trajectory)

    asyncio.run(generate())
    return queue


def test_several_rows_of_an_episode_are_several_of_the_queue(
    config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forgetful: str
) -> None:
    config = config.copy()
    config.actor_rollout_ref.rollout.n = 1
    client = Client(thought=THOUGHT)
    asked = row(history_policy="segment", task_args={"turns": 3})
    queue = queued(config, tmp_path, monkeypatch, forgetful, client, [asked])
    assert queue.keys == ["prompt 3_0_0", "prompt 3_0_1", "prompt 3_0_2"]
    rewards = set()
    for fields, (ids, mask, logprobs) in zip(queue.fields, client.engine.rows(), strict=True):
        first = int(mask.argmax())
        assert fields["input_ids"].tolist() == ids.tolist()
        assert fields["loss_mask"].tolist() == mask[first:].tolist()
        assert fields["rollout_log_probs"].numpy().tobytes() == logprobs[first:].tobytes()
        rewards.add(float(fields["rm_scores"].sum()))
    assert len(rewards) == 1


def test_a_broken_episode_is_missing_from_its_group(
    config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flaky: str
) -> None:
    queue = queued(config, tmp_path, monkeypatch, flaky, Client(), [row()], attempts=1)
    assert queue.status == [("prompt 3", "running"), ("prompt 3", "failure")]
    assert len(queue.keys) == 1


def test_the_group_is_verls_prompt(config: Any, tmp_path: Path, address: str) -> None:
    groups: list[str] = []

    class Looks(Client):
        async def generate(self, request_id: str, **asked: Any) -> Any:
            async with AsyncChatEnv(address) as env:
                await env.resume(request_id)
                groups.append((await env.state()).group)
            return await super().generate(request_id, **asked)

    generated(config, tmp_path, address, Looks(), [row()])
    assert set(groups) == {"prompt 3"}


def test_with_another_tokenizer_nothing_is_played(config: Any, tmp_path: Path, turned: Any) -> None:
    turned.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text(json.dumps(MODEL), encoding="utf-8")
    made, client = config.copy(), Client()
    made.actor_rollout_ref.model.path = str(tmp_path / "model")
    with (
        serve(Settings(listen=("127.0.0.1:0",)), task=Echo) as server,
        pytest.raises(ValueError, match="start the server with the model's own tokenizer"),
    ):
        generated(made, tmp_path, server.target, client, [row()])
    assert not client.asked
