"""What a caller does in one step: `ChatAction`, and the other types that `step` takes.

An action converts and checks its values when it is made. It says nothing of what the template will add.
"""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from chatenv_client.models.columns import NO_COLUMNS, as_columns, as_single_rows
from chatenv_client.models.messages import Message
from chatenv_client.models.stop_reason import StopReason, as_stop_reason
from chatenv_client.tokens import EMPTY_TOKENS, Float32Array, Int32Array, as_logprobs, as_mask, as_token_ids


@dataclass(eq=False, slots=True)
class ChatAction:
    """What a caller does in one step: the tokens that a model sampled, or messages to append.

    `tokens` takes a torch tensor, a numpy array or a list, of any shape with one row. With `messages`,
    only the messages count: the tokens are a preview of what they add (see `message_to_action`).
    """

    tokens: Any = None
    """(n,) int32 after construction. May be empty beside a `stop_reason`: sampling stopped before the first token."""
    logprobs: Any = None
    """(n,) float32 after construction, or None: natural-log probability of each sampled token."""
    stop_reason: StopReason | str | None = None
    """`stop`, `length` or `abort`, or an engine's word for one (docs/training.md); None: `stop` if the span ends
    in a stop token, else `length`."""
    model_version: Any = ""
    """Version of the weights that sampled: a text, or a whole number, which is a text after construction."""
    messages: tuple[Message, ...] = ()
    """Messages to append, recorded as given."""
    prompt_fingerprint: str = ""
    """Fingerprint of the prompt the tokens were sampled from. Empty: no check; the client fills it in."""
    replace_from: int | None = None
    """The messages take the place of all from this index on, and there may be none of them. None: they are appended."""
    message: Message | None = None
    """The assistant message that the tokens are, where the caller has parsed them. None: the server reads it from the
    tokens. It is recorded as given; the tokens stay as they are."""

    mask: Any = None
    """(n,) bool after construction, or None: which of the tokens the model sampled. Those that were forced on it, such
    as the end of a thought whose budget is spent, stay in the turn and are not trained on. None: it sampled all."""
    model_version_runs: tuple[tuple[str, int], ...] = ()
    """(version, number of tokens) in order, where the weights changed within the turn; in place of `model_version`."""
    extras: Any = None
    """By name (n, ...) arrays, of a row for each token: what the engine knows of them, such as routed experts. A dict
    after construction."""
    amended_extras: Any = None
    """By name the row (...) of the last token of the span before, where the engine knows it only now. A dict after
    construction."""

    def __post_init__(self) -> None:
        self.tokens = EMPTY_TOKENS if self.tokens is None else as_token_ids(self.tokens)
        if self.logprobs is not None:
            self.logprobs = as_logprobs(self.logprobs)
        if self.stop_reason is not None:
            self.stop_reason = as_stop_reason(self.stop_reason)
        self.messages = tuple(self.messages)
        if self.replace_from is not None:
            self.replace_from = operator.index(self.replace_from)
        if self.mask is not None:
            self.mask = as_mask(self.mask)
        self.extras = as_columns(self.extras) if self.extras else NO_COLUMNS
        self.amended_extras = as_single_rows(self.amended_extras) if self.amended_extras else NO_COLUMNS
        self.model_version = _as_version(self.model_version)
        if self.model_version_runs:
            self.model_version_runs = tuple(map(_as_version_run, self.model_version_runs))

    @classmethod
    def of_checked(
        cls,
        *,
        tokens: Int32Array,
        logprobs: Float32Array | None = None,
        stop_reason: StopReason | None = None,
        model_version: str = "",
        messages: tuple[Message, ...] = (),
        prompt_fingerprint: str = "",
        replace_from: int | None = None,
        message: Message | None = None,
    ) -> ChatAction:
        """An action of values that have their final types and no other owner; they are neither checked nor copied.

        It has no mask, no runs and no columns.
        """
        action = cls.__new__(cls)
        action.tokens = tokens
        action.logprobs = logprobs
        action.stop_reason = stop_reason
        action.model_version = model_version
        action.messages = messages
        action.prompt_fingerprint = prompt_fingerprint
        action.replace_from = replace_from
        action.message = message
        action.mask = None
        action.model_version_runs = ()
        action.extras = action.amended_extras = NO_COLUMNS
        return action

    @property
    def changes_messages(self) -> bool:
        """Whether it appends or replaces messages; else it appends sampled tokens."""
        return bool(self.messages) or self.replace_from is not None


def _as_version_run(run: Any) -> tuple[str, int]:
    if not isinstance(run, (tuple, list)) or len(run) != 2:
        raise TypeError(f"model_version_runs are pairs of a version and a number of tokens, not {run!r}")
    return _as_version(run[0]), operator.index(run[1])


def _as_version(version: Any) -> str:
    """A version, or the number of one, as text."""
    if isinstance(version, str):
        return version
    if not isinstance(version, bool):
        with contextlib.suppress(TypeError):
            return str(operator.index(version))
    raise TypeError(f"a model version is a text or a whole number, such as 'step-17' or 17, not {version!r}")


Action = ChatAction | Mapping[str, Any] | Sequence[Mapping[str, Any]]
"""What `step` takes: an action, a message, or a list of messages."""


def as_action(action: Any, replace_from: int | None = None) -> ChatAction:
    """Make an action of what `step` was given.

    Raises:
        TypeError: it is neither an action, a message nor a list of messages.
    """
    made = action if isinstance(action, ChatAction) else _action_of(action)
    return made if replace_from is None else replace(made, replace_from=replace_from)


def _action_of(action: Any) -> ChatAction:
    if isinstance(action, (dict, Mapping)):  # nearly all are, and asking for a Mapping takes longer
        return ChatAction.of_checked(tokens=EMPTY_TOKENS, messages=(action,))  # type: ignore[arg-type]
    if isinstance(action, (list, tuple)) and all(isinstance(item, Mapping) for item in action):
        return ChatAction.of_checked(tokens=EMPTY_TOKENS, messages=tuple(action))
    raise TypeError(
        f"step takes a ChatAction, a message or a list of messages, not {type(action).__name__}; "
        "wrap sampled token ids as ChatAction(tokens=...)"
    )
