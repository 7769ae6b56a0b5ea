"""What a blocking client of one episode can say of steps that were taken: rewards, and that the episode failed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import SupportsFloat

from chatenv_client._connection import Connection
from chatenv_client.models import Failure, FailureKind, Rewards, StepReward
from chatenv_client.session import Session


class JudgingClient:
    """The part of a client of one episode that judges it."""

    _connection: Connection
    _session: Session

    def set_reward(
        self,
        rewards: Rewards,
        *,
        step: int | None = None,
        turn: int | None = None,
        weights: Mapping[str, SupportsFloat] | None = None,
        timeout_s: float | None = None,
    ) -> StepReward:
        """Set rewards of a step that was taken, also after the episode is over: a judge may take its time.

        May be tried again: a reward takes the place of the one that the step had, and those of other names stay.

        Args:
            rewards: a number, or numbers by name, whose weighted sum is added to the number.
            step: number of the step, from 1. None: the last one that this client knows, unless a turn is named.
            turn: number of the turn among those that the model ended, from 0, in place of a step.
            weights: of rewards by name; 1 where none is given.
            timeout_s: deadline of this call.

        Returns:
            The rewards of the step as they are now.

        Raises:
            TypeError: a reward is no number; nothing was sent.
            InvalidRequestError: a reward is not finite, a name is none, or there is no such step or turn.
        """
        return self._connection.make(self._session.set_reward(rewards, weights, step, turn), timeout_s)

    def fail(
        self, reason: str, kind: FailureKind | str = FailureKind.OTHER, *, timeout_s: float | None = None
    ) -> Failure:
        """End the episode because something broke, so that nobody takes it for one that went badly.

        May be tried again, and may come after the end: the first failure stays. What `observation` and the trajectory
        show from now on says it.

        Args:
            reason: one sentence for a person.
            kind: what broke.
            timeout_s: deadline of this call.

        Returns:
            The failure on record: an earlier one, where there was one.

        Raises:
            TypeError: the reason is no text; nothing was sent.
            InvalidRequestError: there is no such kind, or the reason has more than 4,096 characters.
        """
        return self._connection.make(self._session.fail(reason, kind), timeout_s)
