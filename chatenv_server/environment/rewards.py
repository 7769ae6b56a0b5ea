"""What the steps of an episode earned: one number or several by name, given with the step or set later.

The engine knows nothing of rewards. What a turn earned is found when somebody asks for turns.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from chatenv_client.models import Origin, Segment, Turn
from chatenv_client.models.rewards import as_reward, as_reward_name, bad_reward, check_weights


class Earned(NamedTuple):
    """What one step earned."""

    unnamed: float | None = None
    """A number without components."""
    named: Mapping[str, float] = {}
    """Components by name."""
    weights: Mapping[str, float] = {}
    """By which they count; 1 where none is given."""

    @property
    def total(self) -> float | None:
        """The weighted sum; None where nothing was given."""
        if not self.named:
            return self.unnamed
        weighted = [value * self.weights.get(name, 1.0) for name, value in self.named.items()]
        return _sum(weighted if self.unnamed is None else [self.unnamed, *weighted])

    def __bool__(self) -> bool:
        return self.unnamed is not None or bool(self.named)

    def updated(self, later: Earned) -> Earned:
        """This one, with what was set later in the place of what has the same name."""
        kept = {name: weight for name, weight in self.weights.items() if name not in later.named}
        unnamed = self.unnamed if later.unnamed is None else later.unnamed
        return _checked(Earned(unnamed, {**self.named, **later.named}, {**kept, **later.weights}))


def _sum(numbers: Sequence[float]) -> float:
    try:
        return math.fsum(numbers)
    except (OverflowError, ValueError):  # beyond what a float holds, or infinities of both signs
        return math.inf


MAX_COMPONENTS: Final = 256
"""Of the reward of one step."""

NO_REWARD: Final = Earned()


def earned(unnamed: Any = None, named: Any = None, weights: Any = None) -> Earned:
    """A reward of somebody's, with plain floats in it.

    Raises:
        TypeError: a number is none, or numbers by name are no mapping.
        InvalidRequestError: a number is not finite; a name is empty, too long or not printable; or a weight is of no
            component.
    """
    components = {as_reward_name(name, "rewards"): as_reward(value, "rewards") for name, value in _items(named)}
    weighed = {name: as_reward(value, "weights") for name, value in _items(weights)}
    check_weights(weighed, components)
    return _checked(Earned(None if unnamed is None else as_reward(unnamed, "reward"), components, weighed))


def _checked(reward: Earned) -> Earned:
    """Refuse a reward whose sum is no number, or that has too many components."""
    if len(reward.named) > MAX_COMPONENTS:
        raise bad_reward(f"a step has at most {MAX_COMPONENTS} rewards by name", "rewards")
    if not math.isfinite(reward.total or 0.0):
        raise bad_reward("the weighted sum is no finite number", "rewards")
    return reward


def _items(named: Any) -> Iterable[tuple[Any, Any]]:
    if named is None:
        return ()
    if not isinstance(named, Mapping):
        raise TypeError(f"rewards: numbers by name are a mapping, not a {type(named).__name__}")
    return named.items()


class LateReward(NamedTuple):
    """A reward that was set after its step."""

    step: int
    reward: Earned


class Rewards:
    """What the steps of one episode earned."""

    __slots__ = ("_of_messages", "_of_spans", "late")

    def __init__(self) -> None:
        self._of_spans: dict[int, Earned] = {}
        """By step, of those that brought sampled tokens."""
        self._of_messages: dict[int, Earned] = {}
        """Of the others."""
        self.late: list[LateReward] = []
        """What was set later, in the order in which it came."""

    def __bool__(self) -> bool:
        return bool(self._of_spans or self._of_messages)

    def book(self, step: int, reward: Earned, *, of_messages: bool) -> None:
        """Book what a step earned."""
        (self._of_messages if of_messages else self._of_spans)[step] = reward

    def set_late(self, late: LateReward, *, of_messages: bool) -> None:
        """Book what was set later."""
        of = self._of_messages if of_messages else self._of_spans
        of[late.step] = of.get(late.step, NO_REWARD).updated(late.reward)
        self.late.append(late)

    def of(self, step: int) -> Earned:
        """What a step earned."""
        return self._of_spans.get(step) or self._of_messages.get(step) or NO_REWARD

    def on_turns(self, turns: Sequence[Turn], *, after: int, is_last: bool = True) -> tuple[Turn, ...]:
        """The turns of a segment, with what each earned.

        A sampled turn has what its step earned. What steps with messages earned, their turn has: the template's text
        that the next sampled turn, or nobody yet, comes after.

        Args:
            turns: the segment's.
            after: the last step that sampled in the segment before; 0: there is none.
            is_last: whether the segment is the current one.
        """
        if not self:
            return tuple(turns)
        until = None if is_last or not turns else turns[-1].step
        waiting = {
            step: reward
            for step, reward in sorted(self._of_messages.items())
            if step > after and (until is None or step < until)
        }
        if waiting and not turns:  # of messages that are gone, and nothing else is there
            turns = [Turn(Origin.TEMPLATE, 0, 0, min(waiting), 0, 0)]
        earned = [self._earned(turn, following, waiting) for turn, following in _with_next_span(turns)]
        if earned:
            earned[-1] += waiting.values()  # of messages that left no turn
        return tuple(map(_with_rewards, turns, earned))

    def _earned(self, turn: Turn, following: int | None, waiting: dict[int, Earned]) -> list[Earned]:
        if turn.origin is Origin.SAMPLED:
            own = self._of_spans.get(turn.step)
            return [] if own is None else [own]
        return [waiting.pop(step) for step in list(waiting) if following is None or step < following]

    def on_segments(self, segments: Sequence[Segment]) -> tuple[Segment, ...]:
        """All segments of the episode, with what their turns earned."""
        if not self:
            return tuple(segments)
        done, after = [], 0
        for segment in segments:
            turns = self.on_turns(segment.turns, after=after, is_last=segment is segments[-1])
            done.append(dataclasses.replace(segment, turns=turns))
            after = turns[-1].step if turns else after
        return tuple(done)


def _with_next_span(turns: Sequence[Turn]) -> Sequence[tuple[Turn, int | None]]:
    """Each turn, and the step of the sampled turn that comes next."""
    pairs: list[tuple[Turn, int | None]] = []
    following: int | None = None
    for turn in reversed(turns):
        pairs.append((turn, following))
        if turn.origin is Origin.SAMPLED:
            following = turn.step
    return pairs[::-1]


def _with_rewards(turn: Turn, earned: Sequence[Earned]) -> Turn:
    """A turn with all that several steps earned on it."""
    totals = [total for one in earned if (total := one.total) is not None]
    if not totals:
        return turn
    rewards: dict[str, float] = {}
    for one in earned:
        for name, value in one.named.items():
            rewards[name] = rewards.get(name, 0.0) + value
    return dataclasses.replace(turn, reward=_sum(totals), rewards=rewards)
