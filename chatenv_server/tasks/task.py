"""What a task is: it opens an episode, answers each turn of the model, and is closed at the end.

Only the protocol and the values that pass over it. Who calls a task, and holds what it says against the rules, is
`environment/task_guard.py`.
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from chatenv_client.models import Failure, Message, StopReason
from chatenv_client.models.messages import EMPTY_CONVERSATION, MessageSnapshot
from chatenv_client.tokens import EMPTY_TOKENS, Float32Array, Int32Array

NO_METADATA: Mapping[str, Any] = {}


@dataclass(frozen=True, eq=False)
class TaskEpisode:
    """An episode as its task sees it when it opens: what the caller gave with the reset."""

    episode_id: str = ""
    seed: int | None = None
    messages: Sequence[Message] = ()
    """Opening messages, the system prompt excepted."""
    tools: Sequence[Mapping[str, Any]] | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    row: Mapping[str, Any] | None = None
    """The row of the server's data that the caller chose; None: none."""


@dataclass(frozen=True, eq=False)
class Opening:
    """How a task opens an episode. What is left out stays as the caller gave it."""

    messages: Sequence[Mapping[str, Any]] | None = None
    """Opening messages, in the place of the caller's."""
    tools: Sequence[Mapping[str, Any]] | None = None
    """JSON schemas of tools, in the place of the caller's."""
    metadata: Mapping[str, Any] | None = None
    """Added to the caller's, and shown with every observation."""


@dataclass(eq=False, slots=True)
class ModelTurn:
    """A turn that the model ended, as its task reads it."""

    message: Message
    """The assistant's message: content, reasoning and tool calls, as far as they could be read."""
    text: str = ""
    """The turn's tokens as text, without the token that ends it."""
    tokens: Int32Array = field(default_factory=lambda: EMPTY_TOKENS)
    """(n,) int32, the whole turn, what was sampled before an abort included."""
    logprobs: Float32Array | None = None
    """(n,) float32, natural logarithms; None: not given for the whole turn."""
    stop_reason: StopReason = StopReason.STOP
    """STOP or LENGTH. Of a turn that was aborted no task is told before it has gone on and ended: ABORT only where a
    limit ends the episode with it."""
    conversation: MessageSnapshot = EMPTY_CONVERSATION
    """The messages, this one included, not yet copied."""
    episode_id: str = ""
    step_count: int = 0
    """Steps taken since reset, this one included."""
    turn_count: int = 0
    """Turns that the model ended since reset, this one included."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
    row: Mapping[str, Any] | None = None
    turns_left: int | None = None
    """Turns that the model may still end; None: any number. 0: this was the last, and the episode is cut off."""

    @property
    def messages(self) -> list[Message]:
        """The whole conversation, this turn's message last, as a list of the task's own."""
        return self.conversation.copy()


@dataclass(frozen=True, eq=False)
class Answer:
    """What a task says to a turn: messages to append, the reward, and whether the episode ends.

    Raises:
        TypeError: a reward is given both as one number and by components, weights without components, or a failure
            with another end.
    """

    messages: Sequence[Mapping[str, Any]] = ()
    """Appended in the same step, with the next generation prompt."""
    reward: float | None = None
    """One number, where it has no components."""
    rewards: Mapping[str, float] | None = None
    """Components by name. The reward is their weighted sum."""
    weights: Mapping[str, float] | None = None
    """Of components; 1 where none is given."""
    terminated: bool = False
    """The task itself ends the episode."""
    truncated: bool = False
    """The episode is cut off."""
    metadata: Mapping[str, Any] | None = None
    """Shown with this step's observation, beside the episode's own."""
    failure: Failure | None = None
    """The episode ends because something broke: no reward counts, and nothing is trained on."""

    def __post_init__(self) -> None:
        if self.reward is not None and self.rewards is not None:
            raise TypeError("an answer has one reward, or several by name; give either")
        if self.weights is not None and self.rewards is None:
            raise TypeError("weights are of rewards by name, and there are none")
        if self.failure is not None and (self.terminated or self.truncated):
            raise TypeError("an episode that has a failure is neither terminated nor truncated; give failure alone")


class End(str, enum.Enum):
    """Why a task is closed."""

    CLOSED = "closed"
    """The caller closed the episode, whether it was over or not."""
    EXPIRED = "expired"
    """Nobody used the episode for too long."""
    RESET = "reset"
    """The episode was started anew, with another instance."""
    STOPPED = "stopped"
    """The server stops, or the process ends, and nothing keeps the episode."""
    REFUSED = "refused"
    """The episode could not be opened: what the task opened with was refused, or `open` failed."""

    __str__ = str.__str__


class Task:
    """An environment that answers: one instance an episode. Subclass it, and define at least `answer`.

    `open`, `answer` and `close` may be plain or `async`. All `async` ones of a process share one event loop, so none of
    them may block it; plain ones run in threads. Calls on one instance never overlap. What raises, lasts longer than
    the server's `--task-timeout` or says what cannot be is a failure of the call: the reset or step is taken back
    whole, and may be tried again. It is never a reward.

    What an instance has to know to go on is its state. It is taken back with a step that fails, goes with forks and
    exports, and is kept where episodes outlive the process. By default that is all its attributes, where they are JSON;
    a task that holds other things defines `state_dict` and `load_state_dict`. An instance is made with the keywords
    that the caller gives as `task_args`.
    """

    def open(self, episode: TaskEpisode) -> Opening | Awaitable[Opening | None] | None:  # noqa: ARG002
        """Open the episode. None: as the caller gave it.

        Not called where an episode is taken up again: then `load_state_dict` is.
        """
        return None

    def answer(self, turn: ModelTurn) -> Answer | Awaitable[Answer | None] | None:
        """Answer a turn that the model ended. None: there is nothing to say, and no reward.

        Not called for messages that the caller gives, nor for a span that the sampler aborted.
        """
        raise NotImplementedError(f"{type(self).__name__} does not answer: define `answer(self, turn)`")

    def close(self, reason: End) -> Awaitable[None] | None:
        """Free what was opened. Called exactly once, whatever ends the episode; what it raises is logged."""
