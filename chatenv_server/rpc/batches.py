"""Answers the items of batches and streams, each with its own status, and has what they do written together."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import grpc

from chatenv_server.episodes.writing import Outdated, Writing
from chatenv_server.rpc.answering import AnswerOne
from chatenv_server.rpc.failures import ItemFailures, status_of
from chatenv_server.rpc.items import ItemRunner
from chatenv_server.rpc.room import AnswerRoom


class CallOfItems(NamedTuple):
    """A call that asks many things."""

    caller: WatchedCaller
    room: AnswerRoom
    failures: ItemFailures

    @contextmanager
    def closing(self) -> Iterator[None]:
        """Sums the failures up at its end."""
        try:
            yield
        finally:
            self.failures.close()


class WatchedCaller:
    """The caller of many steps in one call. gRPC tells when it hangs up, so that no step has to ask."""

    def __init__(self, context: grpc.ServicerContext) -> None:
        self._context = context
        self._waits = context.add_callback(self._leave)

    def _leave(self) -> None:
        self._waits = False

    def is_active(self) -> bool:
        """Whether somebody still waits for the answers."""
        return self._waits

    def time_remaining(self) -> float | None:
        """Seconds until the call's deadline."""
        return self._context.time_remaining()


class Batches:
    """Answers many requests in one call.

    Args:
        items: runs them side by side, where that pays.
        writing: a way to write what they do together; None where nothing is written.
    """

    def __init__(self, items: ItemRunner, writing: Callable[[], Writing | None]) -> None:
        self._items = items
        self._writing = writing

    def answer_each(self, answer: AnswerOne, items: Sequence[Any], results: Any, call: CallOfItems) -> None:
        """Answer many items, with a result each, in their order. What does not fit into the answer fails by itself."""
        pairs = [(item, results.add()) for item in items]
        with call.closing():
            if self._items.has_threads:
                self._items.each(
                    lambda pair: self.answer_item(answer, *pair, call), pairs, lambda pair: pair[0].episode_id
                )
            elif (writing := self._writing()) is None:
                for pair in pairs:
                    self.answer_item(answer, *pair, call)
            else:
                self._answer_together(answer, pairs, call, writing)

    def _answer_together(
        self, answer: AnswerOne, pairs: Sequence[tuple[Any, Any]], call: CallOfItems, writing: Writing
    ) -> None:
        """Answer items whose doing is written together. What the store does not take, fails or is done again."""
        again: set[int] = set()
        for index, pair in enumerate(pairs):
            writing.key = index
            if not self.answer_item(answer, *pair, call, writing):
                again.add(index)
        for index, error in writing.finish():
            if error is None:
                again.add(index)
            else:
                self._fail_item(error, *pairs[index], call)
        for index in sorted(again):
            self.answer_item(answer, *pairs[index], call)

    def answer_item(
        self, answer: AnswerOne, item: Any, result: Any, call: CallOfItems, writing: Writing | None = None
    ) -> bool:
        """Write the answer to one item, or its status, into its result; False: it is to be done again."""
        began = time.perf_counter()
        try:
            answer(item, result.response, call.caller, call.room, writing)
        except Outdated:
            return False
        except BaseException as error:  # noqa: BLE001 - an item's failure is its own, whatever it is
            self._fail_item(error, item, result, call, time.perf_counter() - began)
        return True

    def _fail_item(self, error: BaseException, item: Any, result: Any, call: CallOfItems, seconds: float = 0.0) -> None:
        call.failures.add(error, item.episode_id, seconds)
        # A result holds one of the two: setting the error removes what may have been written of the response.
        result.error.CopyFrom(status_of(error))
