"""A whole episode at one moment: what `state` reads.

Its turns are those of `trajectory.py`; spans and tensors of single messages are derived here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from chatenv_client.models.columns import ColumnRows
from chatenv_client.models.failure import Failure
from chatenv_client.models.fidelity import FidelityReport
from chatenv_client.models.messages import Message
from chatenv_client.models.showing import viewing
from chatenv_client.models.tensors import as_tensor
from chatenv_client.models.trajectory import Turn, loss_mask_of
from chatenv_client.tokens import BoolArray, Int32Array

if TYPE_CHECKING:
    import torch


class SegmentEnd(NamedTuple):
    """Where a segment ended that is sealed."""

    token_count: int
    """Length of its stream."""
    message_count: int
    """Messages that the conversation had."""
    step: int
    """The step that sampled its last token."""


class ForkOrigin(NamedTuple):
    """Where an episode comes from that was forked."""

    episode_id: str
    """The episode that it shares its past with."""
    at_step: int
    """The last step that it shares; 0: the opening alone."""


@dataclass(frozen=True, eq=False)
class ChatState:
    """An episode as it is at one moment: its current segment, and where those before ended."""

    episode_id: str
    step_count: int
    history_messages: list[Message]
    message_spans: tuple[tuple[int, int], ...]
    """(start, stop) of each message's part of the stream. They cover it but for the generation prompt."""
    token_ids: Int32Array
    """(T,) int32, the generation prompt included."""
    turns: tuple[Turn, ...]
    """Of the current segment, as are token ids, spans and reports."""
    fidelity: tuple[FidelityReport, ...]
    generation_prompt_length: int = 0
    prompt_fingerprint: str = ""
    terminated: bool = False
    truncated: bool = False
    max_steps: int | None = None
    max_tokens: int | None = None
    max_turns: int | None = None
    max_sampled_tokens: int | None = None
    turn_count: int = 0
    """Turns that the model has ended."""
    turn_open: bool = False
    """Whether its turn was aborted, and is to go on."""
    turns_left: int | None = None
    """Turns that the model may still end; None: any number."""
    tokens_left: int | None = None
    """Tokens that may still be sampled before a limit ends the episode; None: any number."""
    failure: Failure | None = None
    """Why the episode ended that something broke in; None: nothing did."""
    task: str = ""
    """Name of the task that answers; empty: none does."""
    seed: int | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    group: str = ""
    """The group that it is compared within; empty: none."""
    clock_unix_seconds: float | None = None
    """The time that the template sees."""
    sealed: tuple[SegmentEnd, ...] = ()
    """Where each earlier segment ended."""
    column_rows: tuple[ColumnRows, ...] = ()
    """What was given of the segment's columns, in the order in which it came."""
    forked_from: ForkOrigin | None = None
    """None: the episode was opened by a reset."""

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        shown: str = viewing("notebook").told_state(self)
        return shown

    @property
    def segment(self) -> int:
        """Number of the current segment, from 0: as many as are sealed."""
        return len(self.sealed)

    @property
    def history_token_ids(self) -> list[Int32Array]:
        """One int32 array a message."""
        return [self.token_ids[start:stop] for start, stop in self.message_spans]

    @property
    def history_tokens(self) -> list[torch.Tensor]:
        """One int32 torch tensor a message. Imports torch on first use."""
        return [as_tensor(ids) for ids in self.history_token_ids]

    @property
    def loss_mask(self) -> BoolArray:
        """(T,) bool, true exactly on sampled tokens."""
        return loss_mask_of(self.turns, len(self.token_ids))
