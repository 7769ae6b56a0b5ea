"""A run: an episode for each row, played by a policy. It begins a new one as soon as one ends."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import Final, Literal

from chatenv_client.aio import AsyncChatEnv
from chatenv_client.errors import ChatEnvError, TaskError
from chatenv_client.models import Action, ChatObservation, FailureKind, ResetOptions, Trajectory
from chatenv_client.models.failure import MAX_REASON_CHARACTERS
from chatenv_client.pool.together import CLOSED

Policy = Callable[[ChatObservation], Awaitable[Action | None]]
"""Is given what the episode shows, and says what to append. None: nothing more, the episode is over."""
Errors = Literal["raise", "fail"]

_CANCELLED: Final = "something that the policy or the rows waited for was cancelled"


class Run:
    """Plays the episodes of some rows; arguments as for `EpisodePool.run`. It begins when it is read."""

    def __init__(
        self,
        opens: Callable[..., Awaitable[AsyncChatEnv]],
        rows: Iterable[ResetOptions] | AsyncIterable[ResetOptions],
        policy: Policy,
        *,
        group: int,
        in_flight: int,
        errors: Errors,
    ) -> None:
        for what, number in (("group", group), ("in_flight", in_flight)):
            if number < 1:
                raise ValueError(f"{what} is a number of episodes, at least 1, not {number}")
        if errors not in ("raise", "fail"):
            raise ValueError(f"errors is 'raise' or 'fail', not {errors!r}")
        self._opens = opens
        self._policy = policy
        self._fails = errors == "fail"
        self._plays = _plays(rows, group)
        self._next = asyncio.Lock()
        self._ended: asyncio.Queue[Trajectory | None] = asyncio.Queue()
        """None: the last worker has ended, or one has failed."""
        self._room = asyncio.Semaphore(in_flight)
        """For trajectories that nobody has taken yet."""
        self._in_flight = in_flight
        self._workers: list[asyncio.Task[None]] = []
        self._was_ended = False

    async def trajectories(self) -> AsyncIterator[Trajectory]:
        """The episodes as they end.

        Raises:
            RuntimeError: the run was ended; or what the rows waited for was cancelled.
            Exception: what an episode failed with.
        """
        self._workers = [asyncio.ensure_future(self._work()) for _ in range(self._in_flight)]
        working = asyncio.gather(*self._workers)
        working.add_done_callback(self._stopped)
        while (trajectory := await self._ended.get()) is not None:
            self._room.release()
            yield trajectory
        try:
            working.result()
        except asyncio.CancelledError as error:
            raise RuntimeError(CLOSED if self._was_ended else _CANCELLED) from error

    async def end(self) -> None:
        """End the episodes in flight."""
        self._was_ended = True
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)

    @property
    def asks_here(self) -> bool:
        """Whether the policy asks this, or a row does: the end would wait for itself."""
        return asyncio.current_task() in self._workers

    def _stopped(self, working: asyncio.Future[list[None]]) -> None:
        self._ended.put_nowait(None)
        if not working.cancelled():
            working.exception()  # which nobody else asks for, where the run is not read to its end

    async def _work(self) -> None:
        """Play one episode after the other."""
        while True:
            async with self._next:
                options = await anext(self._plays, None)
            if options is None:
                return
            trajectory = await self._played(options)
            await self._room.acquire()
            self._ended.put_nowait(trajectory)

    async def _played(self, options: ResetOptions) -> Trajectory:
        async with await self._opens(**options) as env:
            try:
                await self._play(env)
            except Exception as error:
                if not self._fails:
                    raise
                await env.fail(_reason_of(error), kind_of(error))
            return await env.finish()

    async def _play(self, env: AsyncChatEnv) -> None:
        observation = env.observation
        while not observation.done:
            action = await self._said(observation)
            if action is None:
                return
            observation = (await env.step(action)).observation

    async def _said(self, observation: ChatObservation) -> Action | None:
        """What the policy says.

        Raises:
            RuntimeError: it was cancelled, and not this worker.
        """
        try:
            return await self._policy(observation)
        except asyncio.CancelledError as error:
            if _is_cancelled():
                raise
            raise RuntimeError(_CANCELLED) from error


def _is_cancelled() -> bool:
    """Whether somebody cancelled this task, and not just what it awaits. Before Python 3.11 nobody can tell."""
    cancelling = getattr(asyncio.current_task(), "cancelling", None)
    return cancelling is None or cancelling() > 0


def _reason_of(error: Exception) -> str:
    """What is recorded of an error: any text can be, with halves of surrogate pairs spelled out."""
    said = f"{type(error).__name__}: {error}".encode("utf-8", "backslashreplace").decode()
    return said[:MAX_REASON_CHARACTERS]


def kind_of(error: Exception) -> FailureKind:
    """What an error broke."""
    if isinstance(error, TaskError):
        return FailureKind.TASK
    return FailureKind.OTHER if isinstance(error, ChatEnvError) else FailureKind.SAMPLER


_SEED_BITS: Final = 31


async def _plays(rows: Iterable[ResetOptions] | AsyncIterable[ResetOptions], group: int) -> AsyncIterator[ResetOptions]:
    """The options of each episode to play."""
    async for row in rows if isinstance(rows, AsyncIterable) else _each(rows):
        if not isinstance(row, Mapping):
            raise TypeError(f"a row is a mapping, the options of reset, not {type(row).__name__}")
        if group == 1:
            yield row
            continue
        if row.get("episode_id"):
            raise ValueError("a row that is played several times cannot name its episode; leave out episode_id")
        # Each of them is a task of its own, which draws with the seed: with one they have one opening.
        shared: ResetOptions = {
            **row,
            "group": row.get("group") or uuid.uuid4().hex,
            "seed": uuid.uuid4().int >> (128 - _SEED_BITS) if row.get("seed") is None else row["seed"],
        }
        for _ in range(group):
            yield shared


async def _each(rows: Iterable[ResetOptions]) -> AsyncIterator[ResetOptions]:
    for row in rows:
        yield row
