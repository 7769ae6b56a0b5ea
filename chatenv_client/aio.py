"""AsyncChatEnv: the client for asyncio. The same face as ChatEnv, awaited; only the transport is another."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from chatenv_client._generated.chatenv_pb2_grpc import ChatEnvServiceStub
from chatenv_client.calls import DEFAULT_TIMEOUT_S, Call, CallDefaults, ResultT, error_from_rpc
from chatenv_client.channel import (
    DEFAULT_MAX_MESSAGE_BYTES,
    Tls,
    open_async_channel,
    refuse_options_of_ready_channel,
)
from chatenv_client.errors import ChatEnvError
from chatenv_client.fork import ProcessGuard
from chatenv_client.models import (
    Action,
    AuditReport,
    ChatAction,
    ChatState,
    ResetOptions,
    ServerInfo,
    StepResult,
    Trajectory,
)
from chatenv_client.preview import action_from_message
from chatenv_client.session import Session

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack


class AsyncChatEnv:
    """One episode on a chatenv server, for asyncio. See `ChatEnv`; what is said there holds here.

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
        self._defaults = CallDefaults.of(timeout_s=timeout_s, token=token, affinity=affinity)
        self._owns_channel = isinstance(target, str)
        self._channel = _channel(target, tls, max_message_bytes, affinity)
        self._stub = ChatEnvServiceStub(self._channel)
        self._session = Session()
        self._closed = False
        self._guard = ProcessGuard()

    @property
    def episode_id(self) -> str | None:
        """As in `ChatEnv`."""
        return self._session.episode_id

    async def reset(self, *, timeout_s: float | None = None, **options: Unpack[ResetOptions]) -> StepResult:
        """As in `ChatEnv`."""
        if (call := self._session.close(unless=options.get("episode_id"))) is not None:
            await self._make(call, timeout_s)
        return await self._make(self._session.reset(options), timeout_s)

    async def step(self, action: Action, *, timeout_s: float | None = None) -> StepResult:
        """As in `ChatEnv`."""
        return await self._make(self._session.step(action), timeout_s)

    async def resume(self, episode_id: str, *, timeout_s: float | None = None) -> StepResult:
        """As in `ChatEnv`."""
        return await self._make(self._session.resume(episode_id), timeout_s)

    async def message_to_action(
        self, message: Mapping[str, Any], tokenizer: Any = None, *, timeout_s: float | None = None
    ) -> ChatAction:
        """As in `ChatEnv`."""
        if tokenizer is not None:
            return action_from_message(message, tokenizer)
        return await self._make(self._session.render(message), timeout_s)

    async def state(self, *, timeout_s: float | None = None) -> ChatState:
        """As in `ChatEnv`."""
        return await self._make(self._session.state(), timeout_s)

    async def trajectory(self, *, timeout_s: float | None = None) -> Trajectory:
        """As in `ChatEnv`."""
        return await self._make(self._session.trajectory(), timeout_s)

    async def audit(self, *, timeout_s: float | None = None) -> AuditReport:
        """As in `ChatEnv`."""
        return await self._make(self._session.audit(), timeout_s)

    async def server_info(self, *, timeout_s: float | None = None) -> ServerInfo:
        """As in `ChatEnv`."""
        return await self._make(self._session.server_info(), timeout_s)

    async def close(self, *, timeout_s: float | None = None) -> None:
        """As in `ChatEnv`."""
        if self._closed:
            return
        try:
            if (call := self._session.close()) is not None:
                await self._make(call, timeout_s)
        finally:
            self._closed = True
            if self._owns_channel:
                await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            await self.close()
        except ChatEnvError:
            # What went wrong inside the block matters more than that nobody could be told of its end.
            if error is None:
                raise

    async def _make(self, call: Call[ResultT], timeout_s: float | None) -> ResultT:
        if self._closed:
            raise RuntimeError("this client is closed; open another one")
        self._guard.check()
        try:
            response = await getattr(self._stub, call.method)(
                call.request, **self._defaults.keywords(call.request, timeout_s)
            )
        except grpc.RpcError as error:
            raise error_from_rpc(error) from error
        return call.receive(response)


def _channel(
    target: str | grpc.aio.Channel, tls: Tls | None, max_message_bytes: int, affinity: bool
) -> grpc.aio.Channel:
    if isinstance(target, str):
        return open_async_channel(target, tls=tls, max_message_bytes=max_message_bytes, affinity=affinity)
    refuse_options_of_ready_channel(tls, max_message_bytes)
    return target
