"""Rewards by name, and the requests that set them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client.models.rewards import RewardChange, StepReward, as_reward, as_reward_name, bad_reward, check_weights


def named_rewards_to_proto(
    rewards: Mapping[str, float], weights: Mapping[str, float] | None = None
) -> list[pb.NamedReward]:
    """Components of a reward, each with its weight where it has one.

    Raises:
        TypeError: a value or a weight is no number.
        InvalidRequestError: reason BAD_REWARD: a name is none, a number is not finite, or a weight is of no component.
    """
    if weights:
        check_weights(weights, rewards)
    return [
        pb.NamedReward(
            name=as_reward_name(name, "rewards"),
            value=as_reward(value, "rewards"),
            weight=as_reward(weights[name], "weights") if weights and name in weights else None,
        )
        for name, value in rewards.items()
    ]


def rewards_from_proto(
    encoded: Iterable[pb.NamedReward], field: str = "rewards"
) -> tuple[dict[str, float], dict[str, float]]:
    """Values by name, and the weights of those that have one.

    Raises:
        InvalidRequestError: reason BAD_REWARD: a name is none or given twice, or a number is not finite. Its `field`
            begins with `field`.
    """
    values: dict[str, float] = {}
    weights: dict[str, float] = {}
    for index, one in enumerate(encoded):
        place = f"{field}[{index}]"
        name = as_reward_name(one.name, f"{place}.name")
        if name in values:
            raise bad_reward(f"there are two rewards named {name!r}", f"{place}.name")
        values[name] = as_reward(one.value, f"{place}.value")
        if one.HasField("weight"):
            weights[name] = as_reward(one.weight, f"{place}.weight")
    return values, weights


def set_reward_to_proto(
    episode_id: str, change: RewardChange, *, step: int | None = None, turn: int | None = None
) -> pb.SetRewardRequest:
    """Sets rewards of a step, or of a turn of the model.

    Raises:
        InvalidRequestError: reason BAD_REWARD: both or neither are given, or a number is that of none.
    """
    if (step is None) == (turn is None):
        raise bad_reward("a reward is of a step or of a turn; give one of the two", "step" if step is None else "turn")
    request = pb.SetRewardRequest(episode_id=episode_id)
    _write_change(request, change)
    field, number = ("turn", turn) if step is None else ("step", step)
    try:
        setattr(request, field, number)
    except ValueError as error:
        raise bad_reward(f"{field} is {number!r}, and no episode has one of that number", field) from error
    return request


def set_reward_from_proto(request: pb.SetRewardRequest) -> tuple[RewardChange, int | None, int | None]:
    """What to set, then the step that it is of, or the turn; the other one is None.

    Raises:
        InvalidRequestError: reason BAD_REWARD: neither of the two is given, or no reward, or one that is none.
    """
    of = request.WhichOneof("of")
    if of is None:
        raise bad_reward("a reward is of a step or of a turn; give one of the two", "step")
    change = _change_of(request)
    return (change, request.step, None) if of == "step" else (change, None, request.turn)


def late_reward_to_proto(step: int, change: RewardChange) -> pb.LateReward:
    """Rewards that were set after their step, for a snapshot."""
    encoded = pb.LateReward(step=step)
    _write_change(encoded, change)
    return encoded


def late_reward_from_proto(encoded: pb.LateReward, field: str = "late_rewards[0]") -> tuple[int, RewardChange]:
    """The step, and what was set of it.

    Raises:
        InvalidRequestError: reason BAD_REWARD: there is no reward, or one that is none. Its `field` begins with
            `field`.
    """
    return encoded.step, _change_of(encoded, f"{field}.")


def _write_change(encoded: pb.SetRewardRequest | pb.LateReward, change: RewardChange) -> None:
    if change.reward is not None:
        encoded.reward = as_reward(change.reward, "rewards")
    encoded.rewards.extend(named_rewards_to_proto(change.rewards, change.weights))


def _change_of(encoded: pb.SetRewardRequest | pb.LateReward, prefix: str = "") -> RewardChange:
    reward = as_reward(encoded.reward, f"{prefix}reward") if encoded.HasField("reward") else None
    rewards, weights = rewards_from_proto(encoded.rewards, f"{prefix}rewards")
    if reward is None and not rewards:
        raise bad_reward("there is no reward to set; give one without a name, or some by name", f"{prefix}rewards")
    return RewardChange(reward, rewards, weights)


def step_reward_to_proto(told: StepReward) -> pb.SetRewardResponse:
    """The rewards of a step as they are on record."""
    return pb.SetRewardResponse(step=told.step, reward=told.reward, rewards=named_rewards_to_proto(told.rewards))


def step_reward_from_proto(encoded: pb.SetRewardResponse) -> StepReward:
    """The rewards of a step as they are on record.

    Raises:
        InvalidRequestError: a reward is none.
    """
    rewards, _ = rewards_from_proto(encoded.rewards)
    return StepReward(encoded.step, as_reward(encoded.reward, "reward"), rewards)
