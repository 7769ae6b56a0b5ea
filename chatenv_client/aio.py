"""AsyncChatEnv: the client for asyncio. It has the methods of `ChatEnv`, to be awaited, and the same `Session`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, SupportsFloat

import grpc.aio

from chatenv_client import inquiries, reading
from chatenv_client._connection import FAREWELL_S, AsyncConnection, yielding_to
from chatenv_client._generated.chatenv_pb2 import EpisodeSnapshot
from chatenv_client.calls import DEFAULT_TIMEOUT_S, CallDefaults
from chatenv_client.channel import DEFAULT_MAX_MESSAGE_BYTES, Tls
from chatenv_client.holding import EpisodeHolder
from chatenv_client.models import (
    Action,
    AuditReport,
    ChatAction,
    ChatState,
    EpisodeSummary,
    Failure,
    FailureKind,
    Rendered,
    ResetOptions,
    Rewards,
    Row,
    ServerInfo,
    StepResult,
    StepReward,
    TokenText,
    Trajectory,
)
from chatenv_client.preview import action_from_message
from chatenv_client.session import Session

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack


class AsyncChatEnv(EpisodeHolder):
    """One episode on a chatenv server, for asyncio. The methods of `ChatEnv` and its rule for processes hold here, too.

        async with AsyncChatEnv("localhost:50051") as env:
            result = await env.reset(seed=7)
            result = await env.step({"role": "user", "content": "Hello!"})

    Tasks: await one call at a time; any number of AsyncChatEnv may share a channel within one event loop.
    """

    def __init__(
        self,
        target: str | grpc.aio.Channel,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES,
        tls: Tls | None = None,
        token: str | None = None,
        affinity: bool = False,
    ) -> None:
        """Connect with the first call. To be made inside the event loop; arguments as in `ChatEnv`."""
        defaults = CallDefaults.of(timeout_s=timeout_s, token=token, affinity=affinity)
        self._connection = AsyncConnection(
            target, defaults, tls=tls, max_message_bytes=max_message_bytes, affinity=affinity
        )
        super().__init__(Session())

    @classmethod
    async def from_snapshot(
        cls,
        target: str | grpc.aio.Channel,
        snapshot: EpisodeSnapshot | bytes,
        *,
        episode_id: str | None = None,
        **options: Any,
    ) -> Self:
        """As in `ChatEnv`."""
        env = cls(target, **options)
        try:
            await env.import_episode(snapshot, episode_id)
        except BaseException:
            await env.close()
            raise
        return env

    async def reset(self, *, timeout_s: float | None = None, **options: Unpack[ResetOptions]) -> StepResult:
        """As in `ChatEnv`."""
        opening = self._session.reset(options)
        return await self._connection.succeed(self._session.close(unless=options.get("episode_id")), opening, timeout_s)

    async def step(
        self, action: Action, *, replace_from: int | None = None, timeout_s: float | None = None
    ) -> StepResult:
        """As in `ChatEnv`."""
        return await self._connection.make(self._session.step(action, replace_from=replace_from), timeout_s)

    async def resume(self, episode_id: str, *, timeout_s: float | None = None) -> StepResult:
        """As in `ChatEnv`."""
        return await self._connection.make(self._session.resume(episode_id), timeout_s)

    async def message_to_action(
        self, message: Mapping[str, Any], tokenizer: Any = None, *, timeout_s: float | None = None
    ) -> ChatAction:
        """As in `ChatEnv`."""
        if tokenizer is not None:
            return action_from_message(message, tokenizer)
        return await self._connection.make(self._session.preview(message), timeout_s)

    async def render(self, messages: Sequence[Mapping[str, Any]], *, timeout_s: float | None = None) -> Rendered:
        """As in `ChatEnv`."""
        return await self._connection.make(self._session.render(messages), timeout_s)

    async def state(self, *, timeout_s: float | None = None) -> ChatState:
        """As in `ChatEnv`."""
        return await self._connection.make(self._session.state(), timeout_s)

    async def trajectory(self, *, assistants: bool = False, timeout_s: float | None = None) -> Trajectory:
        """As in `ChatEnv`."""
        return await self._connection.make(self._session.trajectory(assistants=assistants), timeout_s)

    async def finish(self, *, assistants: bool = False, timeout_s: float | None = None) -> Trajectory:
        """As in `ChatEnv`."""
        return await self._connection.make(self._session.finish(assistants=assistants), timeout_s)

    async def peek(self, episode_id: str, *, timeout_s: float | None = None) -> ChatState:
        """As in `ChatEnv`."""
        return await self._connection.make(reading.state(episode_id), timeout_s)

    async def audit(self, *, timeout_s: float | None = None) -> AuditReport:
        """As in `ChatEnv`."""
        return await self._connection.make(self._session.audit(), timeout_s)

    async def set_reward(
        self,
        rewards: Rewards,
        *,
        step: int | None = None,
        turn: int | None = None,
        weights: Mapping[str, SupportsFloat] | None = None,
        timeout_s: float | None = None,
    ) -> StepReward:
        """As in `ChatEnv`."""
        return await self._connection.make(self._session.set_reward(rewards, weights, step, turn), timeout_s)

    async def fail(
        self, reason: str, kind: FailureKind | str = FailureKind.OTHER, *, timeout_s: float | None = None
    ) -> Failure:
        """As in `ChatEnv`."""
        return await self._connection.make(self._session.fail(reason, kind), timeout_s)

    async def fork(
        self,
        n: int = 1,
        *,
        episode_ids: Sequence[str] | None = None,
        at_step: int | None = None,
        timeout_s: float | None = None,
    ) -> list[AsyncChatEnv]:
        """As in `ChatEnv`."""
        forking = self._session.fork(n, episode_ids, at_step)
        sessions = await self._connection.make(forking, timeout_s)
        return [self._beside(session) for session in sessions]

    def _beside(self, session: Session) -> AsyncChatEnv:
        """A client of a fork of this one's episode."""
        env = AsyncChatEnv.__new__(AsyncChatEnv)
        env._connection = self._connection.shared(near=self.episode_id)
        EpisodeHolder.__init__(env, session)
        return env

    async def export(self, *, timeout_s: float | None = None) -> EpisodeSnapshot:
        """As in `ChatEnv`."""
        return await self._connection.make(self._session.export(), timeout_s)

    async def import_episode(
        self, snapshot: EpisodeSnapshot | bytes, episode_id: str | None = None, *, timeout_s: float | None = None
    ) -> StepResult:
        """As in `ChatEnv`."""
        taking_up = self._session.take_up(snapshot, episode_id)
        closing = self._session.close(unless=taking_up.request.episode_id)
        return await self._connection.succeed(closing, taking_up, timeout_s)

    async def episodes(
        self, prefix: str = "", *, page_size: int = 0, timeout_s: float | None = None
    ) -> AsyncIterator[EpisodeSummary]:
        """As in `ChatEnv`; to be read with `async for`."""
        for call in inquiries.episodes(prefix, page_size):
            for episode in await self._connection.make(call, timeout_s):
                yield episode

    async def list_rows(
        self, task: str | None = None, split: str | None = None, *, page_size: int = 0, timeout_s: float | None = None
    ) -> AsyncIterator[Row]:
        """As in `ChatEnv`; to be read with `async for`."""
        for call in inquiries.rows(task, split, page_size):
            for row in await self._connection.make(call, timeout_s):
                yield row

    async def describe_tokens(self, ids: Iterable[int], *, timeout_s: float | None = None) -> Sequence[TokenText]:
        """As in `ChatEnv`."""
        asking = inquiries.tokens(ids)
        return [text for call in asking for text in await self._connection.make(call, timeout_s)]

    async def server_info(self, *, timeout_s: float | None = None) -> ServerInfo:
        """As in `ChatEnv`."""
        return await self._connection.make(inquiries.server_info(), timeout_s)

    async def close(self, *, timeout_s: float | None = None) -> None:
        """As in `ChatEnv`."""
        if self._connection.is_over:
            return
        self._connection.check()
        async with self._connection.closing():
            if (call := self._session.close()) is not None:
                await self._connection.make(call, timeout_s)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with yielding_to(error):
            await self.close(timeout_s=None if error is None else FAREWELL_S)
