"""TRL's GRPOTrainer, for real: a small model on the CPU, a server, and what reaches the loss."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("trl", reason="TRL is not installed: make test-trainers")

import torch
from datasets import Dataset
from trainers import trl_grpo
from trl import GRPOConfig, GRPOTrainer

from chatenv_client import ChatEnv, ResetOptions, Trajectory
from chatenv_client.trainers.trl import RolloutFunc, episode_reward, options_of, rollout_func
from chatenv_server import Answer, ModelTurn, Settings, Task, serve
from tests.trainers.page import run_block
from tests.trainers.tasks import Echo, said
from tests.trainers.tiny_model import tiny_model, tiny_tokenizer

torch.set_num_threads(1)  # a model of this size takes longer with more
GROUP = 4
Served = Callable[[type[Task]], str]
Train = Callable[..., "Recording"]


class Recording(GRPOTrainer):
    """Keeps what its loss is computed from, and what comes of it."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.inputs: list[dict[str, Any]] = []
        self.losses: list[torch.Tensor] = []
        self.own_logprobs: list[torch.Tensor] = []

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **more: Any) -> Any:
        """As it is."""
        stream = [torch.cat([inputs[f"prompt_{what}"], inputs[f"completion_{what}"]], 1) for what in ("ids", "mask")]
        with torch.no_grad():
            own, *_ = self._get_per_token_logps_and_entropies(model, *stream, inputs["completion_ids"].shape[1])
        loss = super().compute_loss(model, inputs, *args, **more)
        self.inputs.append(dict(inputs))
        self.losses.append(loss.detach())
        self.own_logprobs.append(own)
        return loss


class Keeping(ChatEnv):
    """Keeps the trajectory of each episode that it ends."""

    kept: list[Trajectory]

    def close(self, **more: Any) -> None:
        """As it is."""
        if self.episode_id is not None and not self._connection.is_closed:
            self.kept.append(self.trajectory())
        super().close(**more)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def served() -> Iterator[Served]:
    """Serves a task; the address."""
    servers: list[Any] = []

    def served(task: type[Task]) -> str:
        servers.append(serve(Settings(listen=("127.0.0.1:0",)), task=task))
        return str(servers[-1].target)

    yield served
    for server in servers:
        server.stop()


@pytest.fixture
def train(tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Train:
    """Trains; the trainer."""
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    monkeypatch.chdir(tmp_path)

    def train(
        rollouts: Any, prompts: Sequence[Any], *, kind: type[Recording] = Recording, **settings: Any
    ) -> Recording:
        parts = {"reward_funcs": episode_reward, **settings.pop("parts", {})}
        args: dict[str, Any] = {
            "per_device_train_batch_size": 2 * GROUP,
            "num_generations": GROUP,
            "max_completion_length": 6,
            "max_steps": 1,
            "learning_rate": 1e-3,
            "bf16": False,
            "logging_steps": 1,
            "report_to": [],
            "use_cpu": True,
            "save_strategy": "no",
            "disable_tqdm": True,
            **settings,
        }
        trainer = kind(
            model=parts.pop("model", None) or tiny_model(tokenizer),
            args=GRPOConfig(output_dir=str(tmp_path), **args),
            train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in prompts]),
            processing_class=tokenizer,
            rollout_func=rollouts,
            **parts,
        )
        trainer.train()
        return trainer

    return train


def keeping(address: str, **options: Any) -> tuple[RolloutFunc, list[Trajectory]]:
    """A rollout function, and the trajectories of its episodes as the server has them."""
    kept: list[Trajectory] = []

    def connect() -> ChatEnv:
        env = Keeping(address)
        env.kept = kept
        return env

    return rollout_func(connect, **options), kept


def rows_of(trainer: Recording) -> Iterator[tuple[list[int], list[int], list[bool], list[float], float]]:
    """(prompt, completion, mask, logprobs, advantage) of each row that reached the loss."""
    for inputs in trainer.inputs:
        names = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "tool_mask")
        for row in zip(*(inputs[name] for name in (*names, "sampling_per_token_logps", "advantages")), strict=True):
            prompt, has_prompt, completion, has_completion, mask, logprobs, advantage = row
            held = has_completion.bool()
            yield (
                prompt[has_prompt.bool()].tolist(),
                completion[held].tolist(),
                mask[held].bool().tolist(),
                logprobs[held].tolist(),
                float(advantage),
            )


def test_what_reaches_the_loss_is_what_chatenv_has_bit_for_bit(train: Train, address: str) -> None:
    rollouts, kept = keeping(address, task_args={"turns": 3})
    trainer = train(rollouts, [{"seed": 1}, {"seed": 2}], max_steps=2, steps_per_generation=1)
    assert len(kept) == 2 * 2 * GROUP
    own = {}
    for trajectory in kept:
        assert trajectory.terminated
        split = trajectory.split()
        assert split.response_mask.sum() < len(split.response_mask)
        own[tuple(split.prompt_ids.tolist() + split.response_ids.tolist())] = split
    reached = list(rows_of(trainer))
    assert len(reached) == len(own) == len(kept)
    for prompt, completion, mask, logprobs, _ in reached:
        split = own[tuple(prompt + completion)]
        assert prompt == split.prompt_ids.tolist()
        assert mask == split.response_mask.tolist()
        assert np.array_equal(np.asarray(logprobs, dtype=np.float32), split.response_logprobs)


def test_the_logprobs_of_the_sampler_are_those_of_the_trainer(train: Train, address: str) -> None:
    trainer = train(rollout_func(address), [{"seed": 1}, {"seed": 2}], temperature=0.7)
    (inputs,), (own,) = trainer.inputs, trainer.own_logprobs
    trained = (inputs["completion_mask"] * inputs["tool_mask"]).bool()
    assert trained.sum() > 50
    assert (inputs["sampling_per_token_logps"] - own)[trained].abs().max() < 1e-4


class Breaking(Echo):
    """Breaks in every third episode, in its second turn."""

    numbers = itertools.count()

    def __init__(self) -> None:
        super().__init__(breaks_at=1 if next(self.numbers) % 3 == 0 else None)

    def answer(self, turn: ModelTurn) -> Answer:
        """Reward what differs between episodes."""
        answer = super().answer(turn)
        return replace(answer, rewards={"first": float(ord(turn.text[0]) if turn.text else 0)})


def test_a_failed_episode_contributes_nothing_to_the_loss(train: Train, served: Served) -> None:
    rollouts, kept = keeping(served(Breaking))
    trainer = train(rollouts, [{"seed": 1}, {"seed": 2}], entropy_coef=0.1, learning_rate=0.0)
    failed = [trajectory for trajectory in kept if trajectory.failure is not None]
    assert 0 < len(failed) < len(kept)
    (inputs,), (loss,) = trainer.inputs, trainer.losses
    trained = inputs["completion_mask"] * inputs["tool_mask"]
    is_example = trained.any(dim=1)
    assert int((~is_example).sum()) == len(failed)
    assert inputs["advantages"][~is_example].eq(0).all()
    assert int(inputs["num_items_in_batch"]) == sum(int(one.loss_mask.sum()) for one in kept if one.failure is None)
    assert abs(float(inputs["advantages"].sum())) < 1e-4  # the mean of a group is that of the others
    assert inputs["advantages"][is_example].ne(0).all()
    alone = {name: value[is_example] if value.ndim else value for name, value in inputs.items()}
    assert torch.isclose(trainer._compute_loss(trainer.model, alone).detach(), loss)


def test_where_every_episode_fails_nothing_changes(
    train: Train, address: str, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = train(rollout_func(address, task_args={"breaks_at": -1}), [{"seed": 1}, {"seed": 2}])
    assert trainer.losses[0] == 0
    before = tiny_model(trainer.processing_class).state_dict()
    assert all(torch.equal(weights, before[name]) for name, weights in trainer.model.state_dict().items())
    assert trainer.state.log_history[0]["reward"] is None
    assert "8 of 8 episodes failed; the first, task: the task raised" in caplog.text


def test_the_reward_of_the_example_rises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    rewards = trl_grpo.train(tmp_path)
    assert len(rewards) == trl_grpo.STEPS
    assert sum(rewards[:3]) / 3 < 0.1
    assert sum(rewards[-3:]) / 3 > 0.5


def test_the_page_trains_as_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokenizer: Any, address: str
) -> None:
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    monkeypatch.chdir(tmp_path)
    tokenizer.save_pretrained(tmp_path / "model")
    tiny_model(tokenizer).save_pretrained(tmp_path / "model")
    names = run_block(0, address, tmp_path / "model")
    assert names["trainer"].state.global_step == 1
    assert names["trainer"].state.log_history


def test_the_episodes_of_a_group_have_one_seed_and_one_name(train: Train, address: str) -> None:
    rollouts, kept = keeping(address, task_args={"turns": 1})
    train(rollouts, [{"max_turns": 3}, {"max_turns": 4}], max_steps=2, steps_per_generation=1)
    groups: dict[str, set[int | None]] = {}
    for trajectory in kept:
        groups.setdefault(trajectory.group, set()).add(trajectory.seed)
    assert len(groups) == 4
    assert all(len(seeds) == 1 for seeds in groups.values())
    assert len(set.union(*groups.values())) == 4


def test_an_evaluation_before_the_first_update_is_no_part_of_the_training(train: Train, address: str) -> None:
    evaluated = {"eval_dataset": Dataset.from_list([{"prompt": {"seed": 9}}])}
    settings = {"eval_strategy": "steps", "eval_on_start": True, "per_device_eval_batch_size": GROUP}
    rollouts, kept = keeping(address)
    trainer = train(rollouts, [{"seed": 1}, {"seed": 2}], parts=evaluated, **settings)
    assert [trajectory.seed for trajectory in kept[:GROUP]] == [9] * GROUP
    assert trainer.state.log_history[0]["eval_reward"] > 0


@pytest.mark.parametrize(
    ("prompt", "options"),
    [
        ({"row": 3, "seed": None, "messages": None}, {"row": 3, "seed": 7}),
        ({"row_id": "a", "seed": 5}, {"row_id": "a", "seed": 5}),
        ({"group": "mine", "max_turns": 1}, {"group": "mine", "max_turns": 1, "seed": 7}),
        ("2 + 2?", {"messages": [{"role": "user", "content": "2 + 2?"}], "seed": 7}),
        ([{"role": "user", "content": "Hi"}], {"messages": [{"role": "user", "content": "Hi"}], "seed": 7}),
    ],
)
def test_a_prompt_is_the_reset_that_it_stands_for(prompt: Any, options: ResetOptions) -> None:
    shared: ResetOptions = {"max_turns": 9}
    assert options_of(prompt, shared, 7, "g") == {"max_turns": 9, "group": "g", **options}


def test_a_prompt_that_is_none_is_refused() -> None:
    with pytest.raises(TypeError, match="a prompt is a mapping"):
        options_of(17, {}, 7, "g")


class Losing(Recording):
    """A trainer that is patched, and loses the mask."""

    def _generate(self, prompts: list[Any]) -> Any:
        prompt_ids, completion_ids, _, *others = super()._generate(prompts)
        return prompt_ids, completion_ids, None, *others


def test_a_trainer_that_loses_the_mask_is_stopped_before_its_first_update(train: Train, address: str) -> None:
    with pytest.raises(RuntimeError, match="other tokens than those that were sampled"):
        train(rollout_func(address), [{"seed": 1}, {"seed": 2}], kind=Losing)


def with_tools(trainer: Any) -> None:
    trainer.tools = [print]


def with_another_tokenizer(trainer: Any) -> None:
    trainer._tokenizer = copy.deepcopy(trainer._tokenizer)
    trainer._tokenizer.convert_ids_to_tokens = lambda token: f"<|{token}|>"


def with_another_end(trainer: Any) -> None:
    trainer.eos_token_ids = [65]


@pytest.mark.parametrize(
    ("change", "what_to_do"),
    [
        (with_tools, "pass no tools"),
        (with_another_tokenizer, "start the server with the model's own tokenizer"),
        (with_another_end, "set the model's generation_config.eos_token_id"),
    ],
)
def test_a_trainer_that_does_not_fit_the_server_is_refused(
    train: Train, address: str, change: Callable[[Any], None], what_to_do: str
) -> None:
    class Changed(Recording):
        def _generate(self, prompts: list[Any]) -> Any:
            change(self)
            return super()._generate(prompts)

    with pytest.raises(ValueError, match=what_to_do):
        train(rollout_func(address), [{"seed": 1}, {"seed": 2}], kind=Changed)


def test_an_episode_with_several_rows_is_refused_with_what_to_do(address: str) -> None:
    from chatenv_client.trainers.trl import _row_of

    with ChatEnv(address) as env:
        env.reset(task_args={"turns": 5}, history_policy="segment")
        env.step(said("ab"))
        env.step([{"role": "user", "content": "Anew."}], replace_from=0)
        env.step(said("cd"))
        with pytest.raises(ValueError, match="trl_async"):
            _row_of(env.trajectory(), 257)
