"""Prompts that were rendered in this process, by their token ids: the conversations that a bridge goes on with.

A bridge is given token ids alone. What a template writes next may depend on more: on earlier messages, or on a thought
that it is about to strip. So each prompt is remembered with its messages, the longest unused forgotten first.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from chatenv_client.models import Message
from chatenv_server.engine.conversation import PendingRewrite

_MOST_KEPT: Final = 16_384
"""Prompts: some thousand rollouts at once, with several turns each. One takes a few kilobytes beside its messages."""


class KnownPrompt(NamedTuple):
    """What a prompt was rendered from."""

    messages: Sequence[Message]
    pending: PendingRewrite | None
    """An earlier message that later turns may make the template rewrite."""
    prompted: bool
    """Whether it ends with the generation prompt."""


class KnownPrompts:
    """The prompts of all renderers of a process. Safe for threads."""

    def __init__(self) -> None:
        self._known: OrderedDict[bytes, KnownPrompt] = OrderedDict()
        self._lock = threading.Lock()

    def remember(self, format_key: bytes, ids: Sequence[int], prompt: KnownPrompt) -> None:
        """Keep a prompt; `format_key` tells what rendered it: tokenizer, template and options."""
        key = _key(format_key, ids)
        with self._lock:
            self._known[key] = prompt
            self._known.move_to_end(key)
            if len(self._known) > _MOST_KEPT:
                self._known.popitem(last=False)

    def get(self, format_key: bytes, ids: Sequence[int]) -> KnownPrompt | None:
        """The prompt of these ids; None: it was not rendered here, or is forgotten."""
        key = _key(format_key, ids)
        with self._lock:
            if key in self._known:
                self._known.move_to_end(key)
            return self._known.get(key)


def _key(format_key: bytes, ids: Sequence[int]) -> bytes:
    return hashlib.blake2b(np.asarray(ids, dtype=np.int32).tobytes(), key=format_key, digest_size=16).digest()


KNOWN_PROMPTS: Final = KnownPrompts()
"""Of the whole process: a pool of renderers may render a prompt with one of them and go on with another."""
