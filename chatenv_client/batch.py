"""Many calls made as few: a round of one call for each of several episodes, and what becomes of each item.

Steps, resets and ends travel together, as BatchStep, BatchReset and BatchFinishEpisode; what has no batch of its own
goes one by one. Without any input or output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Generic

from google.protobuf.message import DecodeError

from chatenv_client import wire
from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client.calls import Call, ResultT, taken
from chatenv_client.errors import BatchError, ChatEnvError, MessageTooLargeError, ProtocolError
from chatenv_client.models import Limits

EDGE_ITEMS: Final = 32
"""Items of a round's first part and of its last: the server begins early, and little is left to read at the end. Where
several processes serve, each gets its share of them, since all of them wait for one client."""
MIDDLE_ITEMS: Final = 96
"""Items of the other parts, at most. They are few because each part costs the server as much as some ten Steps."""

BATCHES_IN_FLIGHT: Final = 2
"""One that the server works on and one that waits there, so that it never waits for the client."""
SINGLES_IN_FLIGHT: Final = 3
"""Calls that have no batch, such as CloseEpisode."""


@dataclass(frozen=True)
class _Batch:
    """An RPC that makes many calls of one method."""

    method: str
    request: type[Any]
    field: str
    """Of the request, where the items are."""


BATCHED: Final = {
    "Step": _Batch("BatchStep", pb.BatchStepRequest, "steps"),
    "Reset": _Batch("BatchReset", pb.BatchResetRequest, "resets"),
    "FinishEpisode": _Batch("BatchFinishEpisode", pb.BatchFinishEpisodeRequest, "finishes"),
}


class Round(Generic[ResultT]):
    """One call for each of several episodes, and what became of each."""

    def __init__(self, size: int) -> None:
        self.results: list[ResultT | None] = [None] * size
        """By index of the episode; None where nothing was asked or no answer came."""
        self._asked: dict[str, dict[int, Call[ResultT]]] = {}
        """By method, then by index of the episode."""
        self._planned: tuple[Sequence[int], Callable[[int, pb.StepRequest], Call[ResultT]]] | None = None
        self._errors: dict[int, ChatEnvError] = {}
        self._lost_calls: list[ChatEnvError] = []
        self._answered = 0
        self.succeeded: set[int] = set()
        """Indices of the episodes whose calls were answered, and not with an error."""

    @property
    def errors(self) -> Mapping[int, ChatEnvError]:
        """What went wrong, by index of the episode."""
        return self._errors

    def ask(self, index: int, build: Callable[[], Call[ResultT] | None]) -> None:
        """Add the call that `build` makes for an episode, if it makes one. What it refuses is that item's error."""
        try:
            call = build()
        except ChatEnvError as error:
            self._errors[index] = error
            return
        if call is not None:
            self._asked.setdefault(call.method, {})[index] = call

    def plan(self, indices: Sequence[int], build: Callable[[int, pb.StepRequest], Call[ResultT]]) -> None:
        """Add a Step for each of several episodes, built when its part is: while the server works on parts before it.

        Args:
            indices: of the episodes, in order.
            build: makes the call of an episode, its request in the empty message that it is given.
        """
        self._planned = indices, build

    @property
    def is_empty(self) -> bool:
        """Whether there is no call to make."""
        return not (self._asked or self._planned)

    def parts(self, limits: Limits, lanes: int = 1) -> Iterator[Part[ResultT]]:
        """The calls to make, divided as a server's limits ask for, and spread over some lanes by turns.

        An item that is too large by itself travels alone, to get an error of its own.
        """
        for method, calls in self._asked.items():
            if method in BATCHED:
                yield from self._spread(method, list(calls), partial(_copied, calls), limits, lanes)
            else:
                for index, call in calls.items():
                    lane = self._lane(index, lanes)
                    yield Part(self, method, call.request, {index: call.receive}, lane=lane)
        if self._planned:
            yield from self._spread("Step", *self._planned, limits, lanes)

    def _lane(self, index: int, lanes: int) -> int:
        """The lane of an episode: the same in every round."""
        return index * lanes // len(self.results)

    def _spread(
        self,
        method: str,
        indices: Sequence[int],
        build: Callable[[int, Any], Call[ResultT]],
        limits: Limits,
        lanes: int,
    ) -> Iterator[Part[ResultT]]:
        of_lanes: list[list[int]] = [[] for _ in range(lanes)]
        for index in indices:
            of_lanes[self._lane(index, lanes)].append(index)
        edge = EDGE_ITEMS // lanes or 1
        parts = [
            self._batches(method, _pieces(each, edge, limits.max_batch_items), build, limits, lane)
            for lane, each in enumerate(of_lanes)
        ]
        while parts:
            for lane in list(parts):
                if (part := next(lane, None)) is None:
                    parts.remove(lane)
                else:
                    yield part

    def _batches(
        self,
        method: str,
        pieces: Iterable[Sequence[int]],
        build: Callable[[int, Any], Call[ResultT]],
        limits: Limits,
        lane: int,
    ) -> Iterator[Part[ResultT]]:
        for indices in pieces:
            yield from self._batch(BATCHED[method], indices, build, lane).fitting(limits.max_message_bytes)

    def _batch(
        self, batch: _Batch, indices: Sequence[int], build: Callable[[int, Any], Call[ResultT]], lane: int
    ) -> Part[ResultT]:
        """A part for some episodes; what cannot be built is that item's error."""
        request = batch.request()
        items = getattr(request, batch.field)
        receivers = {}
        for index in indices:
            try:
                receivers[index] = build(index, items.add()).receive
            except ChatEnvError as error:  # noqa: PERF203 - one item may be refused while the others are not
                self._errors[index] = error
                del items[-1]
        return Part(self, batch.method, request, receivers, batch, lane)

    def check(self) -> None:
        """Raise what went wrong, if anything did.

        Raises:
            BatchError: some items failed.
            ChatEnvError: no item was answered; this is why the first call failed.
        """
        if self._lost_calls and not self._answered:
            raise self._lost_calls[0]
        if self._errors:
            raise self._summary()

    def _summary(self) -> BatchError:
        index, first = min(self._errors.items())
        what = f"{len(self._errors)} of {len(self.results)} items failed; the first, number {index}: {first}"
        return BatchError(what, results=self.results, errors=self._errors, code=first.code)

    def succeed(self, index: int, receive: Callable[[Any], ResultT], response: Any) -> None:
        """Take in the answer to an item."""
        self._answered += 1
        try:
            self.results[index] = taken(receive, response)
            self.succeeded.add(index)
        except ChatEnvError as error:
            self._errors[index] = error

    def refuse(self, index: int, error: ChatEnvError) -> None:
        """Take in what the server says against an item."""
        self._answered += 1
        self._errors[index] = error

    def take_in(self, again: Round[ResultT]) -> None:
        """Take in what became of items that were asked for once more."""
        for index in again.succeeded:
            self.results[index] = again.results[index]
            self._errors.pop(index, None)
        self._errors.update(again.errors)
        self.succeeded |= again.succeeded

    def lose(self, indices: Sequence[int], error: ChatEnvError) -> None:
        """Take in that a call failed as a whole, with these items in it."""
        self._lost_calls.append(error)
        self._errors.update(dict.fromkeys(indices, error))


def _copied(calls: Mapping[int, Call[ResultT]], index: int, request: Any) -> Call[ResultT]:
    return calls[index].copied_to(request)


def _pieces(indices: Sequence[int], edge: int, most: int | None) -> Iterator[Sequence[int]]:
    """The episodes of each part."""
    start = 0
    for size in _sizes(len(indices), edge, most):
        yield indices[start : start + size]
        start += size


def _sizes(items: int, edge: int, most: int | None) -> list[int]:
    """How many items go into each part: few at both ends, where one side waits for the other, more between."""
    edge, middle = (size if most is None else min(size, most) for size in (edge, MIDDLE_ITEMS))
    if items <= 3 * edge:
        return _evenly(items, edge)
    return [edge, *_evenly(items - 2 * edge, middle), edge]


def _evenly(items: int, most: int) -> list[int]:
    """As few parts as there can be, each of `most` items at most and of as many as the others, give or take one."""
    parts = -(-items // most)
    return [(items + part) // parts for part in range(parts)]


@dataclass(slots=True)
class Part(Generic[ResultT]):
    """Items of a round that travel in one call."""

    round: Round[ResultT]
    method: str
    """Name of the RPC."""
    request: Any
    """The protobuf request."""
    items: dict[int, Callable[[Any], ResultT]]
    """What takes in the answer of an item, by index of the episode, in the order of the request."""
    batch: _Batch | None = None
    lane: int = 0
    """Which of several connections it takes."""

    @property
    def most_in_flight(self) -> int:
        """Calls of this kind that may wait for their answers at once."""
        return BATCHES_IN_FLIGHT if self.batch else SINGLES_IN_FLIGHT

    def fitting(self, max_bytes: int | None) -> Iterator[Part[ResultT]]:
        """The part, or as many as it takes so that none is larger than a request may be, but for lone items."""
        if not self.items:
            return
        if max_bytes is not None and len(self.items) > 1 and self.request.ByteSize() > max_bytes:
            for half in self._halves():
                yield from half.fitting(max_bytes)
        else:
            yield self

    def _halves(self) -> list[Part[ResultT]]:
        middle = len(self.items) // 2
        return [self._of(range(middle)), self._of(range(middle, len(self.items)))]

    def _of(self, places: Iterable[int]) -> Part[ResultT]:
        """The part of some of these items, by their places in the request."""
        if self.batch is None:
            return self
        items, receivers = getattr(self.request, self.batch.field), list(self.items.items())
        request = self.batch.request(**{self.batch.field: [items[place] for place in places]})
        return Part(self.round, self.method, request, dict(receivers[place] for place in places), self.batch, self.lane)

    def receive(self, response: Any) -> list[Part[ResultT]]:
        """Take in the answer, each item its own; the parts to make for items that found no room in it."""
        if self.batch is None:
            ((index, receive),) = self.items.items()
            self.round.succeed(index, receive, response)
            return []
        results = () if isinstance(response, DecodeError) else response.results
        if len(results) != len(self.items):
            what = f"{len(results)} results came for {len(self.items)} items; update the older of client and server"
            self.round.lose(list(self.items), ProtocolError(what))
            return []
        without_room = []
        for place, ((index, receive), result) in enumerate(zip(self.items.items(), results, strict=True)):
            if not result.HasField("error"):
                self.round.succeed(index, receive, result.response)
                continue
            error = wire.error_from_item(result.error)
            if isinstance(error, MessageTooLargeError) and len(results) > 1:
                without_room.append(place)
            else:
                self.round.refuse(index, error)
        if len(without_room) == len(results):
            return self._halves()
        return [self._of(without_room)] if without_room else []

    def fail(self, error: ChatEnvError) -> list[Part[ResultT]]:
        """Take in that the call failed; the parts to make in its place, which are its halves if it was too large."""
        if isinstance(error, MessageTooLargeError) and len(self.items) > 1:
            return self._halves()
        self.round.lose(list(self.items), error)
        return []
