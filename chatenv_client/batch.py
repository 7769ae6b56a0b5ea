"""Many calls made as few: a round of one call for each of several episodes, and what becomes of each item.

Steps and resets travel together, as BatchStep and BatchReset; what has no batch of its own goes one by one. Without any
input or output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any, Final, Generic

from chatenv_client import wire
from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client.calls import Call, ResultT
from chatenv_client.errors import BatchError, ChatEnvError, MessageTooLargeError
from chatenv_client.models import Limits

PART_ITEMS: Final = 32
"""Items that travel together: few enough that the server works on one part while the caller packs and unpacks another,
and enough that a call costs little an item (docs/performance.md)."""

_ITEM_OVERHEAD_BYTES: Final = 8
"""Tag and length of an item within its batch, at most."""
_NO_LIMIT: Final = 2**31

_BATCHES: Final[dict[str, tuple[str, Callable[[list[Any]], Any]]]] = {
    "Step": ("BatchStep", lambda steps: pb.BatchStepRequest(steps=steps)),
    "Reset": ("BatchReset", lambda resets: pb.BatchResetRequest(resets=resets)),
}


class Round(Generic[ResultT]):
    """One call for each of several episodes, and what became of each."""

    def __init__(self, size: int) -> None:
        self.results: list[ResultT | None] = [None] * size
        """By index of the episode; None where nothing was asked or no answer came."""
        self._asked: list[tuple[str, int, Callable[[], Call[ResultT]]]] = []
        """(Method, index of the episode, what builds the call)."""
        self._errors: dict[int, ChatEnvError] = {}
        self._lost_calls: list[ChatEnvError] = []
        self._answered = 0

    def ask(self, index: int, build: Callable[[], Call[ResultT] | None]) -> None:
        """Add the call that `build` makes for an episode, if it makes one. What it refuses is that item's error."""
        call = self._built(index, build)
        if call is not None:
            self.plan(index, call.method, lambda: call)

    def plan(self, index: int, method: str, build: Callable[[], Call[ResultT]]) -> None:
        """Add a call of `method` that is built when its part is: while the server works on the parts before it."""
        self._asked.append((method, index, build))

    def _built(self, index: int, build: Callable[[], Call[ResultT] | None]) -> Call[ResultT] | None:
        try:
            return build()
        except ChatEnvError as error:
            self._errors[index] = error
            return None

    @property
    def is_empty(self) -> bool:
        """Whether there is no call to make."""
        return not self._asked

    def parts(self, limits: Limits) -> Iterator[Part[ResultT]]:
        """The calls to make, divided as a server's limits ask for.

        An item that is too large by itself travels alone, to get an error of its own.
        """
        for method, asked in groupby(sorted(self._asked, key=itemgetter(0, 1)), itemgetter(0)):
            built = ((index, self._built(index, build)) for _, index, build in asked)
            calls = ((index, call) for index, call in built if call is not None)
            max_items = min(PART_ITEMS, limits.max_batch_items or PART_ITEMS) if method in _BATCHES else 1
            for items in _divided(calls, max_items, limits.max_message_bytes or _NO_LIMIT):
                yield Part(self, items)

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

    def succeed(self, index: int, call: Call[ResultT], response: Any) -> None:
        """Take in the answer to an item."""
        self._answered += 1
        try:
            self.results[index] = call.receive(response)
        except ChatEnvError as error:
            self._errors[index] = error

    def refuse(self, index: int, error: ChatEnvError) -> None:
        """Take in what the server says against an item."""
        self._answered += 1
        self._errors[index] = error

    def lose(self, indices: Sequence[int], error: ChatEnvError) -> None:
        """Take in that a call failed as a whole, with these items in it."""
        self._lost_calls.append(error)
        self._errors.update(dict.fromkeys(indices, error))


def _divided(
    calls: Iterable[tuple[int, Call[ResultT]]], max_items: int, max_bytes: int
) -> Iterator[list[tuple[int, Call[ResultT]]]]:
    """Calls in groups, each given out as soon as it is full, before the next call is asked for."""
    group: list[tuple[int, Call[ResultT]]] = []
    room = max_bytes
    for item in calls:
        size = item[1].request.ByteSize() + _ITEM_OVERHEAD_BYTES
        if group and size > room:
            yield group
            group, room = [], max_bytes
        group.append(item)
        room -= size
        if len(group) == max_items:
            yield group
            group, room = [], max_bytes
    if group:
        yield group


@dataclass(frozen=True)
class Part(Generic[ResultT]):
    """Items of a round that travel in one call."""

    round: Round[ResultT]
    items: list[tuple[int, Call[ResultT]]]
    """(index of the episode, call), all of one method."""

    @property
    def method(self) -> str:
        """Name of the RPC."""
        single = self.items[0][1].method
        return _BATCHES[single][0] if self._is_batch else single

    @property
    def request(self) -> Any:
        """The protobuf request."""
        _, first = self.items[0]
        return _BATCHES[first.method][1]([call.request for _, call in self.items]) if self._is_batch else first.request

    @property
    def _is_batch(self) -> bool:
        return self.items[0][1].method in _BATCHES

    def receive(self, response: Any) -> None:
        """Take in the answer, each item its own."""
        if not self._is_batch:
            self.round.succeed(*self.items[0], response)
            return
        for (index, call), result in zip(self.items, response.results, strict=True):
            if result.HasField("error"):
                self.round.refuse(index, wire.error_from_item(result.error))
            else:
                self.round.succeed(index, call, result.response)

    def fail(self, error: ChatEnvError) -> list[Part[ResultT]]:
        """Take in that the call failed; the parts to make in its place.

        Where the request or the answer was too large these are its halves. Items that were applied, and whose answers
        did not fit together, are answered again: a Reset names its episode, and a Step its index.
        """
        middle = len(self.items) // 2
        if isinstance(error, MessageTooLargeError) and middle:
            return [Part(self.round, self.items[:middle]), Part(self.round, self.items[middle:])]
        self.round.lose([index for index, _ in self.items], error)
        return []
