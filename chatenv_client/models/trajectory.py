"""An episode as training wants it: its segments, each with its turns and with arrays as long as its token stream.

What a stream's tokens have of their turns is computed here; the rows to train on are `sample.py`'s.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np

from chatenv_client.models.columns import Column, ColumnRows, columns_of
from chatenv_client.models.failure import Failure
from chatenv_client.models.fidelity import FidelityReport
from chatenv_client.models.messages import Message
from chatenv_client.models.sample import Float64Array, Sample, Split
from chatenv_client.models.showing import viewing
from chatenv_client.models.stop_reason import StopReason
from chatenv_client.models.token_text import TokenSource
from chatenv_client.tokens import BoolArray, Float32Array, Int32Array, mask_of_runs

Which = Literal["sampled", "assistant"]
"""Tokens to train on: those that were sampled, or all that assistants say."""


class Origin(enum.Enum):
    """Who wrote a stretch of the token stream."""

    TEMPLATE = "template"
    """Rendered by the chat template; loss mask 0."""
    SAMPLED = "sampled"
    """Sampled by a model, kept bit for bit; loss mask 1."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of an episode: a sampled span, or the template's text between two of them."""

    origin: Origin
    start: int
    """First token. Turns are contiguous and cover the stream."""
    length: int
    step: int
    """The step that appended it; 0 for the opening."""
    first_message: int
    message_count: int
    """Messages it added; 0 where a sampled turn continued the message before it."""
    stop_reason: StopReason | None = None
    model_version: str = ""
    reward: float | None = None
    has_logprobs: bool = False
    sampled_runs: tuple[int, ...] = ()
    """Which of a sampled turn's tokens the model sampled: run lengths, first of those that were forced on it, then of
    those sampled, and so on. Empty: all."""
    model_version_runs: tuple[tuple[str, int], ...] = ()
    """(version, number of tokens) in order, where the weights changed within the turn."""
    rewards: Mapping[str, float] = field(default_factory=dict)
    """Components of `reward` by name, where it has some."""
    at_ms: int | None = field(default=None, compare=False)
    """When the step that appended it came, in milliseconds since the reset; of a task's answer, when that was there.
    None: not known. Turns that differ in it alone are equal: nobody plays twice in the same time."""

    @property
    def stop(self) -> int:
        """First token after the turn."""
        return self.start + self.length


@dataclass(frozen=True, eq=False)
class Segment:
    """One append-only stream of an episode. All arrays have its length T."""

    tokens: Int32Array
    """(T,) int32."""
    loss_mask: BoolArray
    """(T,) bool, true exactly on tokens that were sampled in this segment."""
    logprobs: Float32Array
    """(T,) float32 as given; NaN where none was given."""
    turn: Int32Array
    """(T,) int32, index into `turns`."""
    turns: tuple[Turn, ...]
    fidelity: tuple[FidelityReport, ...] = ()
    shared_length: int = 0
    """Leading tokens that the segment before has, too; 0 in the first one."""
    column_rows: tuple[ColumnRows, ...] = ()
    """What was given of its columns, in the order in which it came."""

    @cached_property
    def extras(self) -> dict[str, Column]:
        """Its columns by name."""
        return columns_of(self.column_rows)

    @property
    def has_logprob(self) -> BoolArray:
        """(T,) bool, true where a logprob was given. There NaN is what was given; elsewhere it says that none was."""
        given = np.zeros(len(self.tokens), dtype=np.bool_)
        for turn in self.turns:
            given[turn.start : turn.stop] = turn.has_logprobs
        return given


@dataclass(frozen=True, eq=False)
class Trajectory:
    """An episode as training wants it: one segment, or several where its history changed on the way.

    Of an episode with one segment, `tokens`, `loss_mask`, `logprobs`, `turn` and `turns` are that segment's.
    """

    episode_id: str
    segments: tuple[Segment, ...]
    """At least one; the last is the current one."""
    terminated: bool = False
    truncated: bool = False
    failure: Failure | None = None
    """Why it ended that something broke in; None: nothing did. A failed episode is no example, whatever rewards it
    has."""
    messages: tuple[Message, ...] = ()
    """The conversation as it is now."""
    metadata: dict[str, Any] = field(default_factory=dict)
    """As given at reset."""
    seed: int | None = None
    """As given at reset."""
    group: str = ""
    """The group that it is compared within; empty: none."""
    given_assistants: tuple[tuple[int, int], ...] | None = None
    """(start, stop) in the current segment of each assistant's message that was given and not sampled: what a model
    would have sampled of it, through the token that ends the turn. None: the trajectory was read without it."""

    def samples(self, which: Which = "sampled") -> list[Sample]:
        """The rows to train on: one for each segment that has anything to train on.

        Args:
            which: tokens to train on; see `mask`.

        Raises:
            ValueError: there is no such choice, or given assistants are asked for and there are several segments.
        """
        masks = [segment.loss_mask for segment in self.segments] if which == "sampled" else [self.mask(which)]
        is_example = self.failure is None and self.reward is not None
        earned = _rewards_of_tokens(self.segments, masks) if is_example else [None] * len(masks)
        count = sum(bool(mask.any()) for mask in masks)
        return [
            self._sample(number, mask, rewards, count)
            for number, (mask, rewards) in enumerate(zip(masks, earned, strict=True))
            if mask.any()
        ]

    def _sample(self, number: int, mask: BoolArray, rewards: Float64Array | None, row_count: int) -> Sample:
        segment = self.segments[number]
        end = int(np.flatnonzero(mask)[-1]) + 1
        return Sample(
            self.episode_id,
            number,
            segment.tokens[:end],
            mask[:end],
            segment.logprobs[:end],
            None if rewards is None else self.reward,
            {name: column.first(end) for name, column in segment.extras.items()},
            {} if rewards is None else self.rewards,
            None if rewards is None else rewards[:end],
            self.group,
            row_count,
            self.failure,
        )

    def to_html(self, tokens: TokenSource = None) -> str:
        """The episode as an HTML page: one file that loads nothing. Needs jinja2, the extra `view`.

        Args:
            tokens: whoever knows what tokens stand for: a `ChatEnv`, a `ChatEnvironment` or a tokenizer. None: the page
                shows ids.

        Raises:
            ImportError: jinja2 is not installed.
            TypeError: whoever was given knows nothing of tokens.
        """
        pages = viewing()
        page: str = pages.episode_page(self, pages.texts_of(tokens, self))
        return page

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        shown: str = viewing("notebook").told_trajectory(self)
        return shown

    def split(self, which: Which = "sampled") -> Split:
        """Prompt and response, cut at the last token to train on.

        Args:
            which: tokens to train on; see `mask`.

        Raises:
            ValueError: there is no token to train on; or there are several segments, and so several prompts.
        """
        _ = self._only
        rows = self.samples(which)
        if not rows:
            what = "nothing was sampled" if which == "sampled" else "no assistant has said anything"
            raise ValueError(f"{what} in episode {self.episode_id!r}, so there is no response to train on")
        return rows[0].split()

    def mask(self, which: Which = "sampled") -> BoolArray:
        """(T,) bool, the tokens to train on.

        Args:
            which: `sampled`: those that a model sampled in this episode. `assistant`: also what assistants say in
                messages that were given, each from after its generation prompt through the token that ends the turn,
                for supervised training.

        Raises:
            ValueError: there is no such choice, there are several segments, or the trajectory was read without
                `assistants=True`.
        """
        segment = self._only
        if which not in get_args(Which):
            raise ValueError(f"which is 'sampled' or 'assistant', not {which!r}")
        mask: BoolArray = segment.loss_mask.copy()
        if which == "assistant":
            if self.given_assistants is None:
                raise ValueError("what given assistants say was not read; read it with trajectory(assistants=True)")
            for start, stop in self.given_assistants:
                mask[start:stop] = True
        return mask

    @property
    def prompt_length(self) -> int:
        """Tokens before the first sampled one; all, where none was. Raises ValueError if there are several segments."""
        mask = self.loss_mask
        return int(mask.argmax()) if mask.any() else len(mask)

    @property
    def reward(self) -> float | None:
        """Sum of all rewards; None where none was given, and of an episode that failed, whatever its turns earned."""
        if self.failure is not None:
            return None
        rewards = [turn.reward for turn in self._all_turns if turn.reward is not None]
        return sum(rewards) if rewards else None

    @property
    def rewards(self) -> dict[str, float]:
        """Components of the rewards by name, each summed over the episode; without their weights."""
        sums: dict[str, float] = {}
        for turn in self._all_turns:
            for name, value in turn.rewards.items():
                sums[name] = sums.get(name, 0.0) + value
        return sums

    @property
    def _all_turns(self) -> list[Turn]:
        return [turn for segment in self.segments for turn in segment.turns]

    @property
    def fidelity(self) -> tuple[FidelityReport, ...]:
        """What was not exact in any segment, in order. Indices of tokens count from the beginning of its segment."""
        return tuple(report for segment in self.segments for report in segment.fidelity)

    @property
    def tokens(self) -> Int32Array:
        """(T,) int32. Raises ValueError where there are several segments."""
        return self._only.tokens

    @property
    def loss_mask(self) -> BoolArray:
        """(T,) bool, true exactly on sampled tokens. Raises ValueError where there are several segments."""
        return self._only.loss_mask

    @property
    def logprobs(self) -> Float32Array:
        """(T,) float32; NaN where none was given. Raises ValueError where there are several segments."""
        return self._only.logprobs

    @property
    def turn(self) -> Int32Array:
        """(T,) int32, index into `turns`. Raises ValueError where there are several segments."""
        return self._only.turn

    @property
    def turns(self) -> tuple[Turn, ...]:
        """All turns. Raises ValueError where there are several segments."""
        return self._only.turns

    @property
    def _only(self) -> Segment:
        if len(self.segments) > 1:
            raise ValueError(
                f"the history of this episode changed, so it has {len(self.segments)} segments and no one stream; "
                "read `segments`, or `samples()` for the rows to train on"
            )
        return self.segments[0]


def _rewards_of_tokens(segments: Sequence[Segment], masks: Sequence[BoolArray]) -> list[Float64Array]:
    """(T,) float64 for each segment: what each turn earned, on its last token to train on.

    What messages and turns without such a token earned counts on the last one before them, in whatever segment; where
    there is none before them, on the first turn's.
    """
    earned = [np.zeros(len(mask)) for mask in masks]
    place: tuple[int, int] | None = None
    waiting = 0.0
    for number, (segment, mask) in enumerate(zip(segments, masks, strict=True)):
        for turn in segment.turns:
            trained = np.flatnonzero(mask[turn.start : turn.stop])
            if len(trained):
                place = number, turn.start + int(trained[-1])
            waiting += turn.reward or 0.0
            if place is not None:
                earned[place[0]][place[1]] += waiting
                waiting = 0.0
    return earned


def segment_of(
    tokens: Int32Array,
    turns: Sequence[Turn],
    given_logprobs: Float32Array,
    fidelity: Sequence[FidelityReport],
    *,
    shared_length: int = 0,
    column_rows: Sequence[ColumnRows] = (),
) -> Segment:
    """A segment with one mask value, logprob and turn index a token.

    Args:
        tokens: (T,) int32, the whole stream.
        turns: its turns.
        given_logprobs: of the turns that have some, in stream order.
        fidelity: what was not exact.
        shared_length: leading tokens that the segment before has, too.
        column_rows: what was given of its columns.
    """
    return Segment(
        tokens,
        loss_mask_of(turns, len(tokens)),
        logprobs_of(turns, given_logprobs, len(tokens)),
        turn_of_each_token(turns),
        tuple(turns),
        tuple(fidelity),
        shared_length,
        tuple(column_rows),
    )


def loss_mask_of(turns: Sequence[Turn], length: int) -> BoolArray:
    """(length,) bool, true exactly on sampled tokens: those of sampled turns but for what was forced there."""
    mask = np.zeros(length, dtype=np.bool_)
    for turn in turns:
        if turn.origin is Origin.SAMPLED:
            mask[turn.start : turn.stop] = mask_of_runs(turn.sampled_runs) if turn.sampled_runs else True
    return mask


def logprobs_of(turns: Sequence[Turn], given: Float32Array, length: int) -> Float32Array:
    """(length,) float32: the given logprobs at the tokens of the turns that have some, in order; NaN elsewhere."""
    logprobs = np.full(length, np.nan, dtype=np.float32)
    taken = 0
    for turn in turns:
        if turn.has_logprobs:
            logprobs[turn.start : turn.stop] = given[taken : taken + turn.length]
            taken += turn.length
    return logprobs


def turn_of_each_token(turns: Sequence[Turn]) -> Int32Array:
    """(T,) int32, for every token the index of its turn."""
    return np.repeat(np.arange(len(turns), dtype=np.int32), [turn.length for turn in turns])
