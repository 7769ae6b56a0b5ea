"""What an episode shows after a reset or a step, and what messages would add to it.

An observation is a view: it copies tokens and messages only when they are read.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from chatenv_client.models.failure import Failure
from chatenv_client.models.fidelity import FidelityReport
from chatenv_client.models.messages import EMPTY_CONVERSATION, Message, MessageSnapshot
from chatenv_client.models.showing import viewing
from chatenv_client.models.tensors import as_tensor
from chatenv_client.tokens import EMPTY_SNAPSHOT, Int32Array, TokenSnapshot

if TYPE_CHECKING:
    import torch


@dataclass(eq=False, slots=True)
class ChatObservation:
    """What an episode shows after a reset or a step.

    Reading `messages`, `token_ids` or `tokens` costs time proportional to the episode; not reading them costs
    nothing.
    """

    episode_id: str = ""
    step_count: int = 0
    stream: TokenSnapshot = EMPTY_SNAPSHOT
    """The token stream, not yet copied."""
    conversation: MessageSnapshot = EMPTY_CONVERSATION
    """The messages, not yet copied."""
    reward: float | None = None
    """Reward of this step; None: neither a task nor a transform gave one."""
    rewards: dict[str, float] = field(default_factory=dict)
    """Its components by name, where it has some: the reward is their weighted sum, and what came without a name."""
    terminated: bool = False
    """The task itself ended the episode."""
    truncated: bool = False
    """A limit, the task or a transform cut the episode off."""
    failure: Failure | None = None
    """Why the episode ended that something broke in; None: nothing did."""
    metadata: dict[str, Any] = field(default_factory=dict)
    generation_prompt_length: int = 0
    """How many trailing tokens are the generation prompt; 0 when it is not the model's turn."""
    fidelity: tuple[FidelityReport, ...] = ()
    """What was not exact about this step; empty: all was exact."""
    prompt_fingerprint: str = ""
    """BLAKE2b-128 of the stream, where it is known already. `fingerprint()` gives it in any case."""
    seed: int | None = None
    """As given at reset, for tasks and transforms that draw."""
    held_tokens: int = 0
    """Number of leading tokens that a caller holds already, if it saw the step before and sent this one."""
    held_messages: int = 0
    """Number of leading messages that this caller holds already."""
    segment: int = 0
    """Number of the segment that the stream is, from 0. It goes up where the stream is no continuation of the one
    before."""
    turns_left: int | None = None
    """Turns that the model may still end; None: any number."""
    tokens_left: int | None = None
    """Tokens that may still be sampled before a limit ends the episode; None: any number."""
    turn_open: bool = False
    """Whether the model's turn was aborted, and is to go on."""

    @property
    def done(self) -> bool:
        """Whether the episode is over: terminated, truncated or failed. Setting it sets `terminated`, nothing else."""
        return self.terminated or self.truncated or self.failure is not None

    @done.setter
    def done(self, value: bool) -> None:
        self.terminated = value

    @property
    def messages(self) -> list[Message]:
        """All messages, as a list of the caller's own."""
        return self.conversation.copy()

    @property
    def token_ids(self) -> Int32Array:
        """(T,) int32: the stream the model reads next, as a writable array."""
        return self.stream.token_ids

    @property
    def tokens(self) -> torch.Tensor:
        """(T,) int32 torch tensor on `token_ids`, without a copy. Imports torch on first use."""
        return as_tensor(self.token_ids)

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        shown: str = viewing("notebook").told_observation(self)
        return shown

    def fingerprint(self) -> str:
        """32 hexadecimal digits: BLAKE2b-128 of `token_ids` as little-endian int32 bytes."""
        return self.prompt_fingerprint or self.stream.fingerprint()


class StepResult(NamedTuple):
    """A client's answer to reset and step."""

    observation: ChatObservation
    reward: float | None
    done: bool


@dataclass(frozen=True, eq=False)
class Rendered:
    """What messages would add to an episode if they were appended now."""

    tokens_offset: int
    """From this offset on the stream would be `tokens`."""
    tokens: Int32Array
    """(n,) int32, the generation prompt included where it would stand."""
    fidelity: tuple[FidelityReport, ...] = ()
    """What would not be exact."""
