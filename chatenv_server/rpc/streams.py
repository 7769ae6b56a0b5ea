"""One StreamSteps call: reads requests, has them answered, and gives the answers as they come.

A thread of its own reads the requests, the threads of an `ItemRunner` answer them, and gRPC's thread sends the answers.
Without a transform no step waits, and gRPC's thread answers, too: handing a step to another thread would cost more than
the step. Requests and answers in flight are bounded, so memory stays flat when the caller does not read.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from queue import Empty, SimpleQueue
from typing import Final, NamedTuple

import grpc

from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client.errors import UnavailableError
from chatenv_server.rpc.items import ItemRunner
from chatenv_server.rpc.traffic import Traffic
from chatenv_server.threads import start_thread

MAX_IN_FLIGHT: Final = 256
"""Requests that were read and whose answers were not yet taken by gRPC."""
MAX_IN_FLIGHT_BYTES: Final = 64 * 2**20
"""What those requests and answers may take. A request beyond it is worked on alone."""

ROOM_S: Final = 0.1
"""Seconds after which a stream looks again whether others have made room."""

MOST_TOGETHER: Final = 32
"""Requests that are written at once, where a store keeps what they do: the time that the first waits stays bounded."""

Answer = Callable[[Sequence[pb.StreamStepsRequest]], list[pb.StreamStepsResponse]]
"""Answers requests in their order."""


class ReadRequest(NamedTuple):
    """A request that was read."""

    request: pb.StreamStepsRequest
    size: int
    """In bytes."""


class StepStream:
    """A stream of steps. Requests of one episode are answered in order.

    Its bytes are part of the server's traffic. Where that has no room it reads no further, but one request it may
    always have: so no stream waits for another for ever.
    """

    def __init__(
        self,
        requests: Iterator[pb.StreamStepsRequest],
        answer: Answer,
        items: ItemRunner,
        traffic: Traffic,
        *,
        together: bool,
    ) -> None:
        self._requests = requests
        self._traffic = traffic
        self._counted = 0
        """Bytes of this stream that are counted as traffic."""
        self._answer = answer
        self._items = items
        self._most_together = MOST_TOGETHER if together else 1
        self._changed = threading.Condition()
        self._ended = False
        self._in_flight = 0
        self._request_bytes = 0
        """Of requests that were read and are not answered."""
        self._answer_bytes = 0
        """Of answers that gRPC has not taken."""
        self._waiting: dict[str, deque[ReadRequest]] = {}
        """For each episode that is being worked on, the requests that come next."""
        self._parked: list[str] = []
        """Episodes whose next requests wait until answers are taken."""
        self._to_send: SimpleQueue[ReadRequest | pb.StreamStepsResponse | Exception | None] = SimpleQueue()
        """For gRPC's thread: answers, or requests for it to answer. None: no more requests come. An exception: the
        same, and this is why."""
        self._begun = 0

    def answers(self) -> Iterator[pb.StreamStepsResponse]:
        """The answers, until all requests are answered.

        Raises:
            ServerBusyError: the machine gives no thread that reads.
            ChatEnvError: a request could not be read, or the server is shutting down; what was read is answered before.
        """
        start_thread(self._read, "stream-reader")
        reason: Exception | None = None
        reading, answered = True, 0
        try:
            while reading or answered < self._begun:
                item = self._to_send.get()
                if item is None or isinstance(item, Exception):
                    reading, reason = False, reason or item
                    continue
                answers = self._answered([item, *self._following()]) if isinstance(item, ReadRequest) else [item]
                for answer in answers:
                    answered += 1
                    yield answer
                    self._taken(answer)
        finally:
            self._end()
            self._count(-self._counted)
        if reason is not None:
            raise reason

    def interrupt(self) -> None:
        """Read no further; to be called from any thread."""
        self._end()
        self._to_send.put(UnavailableError("the server is shutting down; go on with another stream"))

    def _end(self) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _read(self) -> None:
        take = self._hand_out if self._items.has_threads else self._to_send.put
        try:
            for request in self._requests:
                asked = ReadRequest(request, request.ByteSize())
                if not self._begin(asked.size):
                    return
                take(asked)
            self._to_send.put(None)
        except grpc.RpcError as error:
            error.with_traceback(None)  # gRPC keeps the error for as long as the call, and it would keep the call
            self._to_send.put(None)  # the caller hung up, which is no failure
        except Exception as error:  # noqa: BLE001 - handed to the thread that sends
            self._to_send.put(error)

    def _begin(self, size: int) -> bool:
        """Wait until there is room for a request of `size` bytes; whether the stream goes on."""
        with self._changed:
            while not self._ended and not self._has_room(size):
                self._changed.wait(ROOM_S)
            if not self._ended:
                self._begun += 1
                self._in_flight += 1
                self._request_bytes += size
            return not self._ended

    def _has_room(self, size: int) -> bool:
        in_flight_bytes = self._request_bytes + self._answer_bytes
        if self._in_flight == 0:
            self._count(size)
            return True
        if self._in_flight >= MAX_IN_FLIGHT or in_flight_bytes + size > MAX_IN_FLIGHT_BYTES:
            return False
        has_room = self._traffic.try_take(size)
        self._counted += size * has_room
        return has_room

    def _count(self, size: int) -> None:
        """Count so many bytes more, or fewer, whether or not there is room."""
        self._traffic.add(size)
        self._counted += size

    def _hand_out(self, asked: ReadRequest) -> None:
        """Have a request answered in another thread, after those of the same episode."""
        episode_id = asked.request.step.episode_id
        with self._changed:
            if episode_id in self._waiting:
                self._waiting[episode_id].append(asked)
                return
            self._waiting[episode_id] = deque([asked])
        self._items.start(lambda: self._work_on(episode_id))

    def _work_on(self, episode_id: str) -> None:
        while (asked := self._next(episode_id)) is not None:
            self._to_send.put(self._answered([asked])[0])

    def _next(self, episode_id: str) -> ReadRequest | None:
        """The next request of an episode; None where there is none, or where answers have to be taken first."""
        with self._changed:
            queue = self._waiting[episode_id]
            if not queue:
                del self._waiting[episode_id]
            elif self._answer_bytes > MAX_IN_FLIGHT_BYTES:
                self._parked.append(episode_id)
            else:
                return queue.popleft()
            return None

    def _following(self) -> Iterator[ReadRequest]:
        """Requests that wait for gRPC's thread to answer them, to be written with the one before."""
        for _ in range(1, self._most_together):
            try:
                item = self._to_send.get_nowait()
            except Empty:
                return
            if not isinstance(item, ReadRequest):
                self._to_send.put(item)
                return
            yield item

    def _answered(self, asked: Sequence[ReadRequest]) -> list[pb.StreamStepsResponse]:
        answers = self._answer([one.request for one in asked])
        asked_bytes, answer_bytes = sum(one.size for one in asked), sum(answer.ByteSize() for answer in answers)
        with self._changed:
            self._request_bytes -= asked_bytes
            self._answer_bytes += answer_bytes
            self._count(answer_bytes - asked_bytes)
        return answers

    def _taken(self, answer: pb.StreamStepsResponse) -> None:
        """Make room where an answer was, and go on with the episodes that waited for it."""
        with self._changed:
            self._in_flight -= 1
            size = answer.ByteSize()
            self._answer_bytes -= size
            self._count(-size)
            self._changed.notify_all()
            parked: list[str] = []
            if self._answer_bytes <= MAX_IN_FLIGHT_BYTES:
                parked, self._parked = self._parked, parked
        for episode_id in parked:
            self._items.start(partial(self._work_on, episode_id))
