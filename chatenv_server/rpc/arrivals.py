"""Takes the requests of calls in without a thread. A thread takes a call up when its request is there, and not before.

gRPC's own way is a thread for each call, which waits for the request: callers that send none would take them all. Here
the one thread that polls for gRPC starts to read, and is told when the request has come.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, Final

from chatenv_client.errors import (
    ChatEnvError,
    DeadlineError,
    MessageTooLargeError,
    ServerBusyError,
    UnexpectedStatusError,
)
from chatenv_server.rpc.traffic import Traffic
from chatenv_server.rpc.waiting import Waiting
from chatenv_server.workers import ACCEPTED, Workers

_REQUESTS: Final = 4
"""Place of the function that gives the iterator of requests, among the arguments that gRPC has run in a thread."""

_LOG: Final = logging.getLogger(__name__)


class Arrivals:
    """How requests come in to some methods, and who works on them then.

    Args:
        workers: take up calls whose request is there. Others are refused on the spot, which waits for nothing.
        traffic: counts the bytes that have come.
        most: requests that may be waited for; beyond, the oldest is given up.
        longest_s: seconds that each is waited for.
        max_bytes: of each, as it comes.
    """

    def __init__(self, workers: Workers, traffic: Traffic, most: int, longest_s: float, max_bytes: int) -> None:
        self.workers = workers
        self.max_bytes = max_bytes
        self.traffic = traffic
        self._longest_s = longest_s
        self.waiting: Waiting[Arrival] = Waiting(most, longest_s, self._give_up)

    def _give_up(self, arrival: Arrival) -> None:
        arrival.refuse(self._too_late)

    def _too_late(self) -> ChatEnvError:
        return DeadlineError(
            f"the request of this call was not there within {self._longest_s:g} s, or many other calls waited for "
            "theirs; send it at once"
        )


class Arrival(ThreadPoolExecutor):
    """The request of one call, on its way. gRPC takes it for the threads of that call, and it has none.

    The call is to be one that reads its requests from an iterator; that is left unread.
    """

    def __init__(self, arrivals: Arrivals) -> None:
        # Without the base's own, which would make what threads need.
        self._arrivals = arrivals
        self._call: Callable[[], object] | None = None
        self._request: bytes = b""
        self._refusal: Callable[[], ChatEnvError] | None = None
        self.episode_id = ""
        """That the request names, for the log; known once it has been parsed."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Begin to read; `fn` works on the call. gRPC says so in its polling thread, which nothing may end."""
        self._call = partial(fn, *args, **kwargs)
        self._arrivals.waiting.add(self)
        try:
            args[_REQUESTS]()._raise_or_start_receive_message()
        except Exception:  # noqa: BLE001 - it would end gRPC's polling thread, and so the server
            _LOG.exception("cannot read requests with this version of grpcio")
            if self._arrivals.waiting.remove(self):
                self.refuse(_unreadable)
        return ACCEPTED

    def arrived(self, request: bytes) -> bool:
        """Take the request; gRPC's polling thread brings it here as if to be deserialized."""
        arrivals = self._arrivals
        if not arrivals.waiting.remove(self):
            return True  # given up
        if len(request) > arrivals.max_bytes:
            self.refuse(lambda: too_large(arrivals.max_bytes))  # and takes no room of others
        elif arrivals.workers.is_full:
            self.refuse(_too_many)
        elif not arrivals.traffic.try_take(len(request)):
            self.refuse(arrivals.traffic.no_room)
        else:
            self._request = request
            arrivals.workers.start(self._taken_up())
        return True

    def refuse(self, refusal: Callable[[], ChatEnvError]) -> None:
        """Have the call answered with an error. It is made there: one that is kept would keep all that it passed."""
        self._refusal = refusal
        self._taken_up()()

    def request(self) -> bytes:
        """The request, once.

        Raises:
            ChatEnvError: there is none.
        """
        if self._refusal is not None:
            raise self._refusal()
        request, self._request = self._request, b""
        return request

    def _taken_up(self) -> Callable[[], object]:
        call, self._call = self._call, None  # which holds this, too
        if call is None:
            raise RuntimeError("gRPC brought the request of a call that it did not begin")
        return call


def too_large(limit: int) -> ChatEnvError:
    """The error for a request that is too long."""
    return MessageTooLargeError(
        f"the request is longer than {limit} bytes; send less at once, or raise max_message_bytes on both sides"
    )


def _too_many() -> ChatEnvError:
    return ServerBusyError(
        "as many calls wait as this server lets wait; try again later, or raise --max-concurrent-calls"
    )


def _unreadable() -> ChatEnvError:
    return UnexpectedStatusError("the server cannot read requests; its log says why", code="INTERNAL")
