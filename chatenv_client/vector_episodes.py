"""What a client of many episodes can do with them, also after their end: read them and judge them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import SupportsFloat

from chatenv_client.models import ChatObservation, Failure, FailureKind, Rewards, StepReward, Trajectory
from chatenv_client.rounds import RoundMaker
from chatenv_client.vector_session import VectorSession


class VectorEpisodes:
    """Many episodes on a chatenv server: reads them, and judges them."""

    def __init__(self, rounds: RoundMaker, session: VectorSession) -> None:
        self._rounds = rounds
        self._session = session

    def __len__(self) -> int:
        """Number of episodes."""
        return len(self._session.sessions)

    @property
    def episode_ids(self) -> list[str | None]:
        """Of the live episodes, in order; None before reset and after close."""
        return [session.episode_id for session in self._session.sessions]

    @property
    def observations(self) -> list[ChatObservation]:
        """What each episode showed last, in order.

        Raises:
            RuntimeError: not every episode was started.
        """
        return self._session.observations

    def trajectories(self, *, assistants: bool = False, timeout_s: float | None = None) -> list[Trajectory]:
        """All episodes as training wants them, in order; see `ChatEnv.trajectory`.

        Args:
            assistants: as for `ChatEnv.trajectory`.
            timeout_s: deadline of each call.

        Raises:
            RuntimeError: there was no reset.
            BatchError: some episodes could not be read.
            ChatEnvError: no answer came.
        """
        reading = self._rounds.make(self._session.trajectories(assistants=assistants), timeout_s)
        reading.check()
        return [trajectory for trajectory in reading.results if trajectory is not None]

    def set_reward(
        self,
        rewards: Sequence[Rewards | None],
        *,
        step: Sequence[int | None] | None = None,
        turn: Sequence[int | None] | None = None,
        weights: Mapping[str, SupportsFloat] | None = None,
        timeout_s: float | None = None,
    ) -> list[StepReward | None]:
        """Set rewards of a step of each episode that has some; see `ChatEnv.set_reward`.

        Args:
            rewards: one an episode: a number, or numbers by name. None leaves the episode as it is.
            step: one an episode; None: the last one that this client knows, unless a turn is named.
            turn: one an episode, in place of steps.
            weights: of rewards by name, in all episodes.
            timeout_s: deadline of each call.

        Returns:
            For each episode the rewards of the step as they are now; None where there was nothing to set.

        Raises:
            TypeError: a reward is no number; nothing was sent.
            ValueError: there are more or fewer rewards, steps or turns than episodes.
            BatchError: some could not be set; the others were.
            ChatEnvError: no answer came.
        """
        setting = self._rounds.make(self._session.set_reward(rewards, weights, step, turn), timeout_s)
        setting.check()
        return setting.results

    def fail(
        self,
        reasons: Sequence[str | None],
        kind: FailureKind | str = FailureKind.OTHER,
        *,
        timeout_s: float | None = None,
    ) -> list[Failure | None]:
        """End each episode that has a reason, because something broke; see `ChatEnv.fail`.

        Args:
            reasons: one an episode. None leaves the episode as it is.
            kind: what broke, in all of them.
            timeout_s: deadline of each call.

        Returns:
            For each episode the failure on record; None where there was no reason.

        Raises:
            TypeError: a reason is no text; nothing was sent.
            ValueError: there are more or fewer reasons than episodes.
            BatchError: some episodes could not be ended; the others were.
            ChatEnvError: no answer came.
        """
        failing = self._rounds.make(self._session.fail(reasons, kind), timeout_s)
        self._session.take_failures(failing)
        failing.check()
        return failing.results
