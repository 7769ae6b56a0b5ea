"""Answers the items of batches and streams, each with its own status, and has what they do written together."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any

import grpc

from chatenv_client.errors import InvalidRequestError
from chatenv_client.reasons import Reason
from chatenv_server.episodes.writing import Outdated, Writing
from chatenv_server.rpc.answering import AnswerOne
from chatenv_server.rpc.courses import Courses, exhaust
from chatenv_server.rpc.failures import ItemFailures, status_of
from chatenv_server.rpc.room import AnswerRoom
from chatenv_server.values import value
from chatenv_server.work import Course, done


@value
class CallOfItems:
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


@value
class Asked:
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
        writing: a way to write what they do together; None where nothing is written.
        max_items: of one batch.
    """

    def __init__(self, writing: Callable[[], Writing | None], max_items: int) -> None:
        self._writing = writing
        self._max_items = max_items

    @property
    def writes(self) -> bool:
        """Whether anything is written of what items do."""
        return self._writing() is not None

    def check_size(self, items: Sequence[Any], field: str) -> None:
        """Raise InvalidRequestError where a batch is empty or too large."""
        if not 1 <= len(items) <= self._max_items:
            raise InvalidRequestError(
                f"a batch holds 1 to {self._max_items} items, and this one {len(items)}; send several",
                reason=Reason.BATCH_SIZE,
                field=field,
            )

    def answer_each(self, answer: AnswerOne, items: Sequence[Any], results: Any, call: CallOfItems) -> None:
        """Answer many items, with a result each, in their order. What does not fit into the answer fails by itself."""
        with call.closing():
            self.answer_together(answer, [Asked(item, results.add(), call) for item in items])

    def answer_together(self, answer: AnswerOne, asked: Sequence[Asked]) -> None:
        """Answer items, and have what they do written together. What is not taken, fails or is done again."""
        writing = self._writing()
        again = self._answer_all(answer, asked, writing)
        for index, error in () if writing is None else writing.finish():
            if error is None:
                again.add(index)
            else:
                self._fail_item(error, asked[index])
        for index in sorted(again):
            done(self.answer_item(answer, asked[index]))

    def _answer_all(self, answer: AnswerOne, asked: Sequence[Asked], writing: Writing | None) -> set[int]:
        """Answer items, and have what they do written together; those that are to be done again."""
        again: set[int] = set()

        async def answer_one(index: int) -> None:
            if writing is not None:
                writing.key = index
            if not await self.answer_item(answer, asked[index], writing):
                again.add(index)

        resumed: SimpleQueue[Course[None]] = SimpleQueue()
        courses = Courses(answer_one, resumed.put)
        for index, one in enumerate(asked):
            exhaust(courses.add(one.item.episode_id, index))
        while courses:
            if resumed.empty():
                _prepare_to_wait(courses, writing)
            course = resumed.get()
            if writing is not None:
                writing.key = courses.item_of(course)
            exhaust(courses.go_on(course))
        return again

    async def answer_item(self, answer: AnswerOne, asked: Asked, writing: Writing | None = None) -> bool:
        """Write the answer to one item, or its status, into its result; False: it is to be done again."""
        began = time.perf_counter()
        try:
            await answer(asked.item, asked.result.response, asked.call.caller, asked.call.room, writing)
        except Outdated:
            return False
        except BaseException as error:  # noqa: BLE001 - an item's failure is its own, whatever it is
            self._fail_item(error, asked, time.perf_counter() - began)
        return True

    def _fail_item(self, error: BaseException, asked: Asked, seconds: float = 0.0) -> None:
        asked.call.failures.add(error, asked.item.episode_id, seconds)
        # A result holds one of the two: setting the error removes what may have been written of the response.
        asked.result.error.CopyFrom(status_of(error))


def _prepare_to_wait(courses: Courses[int, None], writing: Writing | None) -> None:
    courses.begin_pauses()
    if writing is not None:
        writing.write()  # who waits holds nothing that others may wait for
