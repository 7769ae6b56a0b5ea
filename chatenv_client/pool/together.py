"""Calls of many episodes that go along together: what is ready at one time is one BatchStep, say, or BatchReset.

Nothing waits for company. A call sets a batch off at once; while as many as may be are under way, those that come wait
for the next, so that batches grow with the load.
"""

from __future__ import annotations

import asyncio
import copy
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Generic

from chatenv_client._connection import AsyncConnection
from chatenv_client.batch import BATCHES_IN_FLIGHT, EDGE_ITEMS, Part, Round
from chatenv_client.calls import Call, ResultT
from chatenv_client.errors import ChatEnvError
from chatenv_client.models import Limits

LATE_S: Final = 0.05
"""Seconds after which a batch no longer counts as under way: something in it waits, and the others need not."""

CLOSED: Final = "the pool was closed; open another one"


@dataclass(eq=False)
class _Asked(Generic[ResultT]):
    """A call whose caller waits for its answer."""

    call: Call[ResultT]
    answer: asyncio.Future[ResultT]

    def waited_for(self) -> Call[ResultT | None]:
        """The call; its answer changes nothing where the caller was cancelled meanwhile."""

        def receive(response: Any) -> ResultT | None:
            return None if self.answer.done() else self.call.receive(response)

        return Call(self.call.method, self.call.request, receive)

    def settle(self, result: Any, error: Exception | None) -> None:
        """Tell the caller, if it still waits."""
        if self.answer.done():
            return
        if error is None:
            self.answer.set_result(result)
        else:
            own = copy.copy(error)  # each caller raises one of its own, with a traceback of its own
            own.__cause__ = error.__cause__
            self.answer.set_exception(own)


class Company:
    """The calls of one method that go along together.

    Args:
        limits: of the server.
        connection: over which they are made.
    """

    def __init__(self, limits: Limits, connection: AsyncConnection) -> None:
        self._limits = limits
        self._connection = connection
        self._waiting: deque[_Asked[Any]] = deque()
        self._under_way = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def make(self, call: Call[ResultT]) -> ResultT:
        """Make a call with those that are ready, too.

        Raises:
            ChatEnvError: it failed.
        """
        answer: asyncio.Future[ResultT] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Asked(call, answer))
        self._set_off()
        return await answer

    async def close(self) -> None:
        """Make no more calls; who still waits for one gets a RuntimeError."""
        _settle(self._waiting, RuntimeError(CLOSED))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _set_off(self) -> None:
        if self._waiting and self._under_way < BATCHES_IN_FLIGHT:
            self._under_way += 1
            # A task begins after all that are ready now: their calls go along.
            task = asyncio.ensure_future(self._go())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _go(self) -> None:
        is_counted = True

        def leave() -> None:
            nonlocal is_counted
            self._under_way -= is_counted
            is_counted = False
            self._set_off()

        late = asyncio.get_running_loop().call_later(LATE_S, leave)
        asked = self._taken()
        try:
            await self._answer(asked)
        except asyncio.CancelledError:
            _settle(asked, RuntimeError(CLOSED))
        except Exception as error:  # noqa: BLE001 - it is the callers' to raise
            _settle(asked, error)
        finally:
            late.cancel()
            leave()

    def _taken(self) -> list[_Asked[Any]]:
        """Those that wait, up to a batch, whose callers still want an answer."""
        taken: list[_Asked[Any]] = []
        while self._waiting and len(taken) < EDGE_ITEMS:
            one = self._waiting.popleft()
            if not one.answer.done():
                taken.append(one)
        return taken

    async def _answer(self, asked: list[_Asked[Any]]) -> None:
        round_: Round[Any] = Round(len(asked))
        for index, one in enumerate(asked):
            round_.ask(index, one.waited_for)
        parts = deque(round_.parts(self._limits))
        while parts:
            parts.extend(await _answered(self._connection, parts.popleft()))
        for index, one in enumerate(asked):
            one.settle(round_.results[index], round_.errors.get(index))


def _settle(asked: Iterable[_Asked[Any]], error: Exception) -> None:
    for one in asked:
        one.settle(None, error)


async def _answered(connection: AsyncConnection, part: Part[Any]) -> list[Part[Any]]:
    """Make the call of a part; the parts to make in its place, where it was too large."""
    try:
        response = await AsyncConnection.make(connection, Call(part.method, part.request, _as_it_is), None)
    except ChatEnvError as error:
        return part.fail(error)
    return part.receive(response)


def _as_it_is(response: Any) -> Any:
    return response
