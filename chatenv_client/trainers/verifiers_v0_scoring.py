"""How rollouts of verifiers 0.3 are scored that chatenv played: what broke is no reward of 0."""

from __future__ import annotations

import math
from collections.abc import Sequence

import verifiers.legacy as vf


async def chatenv_reward(state: vf.State) -> float:
    """What the server gave in all; NaN where it gave nothing."""
    rewards: dict[str, float] = state["chatenv_rewards"]
    return rewards.get("", math.nan)


class LeavingOutFailures(vf.RubricGroup):
    """Scores rollouts without an error alone.

    One that broke, or that nobody rewarded, has NaN as its reward, no advantage, and no part in the mean of its group.
    """

    async def score_rollout(self, state: vf.State) -> None:
        """As a group of one."""
        await self.score_group([state])

    async def score_group(self, states: Sequence[vf.State]) -> None:
        """Score those that were played to an end."""
        played = [state for state in states if state.get("error") is None]
        if played:
            await super().score_group(played)
        for state in states:
            if state.get("error") is not None:
                state["reward"], state["metrics"] = math.nan, {}
            else:
                rewards = {name: value for name, value in state["chatenv_rewards"].items() if name}
                state["metrics"] |= rewards | {"chatenv_exact": state["chatenv_exact"]}
        _set_advantages(played)


def _set_advantages(states: Sequence[vf.State]) -> None:
    """Give each rollout its advantage over the mean of those that were rewarded, by the rewards of all rubrics."""
    rewards = [state["reward"] for state in states if not math.isnan(state["reward"])]
    for state in states:
        is_rewarded = not math.isnan(state["reward"])
        state["advantage"] = state["reward"] - sum(rewards) / len(rewards) if is_rewarded else None
        for step in state["trajectory"]:
            step["reward"], step["advantage"] = state["reward"], state["advantage"]
