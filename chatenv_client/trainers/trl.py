"""TRL's GRPOTrainer by its `rollout_func`: a batch of episodes is played side by side with the trainer's own model.

    from chatenv_client.trainers.trl import episode_reward, rollout_func

    trainer = GRPOTrainer(..., rollout_func=rollout_func("localhost:50051"), reward_funcs=episode_reward)

How a turn is sampled is `trl_sampling.py`'s, what is checked at the start `trl_checks.py`'s.
docs/trainers/trl.md says what becomes of prompts, seeds and failures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from accelerate.logging import get_logger

from chatenv_client.client import ChatEnv
from chatenv_client.models import ResetOptions, Trajectory
from chatenv_client.trainers.checking import check_row
from chatenv_client.trainers.playing import play_side_by_side
from chatenv_client.trainers.trl_checks import FirstUpdate, check_trainer
from chatenv_client.trainers.trl_sampling import Turns

if TYPE_CHECKING:
    from typing_extensions import Unpack

_LOG = get_logger(__name__)

Row = dict[str, Any]
"""What TRL takes of one episode, by the names of its lists."""


def rollout_func(target: str | Callable[[], ChatEnv], **options: Unpack[ResetOptions]) -> RolloutFunc:
    """The `rollout_func` of a GRPOTrainer.

    Args:
        target: address of a server; or a function that opens a client.
        **options: of the reset of every episode, such as `task` and `max_turns`. A prompt may say otherwise.
    """
    return RolloutFunc(partial(ChatEnv, target) if isinstance(target, str) else target, options)


def episode_reward(
    episode_rewards: Sequence[Mapping[str, float]],
    episode_reward: Sequence[float | None],
    log_metric: Callable[[str, float], None] | None = None,
    **_: Any,
) -> list[float | None]:
    """The reward function for `reward_funcs`: what each episode earned. None: it failed, or nobody has rewarded it.

    The components of the rewards are logged as `episode/NAME`.
    """
    for rewards in episode_rewards if log_metric else ():
        for name, value in rewards.items():
            log_metric(f"episode/{name}", value)  # type: ignore[misc]
    return list(episode_reward)


def options_of(prompt: Any, shared: ResetOptions, seed: int, group: str) -> ResetOptions:
    """The reset that a prompt stands for: a mapping of options, the opening messages, or the text of a user's message.

    Raises:
        TypeError: it is none of these.
    """
    own: dict[str, Any] = {"seed": seed, "group": group, **shared}
    if isinstance(prompt, Mapping):  # datasets fill up with None what only other rows have
        own |= {name: value for name, value in prompt.items() if value is not None}
    elif isinstance(prompt, str):
        own["messages"] = [{"role": "user", "content": prompt}]
    elif isinstance(prompt, list):
        own["messages"] = prompt
    else:
        raise TypeError(f"a prompt is a mapping of reset's options, a list of messages or a text, not {prompt!r:.99}")
    return own  # type: ignore[return-value]


class RolloutFunc:
    """Plays one episode for each prompt that TRL hands over."""

    def __init__(self, connect: Callable[[], ChatEnv], options: ResetOptions) -> None:
        self._connect = connect
        self._options = options
        self._calls = 0

    def __call__(self, prompts: list[Any], trainer: Any) -> dict[str, list[Any]]:
        """One row for each prompt, in order, as TRL takes them."""
        options = self._resets(prompts, trainer)
        with ExitStack() as stack:
            envs = [stack.enter_context(self._connect()) for _ in prompts]
            if not self._calls:
                check_trainer(trainer, envs[0])
                self._first_update = FirstUpdate(trainer)
                trainer.add_callback(self._first_update)
            turns = Turns(trainer)
            trajectories = play_side_by_side(envs, turns.sample, options)
            turns.finish()
        _warn_of_failures(trajectories)
        rows = [_row_of(trajectory, trainer.eos_token_ids[0]) for trajectory in trajectories]
        if trainer.model.training and not self._first_update.is_over:
            self._first_update.expect(rows)
        self._calls += 1
        return {name: [row[name] for row in rows] for name in rows[0]}

    def _resets(self, prompts: list[Any], trainer: Any) -> list[ResetOptions]:
        """Those of a group have a seed of their own: else each member would have another problem to solve."""
        size = trainer.num_generations if trainer.model.training else trainer.num_generations_eval
        first = trainer.accelerator.process_index * len(prompts)
        origin = (trainer.args.seed, trainer.state.global_step, self._calls)
        resets = []
        for index, prompt in enumerate(prompts, first):
            seeds = np.random.SeedSequence([*origin, index // size])
            name = "-".join(map(str, (*origin, index // size)))
            resets.append(options_of(prompt, self._options, int(seeds.generate_state(1)[0]), f"trl-{name}"))
        return resets


def _warn_of_failures(trajectories: Sequence[Trajectory]) -> None:
    """TRL goes on without what failed, for as long as a server is gone: a person has to be told."""
    if failures := [each.failure for each in trajectories if each.failure is not None]:
        _LOG.warning(f"{len(failures)} of {len(trajectories)} episodes failed; the first, {': '.join(failures[0])}")


def _row_of(trajectory: Trajectory, filler: int) -> Row:
    """An episode as TRL takes it. One that failed, or of which nothing was sampled, is a row that trains nothing."""
    samples = trajectory.samples()
    if len(samples) > 1:
        raise ValueError(
            f"the history of episode {trajectory.episode_id!r} changed, so it has {len(samples)} rows to train on, and "
            "rollout_func can return one; keep history_policy='append', or use chatenv_client.trainers.trl_async"
        )
    facts = {
        "episode_id": trajectory.episode_id,
        "episode_reward": trajectory.reward,
        "episode_rewards": {} if trajectory.failure else trajectory.rewards,
        "episode_failure": None if trajectory.failure is None else ": ".join(trajectory.failure),
        "episode_messages": list(trajectory.messages),
    }
    if trajectory.failure is not None or not samples:
        return {"prompt_ids": [filler], "completion_ids": [filler], "env_mask": [0], "logprobs": [0.0], **facts}
    split = samples[0].split()
    row = {
        "prompt_ids": split.prompt_ids.tolist(),
        "completion_ids": split.response_ids.tolist(),
        "env_mask": split.response_mask.astype(int).tolist(),
        "logprobs": split.response_logprobs.tolist(),
    }
    check_row(
        samples[0],
        prompt_ids=row["prompt_ids"],
        response_ids=row["completion_ids"],
        response_mask=row["env_mask"],
        response_logprobs=row["logprobs"],
    )
    return row | facts
