"""SIGTERM and SIGINT, as a server takes them: the first asks it to drain, the second ends it at once."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType


def catch_signals(first: Callable[[], object], second: Callable[[], object]) -> None:
    """Have `first` called on the first SIGTERM or SIGINT, and `second` on the one after it.

    Handlers of our own also make a server end as PID 1, for which the system has none.
    """
    handled = (signal.SIGTERM, signal.SIGINT)

    def handle(_number: int, _frame: FrameType | None) -> None:
        for each in handled:
            signal.signal(each, lambda *_: second())
        first()

    for number in handled:
        signal.signal(number, handle)
