"""What the three clients share: refusing when closed, closing, and the end of a `with` block."""

from __future__ import annotations

import asyncio
import warnings
from typing import Any

import grpc
import grpc.aio
import pytest

from chatenv_client import AsyncChatEnv, ChatEnv, UnavailableError, VectorChatEnv
from chatenv_client._connection import AsyncConnection, Connection, yielding_to
from chatenv_client.calls import CallDefaults

NOBODY = "127.0.0.1:1"


def connect(target: str | grpc.Channel = NOBODY) -> Connection:
    return Connection(target, CallDefaults(), tls=None, max_message_bytes=64 * 1024 * 1024, affinity=False)


def test_a_close_that_fails_is_a_warning_where_the_block_raised_nothing() -> None:
    with pytest.warns(RuntimeWarning, match="stays live until it expires: nobody is there"), yielding_to(None):
        raise UnavailableError("nobody is there")


def test_a_close_that_fails_says_nothing_beside_an_error_of_the_block() -> None:
    with warnings.catch_warnings(), yielding_to(ZeroDivisionError()):
        warnings.simplefilter("error")
        raise UnavailableError("nobody is there")


def test_what_is_no_error_of_a_call_is_raised_in_any_case() -> None:
    with pytest.raises(RuntimeError), yielding_to(ZeroDivisionError()):
        raise RuntimeError


def test_a_connection_is_closed_although_the_server_could_not_be_told() -> None:
    connection = connect()
    done: list[str] = []
    connection.at_close.callback(done.append, "first")
    connection.at_close.callback(done.append, "last")
    with pytest.raises(UnavailableError), connection.closing():
        raise UnavailableError("nobody is there")
    assert done == ["last", "first"]
    with pytest.raises(RuntimeError, match="closed"):
        connection.check()
    send_bytes: Any = connection.channel.unary_unary("/any")
    with pytest.raises(ValueError, match="closed channel"):
        send_bytes(b"")


def test_an_asynchronous_connection_is_closed_although_the_server_could_not_be_told() -> None:
    async def close() -> None:
        connection = AsyncConnection(
            NOBODY, CallDefaults(), tls=None, max_message_bytes=64 * 1024 * 1024, affinity=False
        )
        with pytest.raises(UnavailableError):
            async with connection.closing():
                raise UnavailableError("nobody is there")
        with pytest.raises(RuntimeError, match="closed"):
            connection.check()
        assert connection.channel.get_state() is grpc.ChannelConnectivity.SHUTDOWN

    asyncio.run(close())


def test_a_ready_channel_is_left_open() -> None:
    with grpc.insecure_channel(NOBODY) as channel:
        connection = connect(channel)
        with connection.closing():
            pass
        send_bytes: Any = channel.unary_unary("/any")
        with pytest.raises(grpc.RpcError, match="UNAVAILABLE"):
            send_bytes(b"", timeout=10)


def test_each_client_refuses_calls_when_it_is_closed() -> None:
    with ChatEnv(NOBODY) as one, VectorChatEnv(NOBODY, 2) as many:
        pass
    with pytest.raises(RuntimeError, match="closed"):
        one.reset()
    with pytest.raises(RuntimeError, match="closed"):
        many.reset()

    async def drive() -> None:
        async with AsyncChatEnv(NOBODY) as client:
            pass
        with pytest.raises(RuntimeError, match="closed"):
            await client.reset()

    asyncio.run(drive())
