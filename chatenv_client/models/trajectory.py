"""An episode as training wants it: its turns, and arrays as long as its token stream.

What a stream's tokens have of their turns is computed here.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from chatenv_client.models.action import StopReason
from chatenv_client.models.fidelity import FidelityReport
from chatenv_client.tokens import BoolArray, Float32Array, Int32Array


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

    @property
    def stop(self) -> int:
        """First token after the turn."""
        return self.start + self.length


@dataclass(frozen=True, eq=False)
class Trajectory:
    """An episode as training wants it. All arrays have the length T of the stream."""

    episode_id: str
    tokens: Int32Array
    """(T,) int32."""
    loss_mask: BoolArray
    """(T,) bool, true exactly on sampled tokens."""
    logprobs: Float32Array
    """(T,) float32 as given; NaN where none was given."""
    turn: Int32Array
    """(T,) int32, index into `turns`."""
    turns: tuple[Turn, ...]
    fidelity: tuple[FidelityReport, ...]
    terminated: bool = False
    truncated: bool = False


def loss_mask_of(turns: Sequence[Turn], length: int) -> BoolArray:
    """(length,) bool, true exactly on the tokens of sampled turns."""
    mask = np.zeros(length, dtype=np.bool_)
    for turn in turns:
        if turn.origin is Origin.SAMPLED:
            mask[turn.start : turn.stop] = True
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
