"""How a client reaches its server, and what it does when it cannot."""

from __future__ import annotations

import asyncio
import json
import math
import pickle
import socket
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest

from chatenv_client import (
    AccessError,
    AsyncChatEnv,
    ChatEnv,
    DeadlineError,
    EpisodePool,
    EpisodeUnknownError,
    Tls,
    UnavailableError,
    VectorChatEnv,
    channel_options,
)
from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client.calls import CallDefaults
from tests.contract.conftest import Serving
from tests.machine import Certificates, free_port

HELLO = {"role": "user", "content": "Hello!"}


@pytest.fixture
def nobody() -> str:
    """An address where nobody serves."""
    return f"127.0.0.1:{free_port()}"


def test_a_unix_socket_is_a_target(serving: Serving, tmp_path: Path) -> None:
    with serving({"listen": (f"unix://{tmp_path}/chatenv.sock",)}) as target, ChatEnv(target) as env:
        assert target.startswith("unix:///")
        assert env.reset(messages=[HELLO]).observation.messages == [HELLO]


def test_a_name_is_a_target(serving: Serving) -> None:
    with serving() as target, ChatEnv(f"dns:///localhost:{target.rpartition(':')[2]}") as env:
        assert env.server_info().version


def test_a_ready_channel_stays_open_and_one_of_the_clients_own_is_closed(target: str) -> None:
    with grpc.insecure_channel(target) as channel:
        for _ in range(2):
            with ChatEnv(channel) as env:
                env.reset()
    own = ChatEnv(target)
    own.reset()
    own.close()
    send_bytes: Any = own._connection.channel.unary_unary("/any")
    with pytest.raises(ValueError, match="closed channel"):
        send_bytes(b"")


@pytest.mark.parametrize("target", ["http://localhost:50051", "https://localhost", "grpc://localhost:1"])
def test_a_url_of_another_kind_is_refused(target: str) -> None:
    with pytest.raises(ValueError, match="host:port"):
        ChatEnv(target)


@pytest.mark.parametrize("options", [{"tls": Tls()}, {"max_message_bytes": 5}])
def test_options_that_a_ready_channel_would_ignore_are_refused(channel: grpc.Channel, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="belong to the channel"):
        ChatEnv(channel, **options)


@pytest.mark.parametrize("target", [None, 50051, b"localhost:50051"])
@pytest.mark.parametrize("client", [ChatEnv, AsyncChatEnv, partial(VectorChatEnv, n=1)])
def test_what_is_neither_an_address_nor_a_channel_is_refused(client: Any, target: Any) -> None:
    with pytest.raises(TypeError, match="give an address, such as 'localhost:50051', or a grpc"):
        client(target)


def test_a_channel_of_the_other_kind_is_refused(channel: grpc.Channel) -> None:
    async def open_one() -> None:
        async with grpc.aio.insecure_channel("localhost:1") as awaited:
            with pytest.raises(TypeError, match=r"grpc\.Channel"):
                ChatEnv(awaited)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"grpc\.aio\.Channel"):
            AsyncChatEnv(channel)  # type: ignore[arg-type]

    asyncio.run(open_one())


def test_a_client_for_asyncio_works_in_the_loop_that_it_was_made_in_and_elsewhere_says_so(target: str) -> None:
    made: list[AsyncChatEnv | EpisodePool] = []

    async def make() -> None:
        made.extend([AsyncChatEnv(target), EpisodePool(target)])
        assert (await made[0].reset()) is not None

    async def use(client: Any) -> None:
        with pytest.raises(RuntimeError, match="make one in each loop"):
            await client.reset()
        with pytest.raises(RuntimeError, match="make one in each loop"):
            await client.close()

    asyncio.run(make())
    for client in made:
        asyncio.run(use(client))
    for kind in (AsyncChatEnv, EpisodePool):
        with pytest.raises(RuntimeError, match="in a coroutine"):
            kind(target)


def test_a_step_before_reset_says_what_to_do(env: ChatEnv) -> None:
    with pytest.raises(RuntimeError, match=r"reset\(\) first"):
        env.step(HELLO)


def test_a_closed_client_says_so(channel: grpc.Channel) -> None:
    env = ChatEnv(channel)
    env.close()
    with pytest.raises(RuntimeError, match="closed"):
        env.reset()


@pytest.mark.parametrize("action", ["Hello!", 3, [1, 2], [HELLO, "Hello!"]])
def test_what_is_no_action_is_a_type_error(env: ChatEnv, action: Any) -> None:
    env.reset()
    with pytest.raises(TypeError, match="step takes"):
        env.step(action)


def test_where_nobody_serves_the_client_says_so_and_keeps_the_cause(nobody: str) -> None:
    with ChatEnv(nobody) as env, pytest.raises(UnavailableError, match="see that a chatenv server runs") as caught:
        env.reset()
    assert isinstance(caught.value.__cause__, grpc.RpcError)
    assert isinstance(caught.value, ConnectionError)
    assert pickle.loads(pickle.dumps(caught.value)).reason == "UNAVAILABLE"


def test_every_call_has_a_deadline_and_a_call_may_have_its_own() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        env = ChatEnv(f"127.0.0.1:{silent.getsockname()[1]}", timeout_s=0.2)
        with pytest.raises(DeadlineError):
            env.reset()
        env.close()
        with ChatEnv(f"127.0.0.1:{silent.getsockname()[1]}", timeout_s=3600) as env, pytest.raises(DeadlineError):
            env.server_info(timeout_s=0.1)


def test_a_deadline_may_be_infinite_but_not_nan(target: str) -> None:
    with ChatEnv(target, timeout_s=math.inf) as env:
        assert env.reset(timeout_s=1e300).observation.step_count == 0
        with pytest.raises(ValueError, match="NaN"):
            env.server_info(timeout_s=math.nan)


def test_the_end_of_a_block_does_not_hide_what_went_wrong_in_it(serving: Serving) -> None:
    with serving() as target:
        env = ChatEnv(target)
        env.reset()
    with pytest.raises(ZeroDivisionError), env:
        raise ZeroDivisionError


def test_an_episode_that_could_not_be_ended_is_no_secret_and_the_client_is_closed(serving: Serving) -> None:
    with serving() as target:
        env = ChatEnv(target)
        env.reset()
    with pytest.warns(RuntimeWarning, match="could not be told of the end") as warned, env:
        pass
    assert warned[0].filename == __file__
    env.close()
    with pytest.raises(RuntimeError, match="closed"):
        env.reset()


def test_both_hold_for_the_asynchronous_client(serving: Serving) -> None:
    async def drive(failure: Exception | None) -> None:
        with serving() as target:
            env = AsyncChatEnv(target)
            await env.reset()
            with pytest.raises(RuntimeError, match="no episode"):
                await AsyncChatEnv(target).step(HELLO)
        async with env:
            if failure is not None:
                raise failure

    with pytest.raises(ZeroDivisionError):
        asyncio.run(drive(ZeroDivisionError()))
    with pytest.warns(RuntimeWarning, match="could not be told of the end"):
        asyncio.run(drive(None))


def test_a_value_that_a_block_returns_is_not_lost_with_the_server(serving: Serving) -> None:
    def rollout() -> int:
        with serving() as target:
            env, many = ChatEnv(target), VectorChatEnv(target, 2)
            env.reset()
            many.reset()
        with env, many:
            return 7

    with pytest.warns(RuntimeWarning, match="stays live until it expires"):
        assert rollout() == 7
    with serving() as target:
        env = ChatEnv(target)
        env.reset()
    with pytest.raises(UnavailableError) as caught:
        env.close()
    assert isinstance(caught.value.__cause__, grpc.RpcError)


def test_a_server_that_was_started_anew_does_not_know_the_episode(serving: Serving) -> None:
    address = (f"127.0.0.1:{free_port()}",)
    with serving({"listen": address}) as target:
        env = ChatEnv(target)
        env.reset()
    with serving({"listen": address}), env, pytest.raises(EpisodeUnknownError, match="restarted"):
        env.step(HELLO)


def test_the_options_for_other_peoples_requests_retry_all_but_the_stream_and_openings() -> None:
    (config,) = (json.loads(str(value)) for key, value in channel_options() if key == "grpc.service_config")
    (policy,) = config["methodConfig"]
    methods = pb.DESCRIPTOR.services_by_name["ChatEnvService"].methods
    not_retried = {"StreamSteps", "Reset", "BatchReset", "ForkEpisode"}
    assert {entry["method"] for entry in policy["name"]} == {method.name for method in methods} - not_retried
    assert policy["retryPolicy"]["retryableStatusCodes"] == ["UNAVAILABLE", "CANCELLED"]


# Who may call.


def test_tls_reaches_a_server_whose_certificate_is_trusted(serving: Serving, certificates: Certificates) -> None:
    trusting = Tls(certificates.read("ca.pem"))
    with serving(certificates.of_server) as target:
        with ChatEnv(target, tls=trusting) as env:
            assert env.reset(messages=[HELLO]).observation.messages == [HELLO]

        async def ask() -> str:
            async with AsyncChatEnv(target, tls=trusting) as env:
                return (await env.server_info()).version

        assert asyncio.run(ask())
        for tls in (Tls(), None):
            with ChatEnv(target, tls=tls) as env, pytest.raises(UnavailableError):
                env.server_info()


def test_a_server_that_asks_who_calls_lets_in_who_shows_a_certificate(
    serving: Serving, certificates: Certificates
) -> None:
    authority, key, chain = (certificates.read(name) for name in ("ca.pem", "client.key", "client.pem"))
    with serving({**certificates.of_server, "tls_client_ca": certificates.path("ca.pem")}) as target:
        with ChatEnv(target, tls=Tls(authority, key, chain)) as env:
            assert env.server_info().version
        with ChatEnv(target, tls=Tls(authority)) as env, pytest.raises(UnavailableError):
            env.server_info()


def test_no_secret_is_shown() -> None:
    assert "secret" not in repr(Tls(private_key=b"secret", certificate_chain=b"chain"))
    assert "secret" not in repr(CallDefaults.of(timeout_s=1, token="secret"))


@pytest.mark.parametrize("half", [{"private_key": b"key"}, {"certificate_chain": b"chain"}])
def test_half_a_clients_pair_is_refused(half: dict[str, bytes]) -> None:
    with pytest.raises(ValueError, match="come together"):
        Tls(**half)


@pytest.mark.parametrize("token", [None, "wrong", ""])
def test_the_bearer_token_lets_in_and_its_lack_keeps_out(serving: Serving, token: str | None) -> None:
    with serving({"bearer_token": "s3cret"}) as target:
        with ChatEnv(target, token="s3cret") as env:
            assert env.reset(messages=[HELLO]).observation.messages == [HELLO]
        with ChatEnv(target, token=token) as env, pytest.raises(AccessError, match="token=") as caught:
            env.reset()
        assert caught.value.code == "UNAUTHENTICATED"
