"""Messages as Hugging Face chat templates read them, and a conversation at one moment.

Owns how messages are copied, so that a caller and an episode never share one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypedDict


class Function(TypedDict, total=False):
    """The function that a tool call names, and its arguments: an object, or JSON text where that is kept."""

    name: str
    arguments: dict[str, Any] | str


class ToolCall(TypedDict, total=False):
    """One call of a tool in an assistant message."""

    id: str
    type: str
    function: Function


class Message(TypedDict, total=False):
    """A Hugging Face chat message. `role` is always there; templates may read further keys."""

    role: str
    content: str | list[dict[str, Any]] | None
    reasoning_content: str
    tool_calls: list[ToolCall]
    tool_call_id: str
    name: str


def is_plain(message: Any) -> bool:
    """Whether a message is a dict of a role and a text, as nearly all are, and of nothing else."""
    return type(message) is dict and len(message) == 2 and "role" in message and type(message.get("content")) is str


def own_message(message: Mapping[str, Any]) -> Message:
    """A copy of a message that shares no list or mapping with it; several times faster than copy.deepcopy."""
    return message.copy() if is_plain(message) else _own(message)  # type: ignore[attr-defined, no-any-return]


def _own(value: Any) -> Any:
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return {key: _own(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_own(item) for item in value]
    return value


def _nothing_to_read(index: int) -> Message:
    raise LookupError(f"message {index} is not there")


@dataclass(eq=False, repr=False, slots=True)
class MessageSnapshot:
    """A conversation at one moment. Shares the list with later snapshots; copies when it is read."""

    messages: Sequence[Message | None] = ()
    """None stands for a message that `read` decodes from the token stream when it is needed."""
    length: int = 0
    read: Callable[[int], Message] = _nothing_to_read
    """Gives the message of an index at which the list has None."""

    def __repr__(self) -> str:
        # `messages` may have grown since, and reading those of sampled turns costs work.
        return f"<{self.length} messages>"

    def __reduce__(self) -> tuple[Any, ...]:
        # Read here: what reads them holds a tokenizer.
        return MessageSnapshot, (self.copy(), self.length)

    def at(self, index: int) -> Message:
        """The message of an index, not copied."""
        message = self.messages[index]
        return self.read(index) if message is None else message

    def first(self, count: int = 1) -> Sequence[Message]:
        """The first messages, as far as there are any, not copied."""
        return [self.at(each) for each in range(min(count, self.length))]

    def since(self, index: int) -> list[Message]:
        """The messages from `index` on, not copied."""
        return [self.at(each) for each in range(index, self.length)]

    def copy(self) -> list[Message]:
        """All messages, as the caller's own."""
        return [own_message(message) for message in self.since(0)]


EMPTY_CONVERSATION: Final = MessageSnapshot()
