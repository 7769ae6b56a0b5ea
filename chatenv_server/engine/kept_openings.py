"""Openings that were written before: the episodes of a group begin alike.

What an opening is depends on its messages alone, under one set of render options. Kept are short openings of messages
with a role and a text and nothing else: their names and values, in order, are all that a template can read of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from chatenv_client.models import Message, is_plain, own_message
from chatenv_server.bounded_cache import BoundedCache
from chatenv_server.engine.conversation import Tail

MOST_KEPT: Final = 128
"""Openings of all options together: those of a batch in which each prompt comes several times."""
LONGEST_KEPT: Final = 8192
"""Characters of an opening that is kept, with all that the template writes. At most some 200 kB each."""
MOST_MESSAGES: Final = 16
"""Of an opening that is kept."""

OpeningCache = BoundedCache[tuple[object, tuple[Any, ...]], Tail]
"""By what stands for the options, and messages."""


class KeptOpenings:
    """Writes openings under one set of options, and gives those that are kept again. Safe for threads.

    Args:
        write: writes an opening, always the same of the same messages.
        cache: where they are kept, with those of other options.
    """

    def __init__(self, write: Callable[[Sequence[Message]], Tail], cache: OpeningCache) -> None:
        self._write = write
        self._cache = cache
        self._options = object()
        """Stands for them in keys, which so keep no renderer alive."""

    def opening(self, messages: Sequence[Message]) -> Tail:
        """The opening of these messages. Raises what `write` raises."""
        if len(messages) > MOST_MESSAGES or not all(map(_tells_all, messages)):
            return self._write(messages)
        key = (self._options, tuple(tuple(message.items()) for message in messages))
        tail = self._cache.get(key)
        if tail is None:
            # The opening holds these copies. The episode's own messages may change.
            tail = self._write([own_message(message) for message in messages])
            if tail.opening is not None and len(tail.opening.text) <= LONGEST_KEPT:
                tail.tokens.flags.writeable = False
                self._cache.put(key, tail)
        return tail


def _tells_all(message: Message) -> bool:
    """Whether equal messages are the same to every template: texts of a class of their own may be written otherwise."""
    return is_plain(message) and type(message["role"]) is str and all(type(name) is str for name in message)
