"""The environments in tinker-cookbook's own rollouts, and its data for the trainer; the policy is a tiny engine."""

from __future__ import annotations

import asyncio
import pickle
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tinker_cookbook.rl.types", reason="tinker-cookbook is not installed")

from tinker_cookbook.completers import TokenCompleter, TokensWithLogprobs
from tinker_cookbook.rl.data_processing import trajectory_to_data
from tinker_cookbook.rl.rollout_strategy import RetryOnFailure
from tinker_cookbook.rl.rollouts import do_group_rollout

from chatenv_client import AsyncChatEnv
from chatenv_client.trainers.rollouts import Server
from chatenv_client.trainers.tinker import ChatEnvDatasetBuilder, ChatEnvGroupBuilder
from chatenv_server import Settings, serve
from tests.trainers.engines import THOUGHT, TinyEngine
from tests.trainers.pages import block_of
from tests.trainers.tasks import Echo


class Policy(TokenCompleter):
    """Samples with a tiny engine."""

    def __init__(self, thought: str = "") -> None:
        self.tiny = TinyEngine(thought=thought)

    async def __call__(self, model_input: Any, stop: Any, *, max_tokens: int | None = None) -> Any:
        made = self.tiny.generate(model_input.to_ints(), max_tokens, stop)
        return TokensWithLogprobs(made.tokens, made.logprobs, "stop" if made.stopped else "length")


def rolled_out(address: str, policy: Any, size: int = 1, strategy: Any = None, **options: Any) -> Any:
    builder = pickle.loads(pickle.dumps(ChatEnvGroupBuilder(Server(address), options, size)))
    return asyncio.run(do_group_rollout(builder, policy, strategy))


def test_the_datum_has_the_ids_mask_and_logprobs_of_the_engine(address: str) -> None:
    policy = Policy()
    group = rolled_out(address, policy, seed=3, task_args={"turns": 3})
    (trajectory,) = group.trajectories_G
    (datum,) = trajectory_to_data(trajectory, 1.0)
    ((ids, mask, logprobs),) = policy.tiny.rows()
    assert datum.model_input.to_ints() == ids[:-1].tolist()
    given = {name: data.to_numpy() for name, data in datum.loss_fn_inputs.items()}
    assert given["target_tokens"].tolist() == ids[1:].tolist()
    assert given["mask"].tolist() == mask[1:].tolist()
    assert np.array_equal(given["logprobs"].astype(np.float32), logprobs[1:])


def test_rewards_are_those_of_the_turns_and_the_end_has_its_reason(address: str) -> None:
    (trajectory,) = rolled_out(address, Policy(), task_args={"turns": 3}).trajectories_G
    assert [step.reward for step in trajectory.transitions] == [
        step.metrics["reward/length"] for step in trajectory.transitions
    ]
    assert trajectory.stop_reason == "completed"


@pytest.mark.parametrize(("limit", "reason"), [({"max_turns": 2}, "max_turns"), ({"max_tokens": 90}, "max_tokens")])
def test_an_episode_that_a_limit_cuts_off_says_which(address: str, limit: dict[str, int], reason: str) -> None:
    (trajectory,) = rolled_out(address, Policy(), task_args={"turns": 99}, **limit).trajectories_G
    assert trajectory.stop_reason == reason


def test_a_history_that_changes_makes_several_data(forgetful: str) -> None:
    policy = Policy(THOUGHT)
    group = rolled_out(forgetful, policy, history_policy="segment", task_args={"turns": 3})
    data = trajectory_to_data(group.trajectories_G[0], 1.0)
    rows = policy.tiny.rows()
    assert [datum.model_input.to_ints() for datum in data] == [ids[:-1].tolist() for ids, _, _ in rows]
    assert [datum.loss_fn_inputs["mask"].to_numpy().tolist() for datum in data] == [
        mask[1:].tolist() for _, mask, _ in rows
    ]


def test_an_episode_that_breaks_is_tinkers_rollout_error(flaky: str) -> None:
    group = rolled_out(flaky, Policy(), 2, RetryOnFailure(max_retries=3))
    assert {error.error_type for error in group.rollout_errors} == {"EpisodeFailedError"}
    assert len(group.trajectories_G) == 2
    assert all(reward > 0 for reward in group.get_total_rewards())


@pytest.mark.parametrize("breaks_at", [-1, 0, 1])
def test_what_the_task_raises_is_raised(address: str, breaks_at: int) -> None:
    with pytest.raises(Exception, match="task"):
        rolled_out(address, Policy(), task_args={"breaks_at": breaks_at})


def test_an_episode_that_nobody_rewards_is_raised_unless_the_group_is_scored(bare_address: str) -> None:
    options: dict[str, Any] = {"messages": [{"role": "user", "content": "2 + 2?"}]}
    with pytest.raises(RuntimeError, match="nobody rewarded episode"):
        rolled_out(bare_address, Policy(), **options)
    group = asyncio.run(do_group_rollout(Scored(Server(bare_address), options, 2), Policy()))
    assert group.get_total_rewards() == [1.0, 1.0]


class Scored(ChatEnvGroupBuilder):
    """A group that rewards its members itself."""

    async def compute_group_rewards(self, trajectory_group: Any, env_group: Any) -> Any:  # noqa: ARG002
        return [(1.0, {}) for _ in trajectory_group]


def test_no_episode_is_left_and_a_group_has_one_name(address: str) -> None:
    groups: list[str] = []

    class Looks(Policy):
        async def __call__(self, *arguments: Any, **options: Any) -> Any:
            async with AsyncChatEnv(address) as env:
                groups.extend([each.episode_id async for each in env.episodes("looked-at")])
            return await super().__call__(*arguments, **options)

    rolled_out(address, Looks(), episode_id="looked-at", task_args={"turns": 1})
    assert groups == ["looked-at"]

    async def left() -> list[str]:
        async with AsyncChatEnv(address) as env:
            return [each.episode_id async for each in env.episodes("looked-at")]

    assert asyncio.run(left()) == []


def test_the_data_set_of_the_page_has_groups_that_play(address: str) -> None:
    names: dict[str, Any] = {}
    exec(block_of("tinker", "python", address), names)
    dataset, _ = asyncio.run(names["dataset_builder"]())
    assert len(dataset) == 50
    assert len(asyncio.run(do_group_rollout(dataset.get_batch(0)[0], Policy())).trajectories_G) == 4


def test_the_data_set_has_the_rows_of_the_server_or_seeds() -> None:
    with serve(Settings(listen=("127.0.0.1:0",)), task=Echo, rows=[{"id": str(n)} for n in range(5)]) as server:
        dataset, _ = asyncio.run(ChatEnvDatasetBuilder(target=server.target, batch_size=2, group_size=3)())
        assert len(dataset) == 2
        assert [builder.options for builder in dataset.get_batch(1)] == [{"row": 2}, {"row": 3}]
        group = asyncio.run(do_group_rollout(dataset.get_batch(1)[0], Policy()))
        assert len(group.trajectories_G) == 3
        seeded, _ = asyncio.run(ChatEnvDatasetBuilder(target=server.target, batch_size=2, group_size=3, seeds=4)())
        assert [builder.options for builder in seeded.get_batch(1)] == [{"seed": 2}, {"seed": 3}]
        with pytest.raises(ValueError, match="5 groups are no batch of 6"):
            asyncio.run(ChatEnvDatasetBuilder(target=server.target, batch_size=6, group_size=3)())
