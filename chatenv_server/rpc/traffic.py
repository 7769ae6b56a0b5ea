"""How many bytes all calls together have under way: requests that are worked on, and answers that are not yet taken."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

import grpc

from chatenv_client.errors import ServerBusyError
from chatenv_server.rpc.waiting import Waiting

MOST_UNTAKEN: Final = 1024
"""Answers that may wait for callers to take them; beyond, the oldest is cut off."""
UNTAKEN_S: Final = 60.0
"""Seconds that a caller has to take its answer."""
PATIENCE_S: Final = 2.0
"""Seconds that it has while others are refused for want of room."""

_LOOK_S: Final = 0.01


class Untaken:
    """An answer that its caller has not taken yet."""

    __slots__ = ("context", "size")

    def __init__(self, context: grpc.ServicerContext, size: int) -> None:
        self.context = context
        self.size = size


class Traffic:
    """The bytes under way. A request that finds no room is refused, unless it is the only one.

    Args:
        limit: bytes.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._bytes = 0
        self.untaken: Waiting[Untaken] = Waiting(MOST_UNTAKEN, UNTAKEN_S, _hang_up)

    @property
    def count(self) -> int:
        """Bytes under way."""
        return self._bytes

    def try_take(self, size: int, held: int = 0) -> bool:
        """Count `size` bytes of a request if there is room for them; whether there was.

        Args:
            size: bytes.
            held: bytes of the same request that are counted already.
        """
        with self._lock:
            has_room = self._bytes + size <= self._limit or self._bytes <= held
            self._bytes += size * has_room
        return has_room

    def no_room(self) -> ServerBusyError:
        """The error for a request that found no room. Callers that are slow to take their answers make some now."""
        self.untaken.cut_older_than(PATIENCE_S)
        return ServerBusyError(
            f"requests and answers under way fill the {self._limit} bytes that the server has for them; "
            "try again later, or raise --max-bytes-in-flight"
        )

    def add(self, size: int) -> None:
        """Count so many bytes more, or fewer, whether or not there is room."""
        with self._lock:
            self._bytes += size

    def answer(self, context: grpc.ServicerContext, size: int) -> None:
        """Count an answer until its caller has taken it, or the call has ended otherwise."""
        answer = Untaken(context, size)
        self.add(size)
        self.untaken.add(answer)
        if not context.add_callback(self._ended(answer)):
            self._ended(answer)()

    def wait_until_taken(self, timeout_s: float) -> None:
        """Wait until callers have taken their answers, for as long at most."""
        until = time.monotonic() + timeout_s
        while len(self.untaken) and time.monotonic() < until:
            time.sleep(_LOOK_S)

    def _ended(self, answer: Untaken) -> Callable[[], None]:
        def end() -> None:
            self.untaken.remove(answer)
            self.add(-answer.size)

        return end


class Load:
    """What one call has under way before it is answered.

    Args:
        traffic: counts it.
        size: bytes that were counted already.
    """

    def __init__(self, traffic: Traffic, size: int) -> None:
        self._traffic = traffic
        self.size = size

    def add(self, size: int) -> None:
        """Count more of it; 0 looks only whether there is room still.

        Raises:
            ServerBusyError: there is no room.
        """
        if not self._traffic.try_take(size, self.size):
            raise self._traffic.no_room()
        self.size += size

    def end(self) -> None:
        """Count it no more."""
        self._traffic.add(-self.size)
        self.size = 0


def _hang_up(answer: Untaken) -> None:
    answer.context.cancel()
