"""Calls the transform of one episode, and takes nothing of its result but what it may set.

All of that happens inside the step, so the environment takes the step back when the transform fails.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import numpy as np

from chatenv_client.errors import InvalidRequestError, TransformError, TransformTimeoutError
from chatenv_client.models import ChatObservation, Message
from chatenv_client.reasons import Reason
from chatenv_client.wire.json_fields import check_keys, plain_json
from chatenv_server.environment.rewards import Earned, earned
from chatenv_server.environment.transforms import Transform
from chatenv_server.environment.user_code import Kind, OwnState, State, UserCode, keeps_state
from chatenv_server.tasks.user_functions import is_the_users

_KIND: Final = Kind("transform", "transform-timeout", TransformError, TransformTimeoutError)


class Shaped(NamedTuple):
    """What a transform made of a step."""

    reward: Earned
    terminated: bool
    truncated: bool
    metadata: dict[str, Any]
    state: State | None
    """What the transform keeps afterwards; None: nothing."""


class TransformGuard(UserCode):
    """The guarded transform of one episode.

    Args:
        transform: the transform.
        timeout_s: seconds a call may take; 0: any.
    """

    def __init__(self, transform: Transform, timeout_s: float = 0.0) -> None:
        super().__init__(_KIND, timeout_s, OwnState(transform, _KIND) if keeps_state(transform) else None)
        self._transform = transform

    async def shaped(self, observation: ChatObservation, reward: Earned) -> Shaped:
        """What the transform makes of a step.

        Whatever else it sets stays with the copy that it is given. That a limit truncated the episode it cannot undo.

        Args:
            observation: what the step shows without it.
            reward: what the task gave.

        Raises:
            TransformTimeoutError: it takes too long.
            TransformError: it raises, which is then the cause, or sets what no observation can hold.
        """
        given = Shown.of(observation)
        result, state = await self.called("the transform", self._transform, given)
        if not isinstance(result, ChatObservation):
            raise self.failure(f"the transform returned {type(result).__name__}, not an observation")
        if given.has_other_messages:
            raise self.failure("the transform changed the messages, and only a task may speak: answer from a task")
        try:
            ends = _end(result.terminated, "terminated"), _end(result.truncated, "truncated")
            return Shaped(_reward(result, reward), *ends, _metadata(result.metadata), state)
        except _Refused as error:
            raise self.failure(f"the transform set {error}") from error.__cause__
        except BaseException as error:
            if is_the_users(error):
                raise
            # To read a value may run code of the transform's, or of its libraries: a tensor's, say.
            raise self.failure("the transform set what cannot be read") from error

    async def copied(self) -> TransformGuard:
        """A guard of the same transform, or of a copy where it keeps state.

        Raises:
            TransformError: it cannot be copied.
        """
        if self.keeper is None:
            return TransformGuard(self._transform, self.timeout_s)
        copied, _ = await self.called("a copy of the transform", copy.deepcopy, self._transform)
        return TransformGuard(copied, self.timeout_s)


class Shown(ChatObservation):
    """The observation that a transform is given: a copy that knows whether its messages were changed."""

    __slots__ = ("_read",)

    _read: list[Message] | None

    @classmethod
    def of(cls, observation: ChatObservation) -> Shown:
        """A copy of an observation."""
        shown = cls(*_values_of(observation))
        shown.rewards = dict(observation.rewards)
        shown._read = None
        return shown

    @property
    def messages(self) -> list[Message]:
        """All messages, the same list each time."""
        if self._read is None:
            self._read = super().messages
        return self._read

    @property
    def has_other_messages(self) -> bool:
        """Whether messages were added to the list, or taken from it."""
        return self._read is not None and len(self._read) != self.conversation.length


_values_of: Final = operator.attrgetter(*ChatObservation.__dataclass_fields__)


class _Refused(Exception):  # noqa: N818 - told as a failure of the transform
    """What the transform set, and why that cannot be."""


def _reward(result: ChatObservation, before: Earned) -> Earned:
    """What the step earned: as before, where the transform left it alone."""
    try:
        if dict(result.rewards) == dict(before.named):
            return before if result.reward == before.total else earned(result.reward)
        named = earned(None, result.rewards, {k: w for k, w in before.weights.items() if k in result.rewards})
        if result.reward is None or result.reward in (before.total, named.total):
            return named
        total = earned(result.reward).unnamed or 0.0
        return named._replace(unnamed=total - (named.total or 0.0))
    except TypeError:
        raise _Refused("a reward that is no finite number") from None
    except InvalidRequestError as error:
        raise _Refused("a reward that is no finite number" if "finite" in error.message else error.message) from None


def _end(value: Any, name: str) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise _Refused(f"{name} to a {type(value).__name__}, not a bool")
    return bool(value)


def _metadata(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise _Refused(f"metadata to a {type(value).__name__}, not a mapping")
    if not value:
        return {}
    try:
        metadata = plain_json(dict(value), "metadata", Reason.BAD_METADATA)
        check_keys(metadata, "metadata", Reason.BAD_METADATA)
    except InvalidRequestError as error:
        raise _Refused(f"metadata that is not JSON ({error.message})") from error
    return copy.deepcopy(metadata)
