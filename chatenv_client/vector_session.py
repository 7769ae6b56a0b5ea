"""Many episodes as their caller drives them, without any input or output: builds rounds and takes in their results."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence, Sized
from functools import partial
from typing import Any

from chatenv_client.batch import Round
from chatenv_client.calls import Call
from chatenv_client.models import (
    Action,
    ChatObservation,
    Failure,
    FailureKind,
    ResetOptions,
    StepResult,
    StepReward,
    Trajectory,
    as_action,
)
from chatenv_client.session import Session, result_of
from chatenv_client.succession import Succession


class VectorSession:
    """The episodes of one vector client, in order."""

    def __init__(self, n: int, *, autoreset: bool) -> None:
        if n < 1:
            raise ValueError(f"n is the number of episodes, at least 1, not {n}")
        self.sessions = [Session() for _ in range(n)]
        self._autoreset = autoreset
        self._options: list[ResetOptions] = [{}] * n
        """That each episode was started with."""
        self._told: list[ChatObservation | None] = [None] * n
        """What the caller was told last of each episode. What an episode shows beyond that, the next round tells."""
        self._finished: list[Trajectory | None] = [None] * n
        """Of the episodes that are finished, where others are not yet."""

    def reset(self, episodes: Sequence[ResetOptions] | None, shared: ResetOptions) -> Succession:
        """Start all episodes in the place of those that are live.

        Raises:
            ValueError: there are more or fewer options than episodes, or two episodes of one id.
        """
        return self._reset(range(len(self.sessions)), episodes, shared)

    def reset_at(
        self, indices: Iterable[int], episodes: Sequence[ResetOptions] | None, shared: ResetOptions
    ) -> Succession:
        """Start the episodes at some places anew; the others have to be started already.

        Raises:
            RuntimeError: another was not started.
            TypeError: an index is no whole number.
            ValueError: there is no such place, or it comes twice; or as for `reset`.
        """
        places = [_place(index, len(self.sessions)) for index in indices]
        if len(set(places)) < len(places):
            raise ValueError("indices name one episode twice")
        if any(session.episode_id is None for index, session in enumerate(self.sessions) if index not in places):
            raise RuntimeError("not every other episode was started; reset those, too, or call reset()")
        return self._reset(places, episodes, shared)

    def _reset(
        self, places: Sequence[int], episodes: Sequence[ResetOptions] | None, shared: ResetOptions
    ) -> Succession:
        own_options = [{}] * len(places) if episodes is None else episodes
        _check_length(own_options, "mappings of options", len(places))
        options: list[ResetOptions] = [{**shared, **own} for own in own_options]
        others = {session.episode_id for index, session in enumerate(self.sessions) if index not in places}
        named = [own["episode_id"] for own in options if own.get("episode_id")]
        if len(set(named)) < len(named) or others.intersection(named):
            raise ValueError("several episodes are given one id; give each its own, or none")
        return self._restart(dict(zip(places, options, strict=True)), self._round())

    def step(self, actions: Sequence[Action | None]) -> Succession:
        """Append the actions, or start anew what is over and has an action, where that is due.

        Raises:
            RuntimeError: not every episode was started.
            TypeError: something is no action.
            ValueError: there are more or fewer actions than episodes.
        """
        _check_length(actions, "actions", len(self.sessions))
        wanted = [None if action is None else as_action(action) for action in actions]
        is_over = [self._autoreset and observation.done for observation in self.observations]
        due = {index for index, action in enumerate(wanted) if action is not None and is_over[index]}
        stepping: Round[StepResult] = self._round()
        acting = {index: action for index, action in enumerate(wanted) if action is not None and index not in due}
        if acting:
            stepping.plan(list(acting), lambda index, request: self.sessions[index].step(acting[index], request))
        return self._restart({index: self._options[index] for index in sorted(due)}, stepping)

    def show(self, played: Round[StepResult]) -> list[StepResult]:
        """What each episode shows now; with a reward, where the caller was not told of it yet.

        Raises:
            BatchError: some items failed. What became of the others is told in the next round.
            ChatEnvError: no item was answered.
        """
        played.check()
        results = [
            result_of(shown) if shown is not told else result_of(shown)._replace(reward=None)
            for shown, told in zip(self.observations, self._told, strict=True)
        ]
        self._told = [result.observation for result in results]
        return results

    @property
    def observations(self) -> list[ChatObservation]:
        """What each episode showed last.

        Raises:
            RuntimeError: not every episode was started.
        """
        if any(session.episode_id is None for session in self.sessions):
            raise RuntimeError("not every episode was started; call reset()")
        return [session.observation for session in self.sessions]

    def trajectories(self, *, assistants: bool) -> Round[Trajectory]:
        """Read all episodes as training wants them, perhaps with what given assistants say."""
        reading: Round[Trajectory] = self._round()
        for index, session in enumerate(self.sessions):
            reading.ask(index, partial(session.trajectory, assistants=assistants))
        return reading

    def finish(self, *, assistants: bool) -> Round[Trajectory]:
        """Read all episodes as training wants them, and end them; those that are finished already are not asked for.

        Raises:
            RuntimeError: not every episode was started.
        """
        finishing: Round[Trajectory] = self._round()
        for index, session in enumerate(self.sessions):
            if session.episode_id is not None or self._finished[index] is None:
                self._finished[index] = None
                finishing.ask(index, partial(self._finish_at, index, assistants=assistants))
        return finishing

    def _finish_at(self, index: int, *, assistants: bool) -> Call[Trajectory]:
        def keep(trajectory: Trajectory) -> Trajectory:
            self._finished[index] = trajectory
            return trajectory

        return self.sessions[index].finish(assistants=assistants).then(keep)

    def take_finished(self, finishing: Round[Trajectory]) -> list[Trajectory]:
        """All trajectories, once all episodes are finished.

        Raises:
            BatchError: some could not be finished; it has the trajectories of all others.
            ChatEnvError: no item was answered.
        """
        finishing.results = list(self._finished)
        finishing.check()
        self._finished = [None] * len(self.sessions)
        return [trajectory for trajectory in finishing.results if trajectory is not None]

    def set_reward(
        self,
        rewards: Sequence[Any],
        weights: Mapping[str, Any] | None,
        steps: Sequence[int | None] | None,
        turns: Sequence[int | None] | None,
    ) -> Round[StepReward]:
        """Set rewards of a step of each episode that has some.

        Raises:
            TypeError: a reward is no number.
            ValueError: there are more or fewer of something than episodes.
        """
        nothing: Sequence[None] = [None] * len(self.sessions)
        steps, turns = nothing if steps is None else steps, nothing if turns is None else turns
        for given, what in ((rewards, "rewards"), (steps, "steps"), (turns, "turns")):
            _check_length(given, what, len(self.sessions))
        setting: Round[StepReward] = self._round()
        for index, given in enumerate(zip(self.sessions, rewards, steps, turns, strict=True)):
            session, reward, step, turn = given
            if reward is not None:
                setting.ask(index, partial(session.set_reward, reward, weights, step, turn))
        return setting

    def fail(self, reasons: Sequence[str | None], kind: FailureKind | str) -> Round[Failure]:
        """End each episode that has a reason, because something broke.

        Raises:
            TypeError: a reason is no text.
            ValueError: there are more or fewer reasons than episodes.
        """
        _check_length(reasons, "reasons", len(self.sessions))
        failing: Round[Failure] = self._round()
        for index, (session, reason) in enumerate(zip(self.sessions, reasons, strict=True)):
            if reason is not None:
                failing.ask(index, partial(session.fail, reason, kind))
        return failing

    def take_failures(self, failing: Round[Failure]) -> None:
        """Take in which episodes have failed: they are over."""
        for index, failure in enumerate(failing.results):
            if failure is not None:
                self._told[index] = self.sessions[index].observation

    def fork_groups(self, n: int) -> Round[list[Session]]:
        """Fork each episode into a group of its own.

        Raises:
            RuntimeError: not every episode was started.
        """
        _ = self.observations
        forking: Round[list[Session]] = self._round()
        for index, session in enumerate(self.sessions):
            forking.ask(index, partial(session.fork, n, None, None))
        return forking

    def of_forks(self, groups: Sequence[Sequence[Session] | None]) -> VectorSession:
        """The session of all forks, group after group; of those that were made, where some were not."""
        made = [(index, session) for index, group in enumerate(groups) for session in group or ()]
        forked = VectorSession(max(1, len(made)), autoreset=self._autoreset)
        if made:
            forked.sessions = [session for _, session in made]
            forked._options = [_of_fork(self._options[index], self.sessions[index].episode_id) for index, _ in made]
            forked._told = list(forked.observations)
        return forked

    def close(self) -> Round[None]:
        """End all live episodes."""
        closing: Round[None] = self._round()
        for index, session in enumerate(self.sessions):
            closing.ask(index, session.close)
        return closing

    def _restart(self, options: Mapping[int, ResetOptions], opening: Round[StepResult]) -> Succession:
        """Add Resets to a round, in the place of the episodes that are live."""
        resets, closes = {}, {}
        for index, own in options.items():
            # The one that was finished there, in a `finish` that failed at others, is none of the next `finish`.
            self._finished[index] = None
            if (close := self.sessions[index].close(unless=own.get("episode_id"))) is not None:
                closes[index] = close
            resets[index] = partial(self._reset_at, index, own)
            opening.ask(index, resets[index])
        return Succession(opening, resets, closes)

    def _reset_at(self, index: int, options: ResetOptions) -> Call[StepResult]:
        def note(result: StepResult) -> StepResult:
            self._options[index] = options
            return result

        return self.sessions[index].reset(options).then(note)

    def _round(self) -> Round[Any]:
        return Round(len(self.sessions))


def _place(index: int, count: int) -> int:
    """An index as a plain number, where it is the place of one of so many episodes."""
    # A truth value of torch would count as a number, one of numpy does not.
    if isinstance(index, bool) or str(getattr(index, "dtype", "")) == "torch.bool":
        raise TypeError("indices are numbers of episodes, not a mask")
    place = operator.index(index)
    if not 0 <= place < count:
        raise ValueError(f"there is no episode at {place}; there are {count}, from 0 on")
    return place


def _check_length(given: Sized, what: str, count: int) -> None:
    if len(given) != count:
        raise ValueError(f"there are {len(given)} {what} for {count} episodes")


def _of_fork(options: ResetOptions, origin: str | None) -> ResetOptions:
    """The options for an episode that takes the place of a fork of the one that they opened, in the fork's group."""
    return {**options, "episode_id": None, "group": options.get("group") or origin}
