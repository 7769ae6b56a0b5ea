"""What is noted of an episode beside its steps: rewards that come late, and that something broke."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from chatenv_client.models import Failure
from chatenv_server.environment.environment import ChatEnvironment
from chatenv_server.environment.rewards import Earned, LateReward
from chatenv_server.environment.snapshots import piece_of_notes
from chatenv_server.episodes.calls import EpisodeCalls
from chatenv_server.episodes.episode import Caller
from chatenv_server.episodes.shelf import Shelf
from chatenv_server.episodes.writing import written
from chatenv_server.work import Work, done

ResultT = TypeVar("ResultT")


class Notes:
    """Notes things about episodes. What is noted is written, too, where a store keeps them.

    Args:
        shelf: holds the episodes.
        calls: makes the calls on them.
    """

    def __init__(self, shelf: Shelf, calls: EpisodeCalls) -> None:
        self._shelf = shelf
        self._calls = calls

    def set_reward(
        self,
        episode_id: str,
        reward: Earned,
        *,
        step: int | None = None,
        turn: int | None = None,
        caller: Caller | None = None,
    ) -> LateReward:
        """Set what a step earned: the step, and what it has earned then.

        Raises:
            EpisodeNotFoundError: unknown, closed or expired.
            InvalidRequestError: there is no such step or turn.
        """

        def set_it(environment: ChatEnvironment) -> tuple[LateReward, bytes]:
            of, now = environment.set_late_reward(reward, step=step, turn=turn)
            return LateReward(of, now), piece_of_notes([LateReward(of, reward)])

        return done(self._noted(episode_id, caller, set_it))

    def fail(self, episode_id: str, failure: Failure, *, caller: Caller | None = None) -> Failure:
        """End an episode because something broke; the failure on record, which is the first.

        Raises:
            EpisodeNotFoundError: unknown, closed or expired.
            InvalidRequestError: it does not say what broke.
        """

        def fail(environment: ChatEnvironment) -> tuple[Failure, bytes]:
            is_first = environment.progress.failure is None
            on_record = environment.record_failure(failure)
            return on_record, piece_of_notes((), on_record) if is_first else b""

        return done(self._noted(episode_id, caller, fail))

    def _noted(
        self, episode_id: str, caller: Caller | None, work: Callable[[ChatEnvironment], tuple[ResultT, bytes]]
    ) -> Work[ResultT]:
        if not self._shelf.store.keeps:
            return self._calls.note(episode_id, caller, work, None)
        return written(self._shelf.writing, lambda alone: self._calls.note(episode_id, caller, work, alone))
