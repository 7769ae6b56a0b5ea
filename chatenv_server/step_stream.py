"""One StreamSteps call: reads requests, has them answered, gives the answers as they come.

Three parties work on it: a reader of its own thread, the threads that answer, and gRPC's thread that sends. At most
`MAX_IN_FLIGHT` requests are between the first and the last, so memory is flat when the caller does not read.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Final

from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client.errors import UnavailableError
from chatenv_server.items import ItemRunner

MAX_IN_FLIGHT: Final = 256
"""Requests that were read and whose answers were not yet taken by gRPC."""

Answer = Callable[[pb.StreamStepsRequest], pb.StreamStepsResponse]


class StepStream:
    """A stream of steps. Requests of one episode are answered in order."""

    def __init__(self, requests: Iterator[pb.StreamStepsRequest], answer: Answer, items: ItemRunner) -> None:
        self._requests = requests
        self._answer = answer
        self._items = items
        self._places = threading.Semaphore(MAX_IN_FLIGHT)
        self._ended = False
        self._waiting: dict[str, deque[pb.StreamStepsRequest]] = {}
        """For each episode that is being worked on, the requests behind the one in work."""
        self._lock = threading.Lock()
        self._outcomes: SimpleQueue[pb.StreamStepsResponse | Exception | None] = SimpleQueue()
        """Answers; None: no more requests come; an exception: neither, and this is why."""
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
                outcome = self._outcomes.get()
                if isinstance(outcome, pb.StreamStepsResponse):
                    answered += 1
                    yield outcome
                    self._places.release()
                else:
                    reading, reason = False, reason or outcome
        finally:
            self._end()
        if reason is not None:
            raise reason

    def interrupt(self) -> None:
        """Read no further; to be called from any thread."""
        self._end()
        self._outcomes.put(UnavailableError("the server is shutting down; go on with another stream"))

    def _end(self) -> None:
        with self._lock:
            self._ended = True
        self._places.release()

    def _read(self) -> None:
        try:
            for request in self._requests:
                self._places.acquire()
                if not self._take(request):
                    return
            self._outcomes.put(None)
        except Exception as error:  # noqa: BLE001 - handed to who sends
            self._outcomes.put(error)

    def _take(self, request: pb.StreamStepsRequest) -> bool:
        episode_id = request.step.episode_id
        with self._lock:
            if self._ended:
                return False
            self._begun += 1
            if episode_id in self._waiting:
                self._waiting[episode_id].append(request)
                return True
            self._waiting[episode_id] = deque([request])
        self._items.start(lambda: self._work_on(episode_id))
        return True

    def _work_on(self, episode_id: str) -> None:
        queue = self._waiting[episode_id]
        while True:
            with self._lock:
                if not queue:
                    del self._waiting[episode_id]
                    return
                request = queue.popleft()
            self._outcomes.put(self._answer(request))
