"""Answers single Resets and Steps so that what many of them do is written at once.

A thread that has done a call does not write it yet. It first works on the calls that wait for a thread, one within
another, and then writes what all of them did in one transaction. So no thread sleeps until another has written, which
would cost more than a Step does; and a lone call waits for nobody.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Final

from chatenv_server.episodes.episode import Caller
from chatenv_server.episodes.writing import Outdated, Writing
from chatenv_server.rpc.answering import AnswerOne
from chatenv_server.rpc.room import AnswerRoom
from chatenv_server.work import done

MOST_TOGETHER: Final = 16
"""Calls of one transaction. Each takes 13 of the interpreter's thousand frames, and templates need some, too."""
LONGEST_S: Final = 0.02
"""Seconds after which a thread takes no further call before it writes: for so long the first of them waits."""


class _Group(threading.local):
    """The calls that a thread works on, one within another."""

    size = 0
    began = 0.0
    writing: Writing | None = None


class Together:
    """Answers calls, and has what they do written with what those do that wait.

    Args:
        writing: a way to write what they do together; None where nothing is written.
        work_on_next: works on a call that waits for a thread, in the calling one, if there is one.
    """

    def __init__(self, writing: Callable[[], Writing | None], work_on_next: Callable[[], object]) -> None:
        self._writing = writing
        self._work_on_next = work_on_next
        self._group = _Group()

    def answer(self, answer: AnswerOne, request: Any, response: Any, caller: Caller, room: AnswerRoom) -> None:
        """Answer a request into a response; when this returns, what it did is written.

        Raises:
            ChatEnvError: it is refused, or the store did not take what it did.
        """
        group = self._group
        if not group.size:
            group.writing, group.began = self._writing(), time.monotonic()
        writing = group.writing
        if writing is None:
            done(answer(request, response, caller, room, None))
            return
        group.size += 1
        try:
            key = writing.next_key()
            done(answer(request, response, caller, room, writing))
            if group.size < MOST_TOGETHER and time.monotonic() - group.began < LONGEST_S:
                self._work_on_next()
            writing.settle(key)
        except Outdated:
            writing.write()  # no lock of the others' episodes is held while this call waits for its own
            done(answer(request, response, caller, room, None))
        finally:
            group.size -= 1
