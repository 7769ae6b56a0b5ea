"""Rewards of a step as callers set them and are told of them: one number, or several by name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final, NamedTuple, SupportsFloat

from chatenv_client.errors import InvalidRequestError
from chatenv_client.reasons import Reason

Rewards = SupportsFloat | Mapping[str, SupportsFloat]
"""What `set_reward` takes: a number, or numbers by name."""

MAX_NAME_CHARACTERS: Final = 64
"""Of the name of a component."""

_NONE: Final[Mapping[str, float]] = {}


class StepReward(NamedTuple):
    """The rewards of a step as they are on record."""

    step: int
    reward: float
    rewards: dict[str, float]
    """Its components by name, where it has some."""


class RewardChange(NamedTuple):
    """Rewards to set of a step: one without a name, several by name, or both."""

    reward: float | None = None
    """In the place of the one without a name; None: that stays."""
    rewards: Mapping[str, float] = _NONE
    """Each in the place of the one of its name; those of other names stay."""
    weights: Mapping[str, float] = _NONE
    """Of those that have one; all others count once."""

    @classmethod
    def of(cls, rewards: Any, weights: Mapping[str, Any] | None = None) -> RewardChange:
        """The change for a number, or for numbers by name. Numbers of numpy and torch become floats.

        Raises:
            TypeError: something is no number.
            InvalidRequestError: reason BAD_REWARD: there is no reward, a number is not finite, a name is none, or a
                weight is of no reward.
        """
        if not isinstance(rewards, Mapping):
            if weights:
                raise bad_reward("weights are of rewards by name, and this one has none", "weights")
            return cls(as_reward(rewards, "rewards"))
        if not rewards:
            raise bad_reward("there is no reward to set; give a number, or numbers by name", "rewards")
        values = {as_reward_name(name, "rewards"): as_reward(value, "rewards") for name, value in rewards.items()}
        given = {} if weights is None else weights
        check_weights(given, values)
        return cls(None, values, {name: as_reward(weight, "weights") for name, weight in given.items()})


def as_reward(value: Any, field: str) -> float:
    """A number of any kind as a finite float; also an array or a tensor without a dimension.

    Raises:
        TypeError: it is no number.
        InvalidRequestError: reason BAD_REWARD: it is NaN or infinite.
    """
    number = value if type(value) is float else _float_of(value, field)
    if not math.isfinite(number):
        raise bad_reward(f"a reward is a finite number, not {number}", field)
    return number


def _float_of(value: Any, field: str) -> float:
    # Of texts and of lists with one number Python would make a float, too.
    if isinstance(value, (str, bytes, bytearray)) or bool(getattr(value, "ndim", 0)):
        raise TypeError(f"{field}: a reward is a number, not {value!r:.99}")
    try:
        return float(value)
    except OverflowError:
        return math.inf
    except (TypeError, ValueError) as error:
        raise TypeError(f"{field}: a reward is a number, not {value!r:.99}") from error


def check_weights(weights: Mapping[str, Any], rewards: Mapping[str, Any]) -> None:
    """Refuse a weight that is of no reward.

    Raises:
        InvalidRequestError: reason BAD_REWARD.
    """
    if unknown := weights.keys() - rewards.keys():
        what = f"there is a weight for {min(unknown, key=str)!r:.99}, and no reward of that name"
        raise bad_reward(what, "weights")


def as_reward_name(name: Any, field: str) -> str:
    """The name of a component.

    Raises:
        InvalidRequestError: reason BAD_REWARD: it is no text of 1 to 64 printable characters.
    """
    if isinstance(name, str) and 0 < len(name) <= MAX_NAME_CHARACTERS and name.isprintable():
        return name
    raise bad_reward(f"the name of a reward has 1 to {MAX_NAME_CHARACTERS} printable characters", field)


def bad_reward(what: str, field: str) -> InvalidRequestError:
    """What a reward is refused with."""
    return InvalidRequestError(what, reason=Reason.BAD_REWARD, field=field)
