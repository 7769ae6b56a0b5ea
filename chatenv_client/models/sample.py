"""One row to train on, and the same cut into prompt and response.

A row is what a model saw and wrote in one segment, up to the last token to train on. What stands after that never goes
into training: the close of a turn, a user's message that nobody answered, a generation prompt.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from chatenv_client.models.columns import Column
from chatenv_client.models.failure import Failure
from chatenv_client.tokens import BoolArray, Float32Array, Int32Array

Float64Array = npt.NDArray[np.float64]


class Split(NamedTuple):
    """A row as prompt and response. The prompt ends before the first token to train on, the response with the last."""

    prompt_ids: Int32Array
    """(P,) int32."""
    response_ids: Int32Array
    """(R,) int32: what the model said, and what the template wrote between its turns."""
    response_mask: BoolArray
    """(R,) bool, true exactly on the tokens to train on; the first and the last are."""
    response_logprobs: Float32Array
    """(R,) float32: 0.0 where the mask is false; else as given, NaN where none was."""
    response_rewards: Float64Array | None
    """(R,) float64: what each turn earned, on its last token; None where the row has no reward."""


@dataclass(frozen=True, eq=False)
class Sample:
    """One row to train on: a segment through the last token to train on. All arrays have its length T."""

    episode_id: str
    segment: int
    """Number of the segment in its episode, from 0."""
    tokens: Int32Array
    """(T,) int32."""
    loss_mask: BoolArray
    """(T,) bool, true exactly on the tokens to train on."""
    logprobs: Float32Array
    """(T,) float32 as given; NaN where none was given."""
    reward: float | None
    """Of the whole episode, the same on each of its rows; None where no reward was given, and where it failed."""
    extras: Mapping[str, Column] = field(default_factory=dict)
    """Its columns, by name."""
    rewards: Mapping[str, float] = field(default_factory=dict)
    """Components of the reward, by name: each summed over the episode; none where `reward` is None."""
    token_rewards: Float64Array | None = None
    """(T,) float64: what each turn earned, on its last token to train on; what messages earned, on the last such token
    before them. Over all rows of the episode they add up to `reward`; None where that is None."""
    group: str = ""
    """The episode's group; empty: none."""
    row_count: int = 1
    """Rows of the episode, this one included: what to divide by where episodes are to weigh alike."""
    failure: Failure | None = None
    """Why the episode ended that something broke in: its rows are no examples."""

    @property
    def prompt_length(self) -> int:
        """Tokens before the first one to train on."""
        return int(self.loss_mask.argmax()) if self.loss_mask.any() else len(self.loss_mask)

    def split(self) -> Split:
        """The row as prompt and response.

        Raises:
            ValueError: it has no token to train on.
        """
        trained = np.flatnonzero(self.loss_mask)
        if not len(trained):
            raise ValueError(f"episode {self.episode_id!r} has no token to train on, so there is no response")
        first, end = int(trained[0]), int(trained[-1]) + 1
        mask = self.loss_mask[first:end]
        return Split(
            self.tokens[:first],
            self.tokens[first:end],
            mask,
            np.where(mask, self.logprobs[first:end], np.float32(0)),
            None if self.token_rewards is None else self.token_rewards[first:end],
        )
