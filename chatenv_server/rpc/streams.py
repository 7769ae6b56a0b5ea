"""One StreamSteps call: reads requests, has them answered, and gives the answers as they come.

A thread of its own reads the requests; gRPC's thread works on them and sends the answers. A step that waits, for a task
or a transform, lets the others go on. Requests and answers in flight are bounded, so memory stays flat when the caller
does not read.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from queue import Empty, SimpleQueue
from typing import Final, NamedTuple

import grpc

from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client.errors import UnavailableError
from chatenv_server.rpc.courses import Courses, exhaust
from chatenv_server.rpc.traffic import Traffic
from chatenv_server.threads import start_thread
from chatenv_server.work import Course, Work
from chatenv_server.workers import shared_workers

MAX_IN_FLIGHT: Final = 1024
"""Requests that were read and whose answers were not yet taken by gRPC."""
MAX_IN_FLIGHT_BYTES: Final = 64 * 2**20
"""What those requests and answers may take. A request beyond it is worked on alone."""

ROOM_S: Final = 0.1
"""Seconds after which a stream looks again whether others have made room."""

MOST_TOGETHER: Final = 32
"""Requests that are written at once, where a store keeps what they do: the time that the first waits stays bounded."""

Answer = Callable[[pb.StreamStepsRequest], Work[pb.StreamStepsResponse]]
AnswerTogether = Callable[[Sequence[pb.StreamStepsRequest]], list[pb.StreamStepsResponse]]
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

    Args:
        requests: what is asked.
        answer: answers one request; may wait, while others go on.
        traffic: of the server.
        answer_together: answers many that wait already, so that what they do is written together; None: that brings
            nothing.
    """

    def __init__(
        self,
        requests: Iterator[pb.StreamStepsRequest],
        answer: Answer,
        traffic: Traffic,
        answer_together: AnswerTogether | None = None,
    ) -> None:
        self._requests = requests
        self._traffic = traffic
        self._counted = 0
        """Bytes of this stream that are counted as traffic."""
        self._answer = answer
        self._answer_together = answer_together
        self._changed = threading.Condition()
        self._ended = False
        self._in_flight = 0
        self._request_bytes = 0
        """Of requests that were read and are not answered."""
        self._answer_bytes = 0
        """Of answers that gRPC has not taken."""
        self._to_do: SimpleQueue[ReadRequest | Course[pb.StreamStepsResponse] | Exception | None] = SimpleQueue()
        """For gRPC's thread: requests, and steps that have waited. None: no more requests come. An exception: the same,
        and this is why."""
        self._courses = Courses(self._answered, self._to_do.put)
        self._answers_left = 0
        """Requests that were read and not answered."""

    def answers(self) -> Iterator[pb.StreamStepsResponse]:
        """The answers, until all requests are answered.

        Raises:
            ServerBusyError: the machine gives no thread that reads.
            ChatEnvError: a request could not be read, or the server is shutting down; what was read is answered before.
        """
        start_thread(self._read, "stream-reader")
        reason: Exception | None = None
        reading = True
        try:
            while reading or self._answers_left:
                item = self._next()
                if item is None or isinstance(item, Exception):
                    reading, reason = False, reason or item
                    continue
                for answer in self._work_on(item):
                    self._answers_left -= 1
                    yield answer
                    self._taken(answer)
        finally:
            self._end()
            self._count(-self._counted)
            if self._courses:  # nobody takes the answers any more; but what was begun holds its episodes
                shared_workers().start(self._finish)
        if reason is not None:
            raise reason

    def _finish(self) -> None:
        """Let steps that wait come to their end, whoever asked for them."""
        while self._courses:
            item = self._next()
            if isinstance(item, Course):
                exhaust(self._courses.go_on(item))
        self._count(-self._counted)

    def _next(self) -> ReadRequest | Course[pb.StreamStepsResponse] | Exception | None:
        """What there is to do, waiting for it."""
        if self._to_do.empty():
            self._courses.begin_pauses()
        return self._to_do.get()

    def _work_on(self, item: ReadRequest | Course[pb.StreamStepsResponse]) -> Iterator[pb.StreamStepsResponse]:
        """Begin a request, or go on with one; the answers that are there then."""
        if not isinstance(item, ReadRequest):
            return self._courses.go_on(item)
        if self._answer_together is None:
            return self._courses.add(item.request.step.episode_id, item)
        asked = [item, *self._following()]
        answers = self._answer_together([one.request for one in asked])
        for one, answer in zip(asked, answers, strict=True):
            self._note(one, answer)
        return iter(answers)

    def _following(self) -> Iterator[ReadRequest]:
        """The requests that wait already, up to a bound."""
        for _ in range(MOST_TOGETHER - 1):
            try:
                item = self._to_do.get_nowait()
            except Empty:
                return
            if not isinstance(item, ReadRequest):
                self._to_do.put(item)  # the last that comes: no more requests
                return
            yield item

    def interrupt(self) -> None:
        """Read no further; to be called from any thread."""
        self._end()
        self._to_do.put(UnavailableError("the server is shutting down; go on with another stream"))

    def _end(self) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _read(self) -> None:
        try:
            for request in self._requests:
                asked = ReadRequest(request, request.ByteSize())
                if not self._begin(asked.size):
                    return
                self._to_do.put(asked)
            self._to_do.put(None)
        except grpc.RpcError as error:
            error.with_traceback(None)  # gRPC keeps the error for as long as the call, and it would keep the call
            self._to_do.put(None)  # the caller hung up, which is no failure
        except Exception as error:  # noqa: BLE001 - handed to the thread that sends
            self._to_do.put(error)

    def _begin(self, size: int) -> bool:
        """Wait until there is room for a request of `size` bytes; whether the stream goes on."""
        with self._changed:
            while not self._ended and not self._has_room(size):
                self._changed.wait(ROOM_S)
            if not self._ended:
                self._answers_left += 1
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

    async def _answered(self, asked: ReadRequest) -> pb.StreamStepsResponse:
        answer = await self._answer(asked.request)
        self._note(asked, answer)
        return answer

    def _note(self, asked: ReadRequest, answer: pb.StreamStepsResponse) -> None:
        """Count an answer in the place of its request."""
        size = answer.ByteSize()
        with self._changed:
            self._request_bytes -= asked.size
            self._answer_bytes += size
            self._count(size - asked.size)

    def _taken(self, answer: pb.StreamStepsResponse) -> None:
        """Make room where an answer was."""
        with self._changed:
            self._in_flight -= 1
            size = answer.ByteSize()
            self._answer_bytes -= size
            self._count(-size)
            self._changed.notify_all()
