"""Lets calls in: only while the server serves, and only so many at once. Refuses at once, and never queues."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from chatenv_client.errors import ChatEnvError, ServerBusyError, UnavailableError


class Gate:
    """Counts calls in flight. Closed until it is opened; once drained it stays closed.

    As a context manager it is a place, for as long as the context lasts. Many threads may be in it at once.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._in_flight = 0
        self._refusal = "the server is still loading; try again"
        self._open = False
        self._changed = threading.Condition()
        self._on_drain: list[Callable[[], None]] = []

    @property
    def in_flight(self) -> int:
        """Calls that are being worked on."""
        return self._in_flight

    def open(self) -> None:
        """Let calls in from now on."""
        with self._changed:
            self._open = True

    @property
    def is_open(self) -> bool:
        """Whether the server serves."""
        return self._open

    def refusal(self) -> Callable[[], ChatEnvError] | None:
        """What makes the error for a call that comes now and is not let in; None: it is.

        That is UnavailableError where the server does not serve, else ServerBusyError. It is settled here, although the
        error is made later: by then the server may have opened, and would seem busy.
        """
        if not self._open:
            return partial(UnavailableError, self._refusal)
        return self._busy if self._in_flight >= self._limit else None

    def __enter__(self) -> None:
        """Take a place.

        Raises:
            UnavailableError: the server is loading or shutting down.
            ServerBusyError: all places are taken.
        """
        with self._changed:
            if (refusal := self.refusal()) is not None:
                raise refusal()
            self._in_flight += 1

    def __exit__(self, *_: object) -> None:
        """Give it back."""
        with self._changed:
            self._in_flight -= 1
            if not self._open:
                self._changed.notify_all()

    @contextmanager
    def told_of_drain(self, callback: Callable[[], None]) -> Iterator[None]:
        """Have `callback` called when the server begins to shut down; for calls that would go on for ever."""
        with self._changed:
            self._on_drain.append(callback)
        try:
            yield
        finally:
            with self._changed:
                self._on_drain.remove(callback)

    def drain(self, timeout_s: float) -> bool:
        """Let nobody in any more and wait for those inside; whether all left in time."""
        with self._changed:
            self._refusal = "the server is shutting down; try again, or another server"
            self._open = False
            for callback in self._on_drain:
                callback()
            return self._changed.wait_for(lambda: self._in_flight == 0, timeout_s)

    def _busy(self) -> ChatEnvError:
        return ServerBusyError(
            f"the server works on {self._limit} calls, as many as it takes at once; "
            "try again later, or raise --max-concurrent-calls"
        )
