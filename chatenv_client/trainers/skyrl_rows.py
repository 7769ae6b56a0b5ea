"""Episodes as the rows that SkyRL trains on. What a batch of them is to SkyRL, `skyrl.py` knows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from chatenv_client.models import Origin, Sample, StopReason, Trajectory
from chatenv_client.trainers.checking import check_row

_NOTHING: Final = [0]
"""Stands for the ids of an episode that has none; its mask is 0."""


class Row(NamedTuple):
    """A row as SkyRL takes it."""

    prompt_ids: list[int]
    response_ids: list[int]
    loss_mask: list[int]
    rewards: list[float]
    logprobs: list[float] | None
    stop_reason: str
    is_last: bool


def rows_of(trajectory: Trajectory, *, is_step_wise: bool) -> list[Row]:
    """The rows of an episode, the last of them flagged; of one without a sampled token a row that trains nothing."""
    samples = trajectory.samples()
    if not samples or trajectory.reward is None:
        if trajectory.failure is None:
            raise RuntimeError(
                f"episode {trajectory.episode_id} has no reward, which is no reward of 0; have its task or a transform "
                "reward a turn"
            )
        prompt = trajectory.segments[-1].tokens.tolist() or _NOTHING
        return [Row(prompt, _NOTHING, [0], [0.0], [0.0], "error", True)]
    if len(samples) > 1 and not is_step_wise:
        raise RuntimeError(
            f"the history of episode {trajectory.episode_id} changed, so it has {len(samples)} rows; set "
            "generator.step_wise_trajectories, or the history policy append"
        )
    return [_row_of(one, trajectory, is_step_wise=is_step_wise, is_last=one is samples[-1]) for one in samples]


def _row_of(sample: Sample, trajectory: Trajectory, *, is_step_wise: bool, is_last: bool) -> Row:
    split = sample.split()
    rewards = split.response_rewards
    if is_step_wise or rewards is None:  # SkyRL takes the reward of an episode from its last row
        rewards = np.zeros(len(split.response_ids))
        rewards[-1] = trajectory.reward if is_last else 0.0
    logprobs = split.response_logprobs
    row = Row(
        split.prompt_ids.tolist(),
        split.response_ids.tolist(),
        split.response_mask.astype(int).tolist(),
        rewards.tolist(),
        logprobs.tolist() if np.isfinite(logprobs).all() else None,
        _stop_reason(sample, trajectory),
        is_last,
    )
    check_row(
        sample,
        prompt_ids=row.prompt_ids,
        response_ids=row.response_ids,
        response_mask=row.loss_mask,
        response_logprobs=row.logprobs,
    )
    return row


def _stop_reason(sample: Sample, trajectory: Trajectory) -> str:
    """Why the sampler stopped last in a row, in SkyRL's words."""
    turns = [turn for turn in trajectory.segments[sample.segment].turns if turn.origin is Origin.SAMPLED]
    return "stop" if turns[-1].stop_reason in (None, StopReason.STOP) else "length"


def metrics_of(trajectories: Sequence[Trajectory], rows: Sequence[Row]) -> dict[str, float]:
    """Numbers of the batch; components of rewards by name, of episodes that did not fail."""
    whole = [one for one in trajectories if one.failure is None]
    by_name: dict[str, list[float]] = {}
    for trajectory in whole:
        for name, value in trajectory.rewards.items():
            by_name.setdefault(name, []).append(value)
    return {
        "generate/avg_num_tokens": float(np.mean([len(row.response_ids) for row in rows])),
        "chatenv/failed_episodes": float(len(trajectories) - len(whole)),
        "chatenv/inexact_episodes": float(sum(bool(one.fidelity) for one in whole)),
        **{f"chatenv/reward/{name}": float(np.mean(values)) for name, values in by_name.items()},
    }
