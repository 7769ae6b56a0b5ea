"""Rewards that come after their step: which step is meant, and whether it can have one.

`rewards.py` keeps them; a task or a transform gives its own with the step.
"""

from __future__ import annotations

from chatenv_client.models.rewards import bad_reward
from chatenv_server.engine import EpisodeLog
from chatenv_server.environment.record import EpisodeRecord
from chatenv_server.environment.rewards import Earned, LateReward


def set_late(episode: EpisodeRecord, step: int, reward: Earned) -> Earned:
    """Set what a step earned; what it has earned then.

    Raises:
        InvalidRequestError: no such step was taken, or there is nothing to set.
    """
    taken = episode.progress.step_count
    if not reward:
        raise bad_reward("a reward is of a number or numbers by name; give one", "rewards")
    if not 1 <= step <= taken:
        raise bad_reward(f"a reward is of a step from 1 to {taken}, not {step}", "step")
    episode.rewards.set_late(LateReward(step, reward), of_messages=step not in episode.log.sampled_steps())
    return episode.rewards.of(step)


def step_of_turn(log: EpisodeLog, turn: int) -> int:
    """The step that ended a turn of the model, from 0.

    Raises:
        InvalidRequestError: it has ended no such turn.
    """
    ends = log.ends_of_turns()
    if not 0 <= turn < len(ends):
        raise bad_reward(f"the model has ended {len(ends)} turns, so turn is below that, not {turn}", "turn")
    return ends[turn]
