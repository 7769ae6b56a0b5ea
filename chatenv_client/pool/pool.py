"""EpisodePool: many episodes in one event loop, each at its own pace."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Coroutine, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

import grpc.aio

from chatenv_client import inquiries
from chatenv_client._connection import FAREWELL_S, yielding_to
from chatenv_client.aio import AsyncChatEnv
from chatenv_client.calls import DEFAULT_TIMEOUT_S, CallDefaults
from chatenv_client.channel import DEFAULT_MAX_MESSAGE_BYTES, Tls
from chatenv_client.holding import EpisodeHolder
from chatenv_client.models import ResetOptions, ServerInfo, StepResult, Trajectory
from chatenv_client.pool.connection import PooledConnection
from chatenv_client.pool.run import Errors, Policy, Run
from chatenv_client.session import Session

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

DEFAULT_PATIENCE_S: Final = 300.0
DEFAULT_IN_FLIGHT: Final = 256


class EpisodePool:
    """Many episodes on a chatenv server, each at its own pace, for asyncio.

        async with EpisodePool("localhost:50051") as pool:
            async for trajectory in pool.run([{"row": 0}, {"row": 1}], policy, group=8):
                ...

    Where no task answers on the server, steps that are ready at the same time travel in one BatchStep, and resets in
    one BatchReset. A server that is busy, has no room for one episode more, or is started anew, is waited for. Of a
    server with several processes each gets its part of the episodes, over a connection of its own, unless the target is
    a channel.

    Tasks: any number of them may use a pool within one event loop. Processes: as for `ChatEnv`.
    """

    def __init__(
        self,
        target: str | grpc.aio.Channel,
        *,
        patience_s: float = DEFAULT_PATIENCE_S,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES,
        tls: Tls | None = None,
        token: str | None = None,
        affinity: bool = False,
    ) -> None:
        """Connect with the first call. To be made inside the event loop.

        Args:
            target: as for `AsyncChatEnv`.
            patience_s: seconds for which a call is made again that finds the server full, or away after it was there,
                while no other call of the pool succeeds; then its error is raised. A call that is given a `timeout_s`
                is made again for no longer than that.
            timeout_s: deadline of each call.
            max_message_bytes: as for `ChatEnv`.
            tls: as for `ChatEnv`.
            token: as for `ChatEnv`.
            affinity: as for `ChatEnv`. Each call goes by itself then.
        """
        defaults = CallDefaults.of(timeout_s=timeout_s, token=token, affinity=affinity)
        self._connection = PooledConnection(
            target, defaults, tls=tls, max_message_bytes=max_message_bytes, affinity=affinity, patience_s=patience_s
        )
        self._open: set[AsyncChatEnv] = set()
        """What `reset` gave out, and nobody has closed."""
        self._runs: set[Run] = set()
        self._farewells = _Farewells()

    def client(self) -> AsyncChatEnv:
        """A client that has no episode yet: its `reset` opens one, its `resume` takes one up. Else as from `reset`."""
        return _PooledChatEnv(self._connection.shared(), self._open, self._farewells)

    async def reset(self, *, timeout_s: float | None = None, **options: Unpack[ResetOptions]) -> AsyncChatEnv:
        """Open an episode: a client of it, whose `observation` is the opening.

        It has all methods of `AsyncChatEnv`; its `close`, or the end of a `with` block, ends the episode. Those that
        are open when the pool is closed are ended then.

        Args:
            timeout_s: deadline of the call.
            **options: as for `ChatEnv.reset`.

        Raises:
            TypeError: there is no such keyword, or a value is of another type; nothing was sent.
            ChatEnvError: see `chatenv_client.errors`.
        """
        env = self.client()
        opening = asyncio.ensure_future(env.reset(timeout_s=timeout_s, **options))
        try:
            await asyncio.shield(opening)
        except asyncio.CancelledError:
            self._farewells.begin(_close_when_open(env, opening))
            raise
        except BaseException:
            await env.close()
            raise
        return env

    async def run(
        self,
        rows: Iterable[ResetOptions] | AsyncIterable[ResetOptions],
        policy: Policy,
        *,
        group: int = 1,
        in_flight: int = DEFAULT_IN_FLIGHT,
        errors: Errors = "raise",
    ) -> AsyncGenerator[Trajectory, None]:
        """Play an episode for each row, or several; their trajectories, in the order in which they end.

        A new episode begins as soon as one ends, whether or not its trajectory was taken yet; at most `in_flight`
        trajectories wait to be taken. To leave the loop early, wrap it in `contextlib.aclosing`: what is in flight is
        then ended at once, and else when Python collects the iterator or the pool is closed.

        Args:
            rows: options of `reset`; there may be no end of them.
            policy: is given the observation when it is the caller's turn, and says what to append: what the model
                sampled, a message, or a list of messages. None leaves the episode as it is, and ends it.
            group: episodes of each row. From 2 on they are a group under one name, and share a seed: those of the row,
                where it has any.
            in_flight: episodes at once, at most.
            errors: `raise`: an error of the policy or of a step ends the run. `fail`: it ends its episode, whose
                `failure` says so; the run goes on.

        Raises:
            ValueError: `group`, `in_flight` or `errors` is none; or a row names an episode of which there are several.
            TypeError: a row is no mapping.
            RuntimeError: the pool was closed; or what the policy or the rows waited for was cancelled.
            ChatEnvError: an episode could not be opened or read; with `raise`, a step failed.
            Exception: what the policy raised.
        """
        run = Run(self.reset, rows, policy, group=group, in_flight=in_flight, errors=errors)
        self._runs.add(run)
        try:
            async for trajectory in run.trajectories():
                yield trajectory
        finally:
            await run.end()
            self._runs.discard(run)

    async def server_info(self, *, timeout_s: float | None = None) -> ServerInfo:
        """What the server is."""
        return await self._connection.make(inquiries.server_info(), timeout_s)

    async def close(self, *, timeout_s: float | None = None) -> None:
        """End all runs and episodes, and close the channel if it was opened here. Closing twice is fine.

        Raises:
            RuntimeError: a policy wants to close the pool that waits for it.
            ChatEnvError: the server could not be told of all; this pool is closed all the same.
        """
        if self._connection.is_over:
            return
        self._connection.check()
        if any(run.asks_here for run in self._runs):
            raise RuntimeError(
                "a policy cannot close the pool that waits for it; raise, and close where the run is read"
            )
        async with self._connection.closing():
            await asyncio.gather(*[run.end() for run in self._runs])
            await self._farewells.end()
            ended = await asyncio.gather(
                *(env.close(timeout_s=timeout_s) for env in list(self._open)), return_exceptions=True
            )
            await self._connection.server.close()
        for error in filter(None, ended):
            raise error

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with yielding_to(error):
            await self.close(timeout_s=None if error is None else FAREWELL_S)


class _Farewells:
    """Ends of episodes that go on although their callers were cancelled: the server is told all the same."""

    def __init__(self) -> None:
        self._under_way: set[asyncio.Task[None]] = set()

    def begin(self, farewell: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Begin one; it goes on if nobody waits for it."""
        task = asyncio.ensure_future(farewell)
        self._under_way.add(task)
        task.add_done_callback(self._forget)
        return task

    async def end(self) -> None:
        """Wait for those that are under way."""
        await asyncio.gather(*self._under_way, return_exceptions=True)

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        if not task.cancelled():
            task.exception()  # which nobody else may ask for


class _PooledChatEnv(AsyncChatEnv):
    """A client of one episode of a pool, among those that are open until it is closed."""

    def __init__(self, connection: PooledConnection, among: set[AsyncChatEnv], farewells: _Farewells) -> None:
        EpisodeHolder.__init__(self, Session())
        self._connection = connection
        self._among, self._farewells = among, farewells
        among.add(self)

    async def close(self, *, timeout_s: float | None = None) -> None:
        """As in `ChatEnv`."""
        self._among.discard(self)
        await asyncio.shield(self._farewells.begin(super().close(timeout_s=timeout_s)))


async def _close_when_open(env: AsyncChatEnv, opening: asyncio.Task[StepResult]) -> None:
    await asyncio.wait([opening])
    if not opening.cancelled():
        opening.exception()  # nobody else asks
    with yielding_to(None):
        await env.close()
