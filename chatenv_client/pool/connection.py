"""The connection that episodes of a pool share: what goes along together, and how long a server is waited for."""

from __future__ import annotations

import asyncio
import math
import random
from typing import Any, Final

from chatenv_client import inquiries
from chatenv_client._connection import AsyncConnection
from chatenv_client.batch import BATCHED
from chatenv_client.calls import Call, ResultT
from chatenv_client.errors import ChatEnvError, ServerBusyError, TokenLimitError, UnavailableError
from chatenv_client.pool.together import Company
from chatenv_client.succession import NO_ROOM

_FIRST_PAUSE_S: Final = 0.05
_LONGEST_PAUSE_S: Final = 5.0


class Server:
    """What is known of the server, and the calls to it that go along together."""

    last_answer = -math.inf
    """When a call succeeded last, by the loop's clock."""

    def __init__(self) -> None:
        self._asks = asyncio.Lock()
        self._companies: dict[str, Company] | None = None

    async def company_for(self, method: str, connection: AsyncConnection) -> Company | None:
        """Whom a call goes along with; None: it goes by itself.

        With tasks all do but ends: a batch of them would be answered when the slowest of its tasks has answered.
        """
        async with self._asks:
            if self._companies is None:
                self._companies = await self._asked(connection)
            return self._companies.get(method)

    async def close(self) -> None:
        """Let nothing go on that nobody waits for."""
        for company in (self._companies or {}).values():
            await company.close()

    async def _asked(self, connection: AsyncConnection) -> dict[str, Company]:
        info = await AsyncConnection.make(connection, inquiries.server_info(), None)
        methods = ("FinishEpisode",) if info.tasks else BATCHED
        return {method: Company(info.limits) for method in methods}


class PooledConnection(AsyncConnection):
    """Calls of one episode: they go along with others', and are made again while the server is busy or away.

    Args:
        patience_s: seconds that a call is made again for while no other of the pool succeeds. One with a timeout of its
            own is made again for no longer than that.
        **options: as for `AsyncConnection`.
    """

    def __init__(self, *arguments: Any, patience_s: float, affinity: bool, **options: Any) -> None:
        super().__init__(*arguments, affinity=affinity, **options)
        self._patience_s = patience_s
        self.server = Server()
        self._goes_alone = affinity
        """Whether each call says by itself which server is to get it."""

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
        if timeout_s is None and not self._goes_alone and call.method in BATCHED:
            company = await self.server.company_for(call.method, self)
            if company is not None:
                return await company.make(self, call)
        return await super().make(call, timeout_s)
