"""Openings that were written before: the episodes of a group begin alike.

What an opening is depends on its messages alone, under one set of render options. Kept are those of messages with a
role and a text and nothing else, whose keys, in their order, tell all that a template can read of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from chatenv_client.models import Message, is_plain, own_message
from chatenv_server.bounded_cache import BoundedCache
from chatenv_server.engine.conversation import Tail

MOST_KEPT: Final = 64
"""Openings: those of a batch in which each prompt comes several times. Two megabytes at most."""
LONGEST_KEPT: Final = 8192
"""Characters of the texts of an opening that is kept."""

_Key = tuple[tuple[tuple[str, object], ...], ...]


class KeptOpenings:
    """Writes openings, and gives those that it keeps again. Safe for threads.

    Args:
        write: writes an opening, always the same of the same messages.
    """

    def __init__(self, write: Callable[[Sequence[Message]], Tail]) -> None:
        self._write = write
        self._kept: BoundedCache[_Key, Tail] = BoundedCache(MOST_KEPT)

    def opening(self, messages: Sequence[Message]) -> Tail:
        """The opening of these messages. Raises what `write` raises."""
        if not all(map(is_plain, messages)) or sum(map(_length, messages)) > LONGEST_KEPT:
            return self._write(messages)
        key = tuple(tuple(message.items()) for message in messages)
        return self._kept.get_or_put(key, lambda: self._shareable(messages))

    def _shareable(self, messages: Sequence[Message]) -> Tail:
        # An opening holds its messages, which stay those of the episode that gave them.
        tail = self._write([own_message(message) for message in messages])
        tail.tokens.flags.writeable = False
        return tail


def _length(message: Message) -> int:
    """Characters of a plain message."""
    return len(message["content"] or "")
