"""The connection that episodes of a pool share: what goes along together, and how long a server is waited for."""

from __future__ import annotations

import asyncio
import itertools
import math
import random
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import grpc.aio

from chatenv_client import inquiries
from chatenv_client._connection import AsyncConnection
from chatenv_client._lanes import reach_all_async
from chatenv_client.batch import BATCHED
from chatenv_client.calls import Call, CallDefaults, ResultT
from chatenv_client.errors import ChatEnvError, ServerBusyError, TokenLimitError, UnavailableError
from chatenv_client.models import ServerInfo
from chatenv_client.pool.together import Company
from chatenv_client.succession import NO_ROOM

if TYPE_CHECKING:
    from typing_extensions import Self

_FIRST_PAUSE_S: Final = 0.05
_LONGEST_PAUSE_S: Final = 5.0


class _Lane(NamedTuple):
    connection: AsyncConnection
    companies: dict[str, Company]
    """By method, the calls that go along together here."""


class Server:
    """What is known of the server, and the connections to its processes.

    Args:
        first: a connection to it.
        another: opens one more, of its own; None: there is to be one alone.
    """

    last_answer = -math.inf
    """When a call succeeded last, by the loop's clock."""

    def __init__(self, first: AsyncConnection, another: Callable[[], AsyncConnection] | None) -> None:
        self._first = first
        self._another = another
        self._asks = asyncio.Lock()
        self._lanes: list[_Lane] = []

    async def lane(self, number: int, timeout_s: float | None) -> _Lane:
        """The connection that the episodes of a number go over, and whom a call goes along with there.

        With tasks all calls but ends go by themselves: a batch is answered when the slowest of its tasks has answered.

        Raises:
            ChatEnvError: the server did not say what it is.
        """
        async with self._asks:
            if not self._lanes:
                self._lanes = await self._reached(timeout_s)
            return self._lanes[number % len(self._lanes)]

    async def close(self) -> None:
        """Let nothing go on that nobody waits for."""
        for lane in self._lanes:
            for company in lane.companies.values():
                await company.close()

    async def _reached(self, timeout_s: float | None) -> list[_Lane]:
        async def ask(connection: AsyncConnection) -> ServerInfo:
            return await AsyncConnection.make(connection, inquiries.server_info(), timeout_s)

        info = await ask(self._first)
        methods = ("FinishEpisode",) if info.tasks else BATCHED
        connections = [self._first]
        if self._another is not None:
            connections = await reach_all_async(self._first, info, self._another, ask)
        return [_Lane(one, {method: Company(info.limits, one) for method in methods}) for one in connections]


class PooledConnection(AsyncConnection):
    """Calls of one episode: they go along with others', and are made again while the server is busy or away.

    Of a server with several processes each gets its part of the episodes, over a connection of its own.

    Args:
        target: as for `AsyncConnection`.
        defaults: as for `AsyncConnection`.
        patience_s: seconds that a call is made again for while no other of the pool succeeds. One with a timeout of its
            own is made again for no longer than that.
        affinity: whether each call says by itself which server is to get it.
        **options: as for `AsyncConnection`.
    """

    def __init__(
        self,
        target: str | grpc.aio.Channel,
        defaults: CallDefaults,
        *,
        patience_s: float,
        affinity: bool,
        **options: Any,
    ) -> None:
        super().__init__(target, defaults, affinity=affinity, **options)
        another = partial(AsyncConnection, target, defaults, affinity=affinity, own=True, **options)
        self.server = Server(self, another if isinstance(target, str) else None)
        self._patience_s = patience_s
        self._goes_alone = affinity
        self._numbers = itertools.count(1)
        self._number = 0

    def shared(self, near: str | None = None) -> Self:
        """As for `AsyncConnection`. Different ones may lead to different processes."""
        other = super().shared(near)
        other._number = next(self._numbers)
        return other

    async def make(self, call: Call[ResultT], timeout_s: float | None) -> ResultT:
        """As for `AsyncConnection`. A server that is busy or holds too much is waited for, and one that was there."""
        return await self._patiently(call, timeout_s, ServerBusyError, TokenLimitError)

    async def succeed(self, closing: Call[None] | None, opening: Call[ResultT], timeout_s: float | None) -> ResultT:
        """As for `AsyncConnection`. Where no episode makes room for the new one, others of the pool will."""
        if closing is None:
            return await self._patiently(opening, timeout_s, ServerBusyError, *NO_ROOM)
        return await super().succeed(closing, opening, timeout_s)

    async def _patiently(self, call: Call[ResultT], timeout_s: float | None, *full: type[ChatEnvError]) -> ResultT:
        clock = asyncio.get_running_loop().time
        began, pause_s = clock(), _FIRST_PAUSE_S
        while True:
            try:
                return await self._make_once(call, timeout_s)
            except ChatEnvError as error:
                left_s = self._waits_until(began, timeout_s) - clock()
                if left_s <= 0 or not (isinstance(error, full) or self._is_away(call, error)):
                    raise
            await asyncio.sleep(min(left_s, pause_s * random.uniform(0.5, 1.5)))  # noqa: S311 - no secret
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _waits_until(self, began: float, timeout_s: float | None) -> float:
        """Where others get on, a server that is full is at work, and this call's turn will come."""
        if timeout_s is not None:
            return began + min(timeout_s, self._patience_s)
        return max(began, self.server.last_answer) + self._patience_s

    def _is_away(self, call: Call[Any], error: ChatEnvError) -> bool:
        """Whether the server was there and will be again. Who only has to tell it of an end need not wait for that."""
        was_there = self.server.last_answer > -math.inf
        return isinstance(error, UnavailableError) and was_there and call.method != "CloseEpisode"

    async def _make_once(self, call: Call[ResultT], timeout_s: float | None) -> ResultT:
        self.check()
        result = await self._alone_or_along(call, timeout_s)
        self.server.last_answer = asyncio.get_running_loop().time()
        return result

    async def _alone_or_along(self, call: Call[ResultT], timeout_s: float | None) -> ResultT:
        if self._goes_alone:
            return await super().make(call, timeout_s)
        lane = await self.server.lane(self._number, timeout_s)
        company = lane.companies.get(call.method)
        if timeout_s is None and company is not None:
            return await company.make(call)
        return await AsyncConnection.make(lane.connection, call, timeout_s)
