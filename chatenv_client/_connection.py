"""The connection that a client holds: its channel, the checks before each call, and its end.

Blocking clients hold a `Connection`, those for asyncio an `AsyncConnection`. The two differ in how a channel is opened,
a call is awaited and a channel is closed. Neither knows anything of episodes.
"""

from __future__ import annotations

import asyncio
import threading
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import (
    AbstractContextManager,
    AsyncExitStack,
    ExitStack,
    asynccontextmanager,
    contextmanager,
    suppress,
)
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

import grpc
import grpc.aio

from chatenv_client.calls import Call, CallDefaults, ResultT, error_from_rpc, taken
from chatenv_client.channel import Tls, check_ready_channel, open_async_channel, open_channel
from chatenv_client.errors import ChatEnvError
from chatenv_client.fork import FORKS_WAIT, ProcessGuard
from chatenv_client.pending import PendingCall, undisturbed
from chatenv_client.stub import stub_of
from chatenv_client.succession import NO_ROOM, STAYS

if TYPE_CHECKING:
    from typing_extensions import Self

ChannelT = TypeVar("ChannelT", grpc.Channel, grpc.aio.Channel)

FAREWELL_S: Final = 2.0
"""Seconds that telling the server of the end may take where a `with` block raised: with Ctrl-C, say, since the server
hangs."""


class _Users:
    """Counts the connections that share a channel: the last one closes it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 1

    def join(self) -> None:
        """One more."""
        with self._lock:
            self._count += 1

    def leave(self) -> bool:
        """One less; whether it was the last."""
        with self._lock:
            self._count -= 1
            return self._count == 0


class BaseConnection(Generic[ChannelT]):
    """What both kinds of connections share."""

    def __init__(self, channel: ChannelT, defaults: CallDefaults) -> None:
        self.channel: ChannelT = channel
        self.is_closed = False
        self._users = _Users()
        self._stub = stub_of(channel)
        self._defaults = defaults
        self._uses_grpc = not getattr(channel, "is_in_process", False)
        self._guard = ProcessGuard(uses_grpc=self._uses_grpc)

    @property
    def is_over(self) -> bool:
        """Whether there is nothing to close: it is closed, or the process that this one was forked from has it."""
        return self.is_closed or self._guard.is_of_parent

    def check(self) -> None:
        """Let calls through where they can work.

        Raises:
            RuntimeError: the client is closed, or this process was forked from one that has used gRPC.
        """
        if self.is_closed:
            raise RuntimeError("this client is closed; open another one")
        self._guard.check()

    def shared(self, near: str | None = None) -> Self:
        """One more connection on the same channel, which the last of them closes.

        Args:
            near: an episode. With affinity, all calls of the new connection go to the server that has it.
        """
        self.check()
        self._users.join()
        other = type(self).__new__(type(self))
        vars(other).update(vars(self))
        if near is not None:
            other._defaults = self._defaults.near(near)
        return other

    def __reduce__(self) -> str:
        raise TypeError(
            "a client holds a connection, which cannot be pickled; send what it was opened with and `episode_id`, and "
            "there open a client and `resume` the episode"
        )

    def _begin(self, call: Call[Any], timeout_s: float | None) -> Any:
        """Make a call; gRPC's answer, or what is to be awaited for it."""
        self.check()
        return getattr(self._stub, call.method)(call.request, **self._defaults.keywords(call.request, timeout_s))


class Connection(BaseConnection[grpc.Channel]):
    """A connection whose calls block."""

    def __init__(
        self,
        target: str | grpc.Channel,
        defaults: CallDefaults,
        *,
        tls: Tls | None,
        max_message_bytes: int,
        affinity: bool,
        own: bool = False,
    ) -> None:
        """Open a channel, which is closed at the end, or take the one that was given, which is left open.

        With `own` an opened channel shares no connection with others.

        Raises:
            TypeError: the target is neither an address nor a channel whose calls block.
            ValueError: the target is a URL of another kind, or an option was given along with a ready channel.
        """
        self.at_close = ExitStack()
        """What is done when the last connection on the channel is closed, the last first."""
        if isinstance(target, str):
            channel = open_channel(
                target, tls=tls, max_message_bytes=max_message_bytes, affinity=affinity, own_connection=own
            )
            self.at_close.callback(channel.close)
        else:
            check_ready_channel(target, grpc.Channel, tls, max_message_bytes)
            channel = target
        super().__init__(channel, defaults)

    def make(self, call: Call[ResultT], timeout_s: float | None) -> ResultT:
        """Make a call and wait for its answer.

        Raises:
            RuntimeError: see `check`.
            ChatEnvError: the call failed.
        """
        try:
            with FORKS_WAIT:
                response = self._begin(call, timeout_s)
        except grpc.RpcError as error:
            raise error_from_rpc(error) from error
        return taken(call.receive, response)

    def succeed(self, closing: Call[None] | None, opening: Call[ResultT], timeout_s: float | None) -> ResultT:
        """Open an episode, and close the one before it; where it is refused, that one is as it was.

        Args:
            closing: of the one before; None: there is none.
            opening: of the new one.
            timeout_s: deadline of each call.

        Raises:
            ChatEnvError: the new one could not be opened.
        """
        if closing is None:
            return self.make(opening, timeout_s)
        try:
            opened = self.make(opening, timeout_s)
        except NO_ROOM:
            self.make(closing, timeout_s)
            return self.make(opening, timeout_s)
        with warned_of(STAYS):
            self.make(closing, timeout_s)
        return opened

    def future(self, method: str, request: Any, timeout_s: float | None) -> PendingCall:
        """Make a call without waiting for its answer. The caller has to `check` before."""
        keywords = self._defaults.keywords(request, timeout_s)

        def begin() -> PendingCall:
            return PendingCall(getattr(self._stub, method).future(request, **keywords))

        return undisturbed(begin) if self._uses_grpc else begin()

    @contextmanager
    def closing(self) -> Iterator[None]:
        """A block that tells the server of the end. After it the connection is closed, also where the block failed."""
        try:
            yield
        finally:
            self.is_closed = True
            if self._users.leave():
                self.at_close.close()


class AsyncConnection(BaseConnection[grpc.aio.Channel]):
    """A connection whose calls are awaited. To be made inside the event loop."""

    def __init__(
        self,
        target: str | grpc.aio.Channel,
        defaults: CallDefaults,
        *,
        tls: Tls | None,
        max_message_bytes: int,
        affinity: bool,
        own: bool = False,
    ) -> None:
        """As for `Connection`.

        Raises:
            RuntimeError: no event loop runs here.
        """
        self.at_close = AsyncExitStack()
        """As for `Connection`."""
        if isinstance(target, str):
            self._loop = _running_loop()
            channel = open_async_channel(
                target, tls=tls, max_message_bytes=max_message_bytes, affinity=affinity, own_connection=own
            )
            self.at_close.push_async_callback(channel.close)
        else:
            check_ready_channel(target, grpc.aio.Channel, tls, max_message_bytes)
            self._loop = _running_loop()
            channel = target
        super().__init__(channel, defaults)

    def check(self) -> None:
        """As for `Connection`; in another event loop than that of the channel, too, it raises."""
        super().check()
        if asyncio.get_running_loop() is not self._loop:
            raise RuntimeError(
                "this client belongs to another event loop, that in which it was made; make one in each loop"
            )

    async def make(self, call: Call[ResultT], timeout_s: float | None) -> ResultT:
        """As for `Connection`."""
        try:
            response = await self._begin(call, timeout_s)
        except grpc.RpcError as error:
            raise error_from_rpc(error) from error
        return taken(call.receive, response)

    async def succeed(self, closing: Call[None] | None, opening: Call[ResultT], timeout_s: float | None) -> ResultT:
        """As for `Connection`."""
        if closing is None:
            return await self.make(opening, timeout_s)
        try:
            opened = await self.make(opening, timeout_s)
        except NO_ROOM:
            await self.make(closing, timeout_s)
            return await self.make(opening, timeout_s)
        with warned_of(STAYS):
            await self.make(closing, timeout_s)
        return opened

    @asynccontextmanager
    async def closing(self) -> AsyncIterator[None]:
        """As for `Connection`."""
        try:
            yield
        finally:
            self.is_closed = True
            if self._users.leave():
                await self.at_close.aclose()


def _running_loop() -> asyncio.AbstractEventLoop:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise RuntimeError("a client for asyncio is made inside the event loop: in a coroutine, say") from None


def yielding_to(error: BaseException | None) -> AbstractContextManager[None]:
    """A context for the close at the end of a caller's `with` block, which raised `error`, or None.

    That the server could not be told of the end is no error: what the block returned or raised matters more. Where it
    raised nothing, a warning says so.
    """
    return warned_of("the server could not be told of the end") if error is None else suppress(ChatEnvError)


@contextmanager
def warned_of(what: str) -> Iterator[None]:
    """A block whose failed call is a RuntimeWarning that says what could not be done."""
    try:
        yield
    except ChatEnvError as failure:
        warnings.warn(f"{what}, so its episode stays live until it expires: {failure}", RuntimeWarning, stacklevel=4)
