"""A trajectory as the calls that sampled it, one turn each: the forms of OpenEnv and of Harbor, as plain values.

Both repeat the prompt for each turn, so a file of them is as long as the square of the number of turns. Neither has a
place for the reward or the failure of an episode: they are told beside each turn, and of an episode that failed nothing
is to be trained on.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from chatenv_client.models import Origin, Trajectory, Turn
from chatenv_client.tokens import Float32Array


class _Call(NamedTuple):
    """A sampled turn, as the call that made it."""

    segment: int
    turn: Turn
    prompt: list[int]
    completion: list[int]
    logprobs: Float32Array
    """(n,) float32 of the completion; NaN where none was given."""
    mask: list[int]
    """(n,) of the completion: 1 on what is to be trained on."""

    @property
    def has_logprobs(self) -> bool:
        """Whether each token that is trained on has one."""
        return not np.isnan(self.logprobs[np.array(self.mask, dtype=np.bool_)]).any()


def training_trace(trajectory: Trajectory) -> dict[str, Any]:
    """What OpenEnv's `TrainingTrace` is made of: `TrainingTrace(**training_trace(trajectory))`.

    A turn for each sampled span, in order. Its `metadata` have `episode_id`, `group`, `segment`, `step`, `reward`,
    `rewards`, `stop_reason` and `model_version` of the turn, and `episode_reward` and `failure` of the episode. In one
    that failed all masks are 0.

    Raises:
        ValueError: a span was sampled without log probabilities, which a trace has to have.
    """
    failure, turns = trajectory.failure, []
    for call in _calls(trajectory):
        if not call.has_logprobs:
            what = "was sampled without logprobs, and a TrainingTrace has them for each token"
            raise ValueError(f"step {call.turn.step} of episode {trajectory.episode_id!r} {what}")
        turns.append(
            {
                "node_id": f"{trajectory.episode_id}/{call.turn.step}",
                "prompt_token_ids": call.prompt,
                "completion_token_ids": call.completion,
                "per_token_logps": np.nan_to_num(call.logprobs, nan=0.0).tolist(),
                "loss_mask": [0] * len(call.prompt) + call.mask,
                "metadata": {
                    "episode_id": trajectory.episode_id,
                    "group": trajectory.group,
                    "episode_reward": trajectory.reward,
                    "failure": failure and failure.as_json(),
                    **_told(call),
                },
            }
        )
    return {"turns": turns}


def rollout_details(trajectory: Trajectory) -> list[dict[str, Any]]:
    """What Harbor's `AgentContext.rollout_details` holds: a `RolloutDetail` for each segment in which was sampled.

    `logprobs` are left out where a token has none. `extra` has, for each turn, `loss_mask` over its completion, all 0
    in an episode that failed, and `episode_id`, `step`, `reward`, `rewards`, `stop_reason` and `model_version`.
    """
    by_segment: dict[int, list[_Call]] = {}
    for call in _calls(trajectory):
        by_segment.setdefault(call.segment, []).append(call)
    return [_detail(trajectory.episode_id, calls) for calls in by_segment.values()]


def _detail(episode_id: str, calls: list[_Call]) -> dict[str, Any]:
    told = [{"episode_id": episode_id, "loss_mask": call.mask, **_told(call)} for call in calls]
    detail: dict[str, Any] = {
        "prompt_token_ids": [call.prompt for call in calls],
        "completion_token_ids": [call.completion for call in calls],
        "extra": {name: [one[name] for one in told] for name in told[0]},
    }
    if all(call.has_logprobs for call in calls):
        detail["logprobs"] = [np.nan_to_num(call.logprobs, nan=0.0).tolist() for call in calls]
    return detail


def _told(call: _Call) -> dict[str, Any]:
    turn = call.turn
    return {
        "segment": call.segment,
        "step": turn.step,
        "reward": turn.reward,
        "rewards": dict(turn.rewards),
        "stop_reason": None if turn.stop_reason is None else turn.stop_reason.value,
        "model_version": turn.model_version,
    }


def _calls(trajectory: Trajectory) -> Iterator[_Call]:
    """The sampled turns of an episode, in order; of empty ones there is nothing to tell."""
    for number, segment in enumerate(trajectory.segments):
        tokens = segment.tokens.tolist()
        mask = segment.loss_mask if trajectory.failure is None else np.zeros_like(segment.loss_mask)
        for turn in segment.turns:
            if turn.origin is Origin.SAMPLED and turn.length:
                start, stop = turn.start, turn.stop
                own = mask[start:stop].astype(int).tolist()
                yield _Call(number, turn, tokens[:start], tokens[start:stop], segment.logprobs[start:stop], own)
