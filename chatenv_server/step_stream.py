"""One StreamSteps call: reads requests, has them answered, gives the answers as they come.

Three parties work on it: a reader in a thread of its own, who answers, and gRPC's thread that sends. What they hold
between them is bounded, so memory is flat when the caller does not read. Where no step waits for anything, gRPC's
thread answers, too: handing a step to another thread would cost more than most steps.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Final

import grpc

from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client.errors import UnavailableError
from chatenv_server.items import ItemRunner

MAX_IN_FLIGHT: Final = 256
"""Requests that were read and whose answers were not yet taken by gRPC."""
MAX_READ_AHEAD: Final = 8
"""The same where gRPC's thread answers: it works on one at a time, so more would only wait."""

Answer = Callable[[pb.StreamStepsRequest], pb.StreamStepsResponse]


class StepStream:
    """A stream of steps. Requests of one episode are answered in order."""

    def __init__(self, requests: Iterator[pb.StreamStepsRequest], answer: Answer, items: ItemRunner) -> None:
        self._requests = requests
        self._answer = answer
        self._items = items
        self._places = threading.Semaphore(MAX_IN_FLIGHT if items.has_threads else MAX_READ_AHEAD)
        self._ended = False
        self._waiting: dict[str, deque[pb.StreamStepsRequest]] = {}
        """For each episode that is being worked on, the requests behind the one in work."""
        self._lock = threading.Lock()
        self._arrivals: SimpleQueue[pb.StreamStepsRequest | pb.StreamStepsResponse | Exception | None] = SimpleQueue()
        """For gRPC's thread: answers, or requests for it to answer; None: no more requests come; an exception:
        neither, and this is why."""
        self._begun = 0

    def answers(self) -> Iterator[pb.StreamStepsResponse]:
        """The answers, until all requests are answered.

        Raises:
            ChatEnvError: a request could not be read, or the server is shutting down; what was read is answered before.
        """
        threading.Thread(target=self._read, name="stream-reader", daemon=True).start()
        reason: Exception | None = None
        reading, answered = True, 0
        try:
            while reading or answered < self._begun:
                arrival = self._arrivals.get()
                if arrival is None or isinstance(arrival, Exception):
                    reading, reason = False, reason or arrival
                    continue
                answered += 1
                yield self._answer(arrival) if isinstance(arrival, pb.StreamStepsRequest) else arrival
                self._places.release()
        finally:
            self._end()
        if reason is not None:
            raise reason

    def interrupt(self) -> None:
        """Read no further; to be called from any thread."""
        self._end()
        self._arrivals.put(UnavailableError("the server is shutting down; go on with another stream"))

    def _end(self) -> None:
        with self._lock:
            self._ended = True
        self._places.release()

    def _read(self) -> None:
        take = self._hand_out if self._items.has_threads else self._arrivals.put
        try:
            for request in self._requests:
                self._places.acquire()
                if not self._begin():
                    return
                take(request)
            self._arrivals.put(None)
        except grpc.RpcError:
            self._arrivals.put(None)  # the caller hung up, which is nobody's fault
        except Exception as error:  # noqa: BLE001 - handed to who sends
            self._arrivals.put(error)

    def _begin(self) -> bool:
        with self._lock:
            self._begun += not self._ended
            return not self._ended

    def _hand_out(self, request: pb.StreamStepsRequest) -> None:
        """Have a request answered in another thread, after those of the same episode."""
        episode_id = request.step.episode_id
        with self._lock:
            if episode_id in self._waiting:
                self._waiting[episode_id].append(request)
                return
            self._waiting[episode_id] = deque([request])
        self._items.start(lambda: self._work_on(episode_id))

    def _work_on(self, episode_id: str) -> None:
        queue = self._waiting[episode_id]
        while True:
            with self._lock:
                if not queue:
                    del self._waiting[episode_id]
                    return
                request = queue.popleft()
            self._arrivals.put(self._answer(request))
