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


class Asked(NamedTuple):
    """An item that a call asks."""

    item: Any
    result: Any
    """Where its answer goes, or its status."""
    call: CallOfItems


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
        asked = [Asked(item, results.add(), call) for item in items]
        with call.closing():
            if self._items.has_threads:
                self._items.each(lambda one: self._answer_item(answer, one), asked, lambda one: one.item.episode_id)
            else:
                self.answer_together(answer, asked)

    @property
    def writes(self) -> bool:
        """Whether anything is written of what items do."""
        return self._writing() is not None

    def answer_together(self, answer: AnswerOne, asked: Sequence[Asked]) -> None:
        """Answer items, and have what they do written together. What is not taken, fails or is done again."""
        writing = self._writing()
        again: set[int] = set()
        for index, one in enumerate(asked):
            if writing is not None:
                writing.key = index
            if not self._answer_item(answer, one, writing):
                again.add(index)
        for index, error in () if writing is None else writing.finish():
            if error is None:
                again.add(index)
            else:
                self._fail_item(error, asked[index])
        for index in sorted(again):
            self._answer_item(answer, asked[index])

    def _answer_item(self, answer: AnswerOne, asked: Asked, writing: Writing | None = None) -> bool:
        """Write the answer to one item, or its status, into its result; False: it is to be done again."""
        began = time.perf_counter()
        try:
            answer(asked.item, asked.result.response, asked.call.caller, asked.call.room, writing)
        except Outdated:
            return False
        except BaseException as error:  # noqa: BLE001 - an item's failure is its own, whatever it is
            self._fail_item(error, asked, time.perf_counter() - began)
        return True

    def _fail_item(self, error: BaseException, asked: Asked, seconds: float = 0.0) -> None:
        asked.call.failures.add(error, asked.item.episode_id, seconds)
        # A result holds one of the two: setting the error removes what may have been written of the response.
        asked.result.error.CopyFrom(status_of(error))
