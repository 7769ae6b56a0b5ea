"""Load generators. Each runs in a process of its own and answers with a rate; nothing but the work is inside the clock.

The bare ones send recorded bytes and look at the answers afterwards, so that server and floor meet the same caller. The
others are the clients that people use.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio

from benchmarks.turns import Conversation
from benchmarks.work import LeastWork, Subject
from chatenv_client import AsyncChatEnv, ChatAction, ChatEnv, EpisodePool, VectorChatEnv, channel_options
from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_server.environment.environment import ChatEnvironment

SERVICE = "/chatenv.v1.ChatEnvService/"


@dataclass(frozen=True)
class Load:
    """Recorded calls."""

    target: str
    method: str
    """Path of the RPC."""
    episodes: list[list[bytes]]
    """The requests of each episode; those of one episode wait for each other."""
    items: int
    """Steps in all of them."""
    resets: list[bytes]
    """BatchReset requests to make before the clock starts; they start the same episodes anew."""


def unary(load: Load) -> float:
    """Steps per second of unary calls, all episodes at once, each waiting for its own answers."""
    return asyncio.run(_unary(load))


async def _unary(load: Load) -> float:
    async with grpc.aio.insecure_channel(load.target, channel_options()) as channel:
        await _reset(channel, load)
        call: Any = channel.unary_unary(load.method)

        async def play(requests: list[bytes]) -> list[bytes]:
            return [await call(request) for request in requests]

        began = time.perf_counter()
        answers = await asyncio.gather(*map(play, load.episodes))
        took = time.perf_counter() - began
    _check(load.method, itertools.chain.from_iterable(answers))
    return load.items / took


def stream(load: Load) -> float:
    """Steps per second over one stream, as many in flight as there are episodes."""
    return asyncio.run(_stream(load))


async def _stream(load: Load) -> float:
    requests = [request for turn in zip(*load.episodes, strict=True) for request in turn]
    async with grpc.aio.insecure_channel(load.target, channel_options()) as channel:
        await _reset(channel, load)
        call: Any = channel.stream_stream(load.method)()
        places = asyncio.Semaphore(len(load.episodes))
        answers = []

        async def send() -> None:
            for request in requests:
                await places.acquire()
                await call.write(request)
            await call.done_writing()

        began = time.perf_counter()
        sending = asyncio.ensure_future(send())
        while (answer := await call.read()) is not grpc.aio.EOF:
            answers.append(answer)
            places.release()
        took = time.perf_counter() - began
        await sending
    _check(load.method, answers)
    return load.items / took


async def _reset(channel: grpc.aio.Channel, load: Load) -> None:
    call: Any = channel.unary_unary(SERVICE + "BatchReset", response_deserializer=pb.BatchResetResponse.FromString)
    for request in load.resets:
        assert all(result.HasField("response") for result in (await call(request)).results)
    await channel.channel_ready()


def _check(method: str, answers: Any) -> None:
    """See that no item failed. A unary call that fails raises by itself, and the floor answers nothing to look at."""
    if method == SERVICE + "BatchStep":
        results = (result for answer in answers for result in pb.BatchStepResponse.FromString(answer).results)
        assert all(result.HasField("response") for result in results)
    elif method == SERVICE + "StreamSteps":
        assert all(pb.StreamStepsResponse.FromString(answer).HasField("response") for answer in answers)


Client = Callable[[str, Sequence[Conversation]], float]

# The clients that people use. Whole episodes; many at once are measured as the peer's are, from reset to the last turn.


def chat_env(target: str, said: Sequence[Conversation]) -> float:
    """Steps per second of ChatEnv, one episode after the other."""
    with grpc.insecure_channel(target, channel_options()) as channel:
        ChatEnv(channel).server_info()
        began = time.perf_counter()
        for conversation in said:
            with ChatEnv(channel) as env:
                env.reset(messages=[conversation.opening])
                for sampled, reply in zip(conversation.sampled, conversation.replies, strict=True):
                    env.step(ChatAction(tokens=sampled))
                    env.step(reply)
        return _steps(said) / (time.perf_counter() - began)


def async_chat_env(target: str, said: Sequence[Conversation]) -> float:
    """Steps per second of AsyncChatEnv, all episodes at once."""
    return asyncio.run(_async_chat_env(target, said))


async def _async_chat_env(target: str, said: Sequence[Conversation]) -> float:
    async with grpc.aio.insecure_channel(target, channel_options()) as channel:
        await AsyncChatEnv(channel).server_info()

        async def play(conversation: Conversation) -> None:
            async with AsyncChatEnv(channel) as env:
                await env.reset(messages=[conversation.opening])
                for sampled, reply in zip(conversation.sampled, conversation.replies, strict=True):
                    await env.step(ChatAction(tokens=sampled))
                    await env.step(reply)

        began = time.perf_counter()
        await asyncio.gather(*map(play, said))
        return _steps(said) / (time.perf_counter() - began)


def vector_chat_env(target: str, said: Sequence[Conversation]) -> float:
    """Steps per second of VectorChatEnv, all episodes at once."""
    with _vector(target, said) as env:
        began = time.perf_counter()
        _reset_all(env, said)
        _step_all(env, said)
        return _steps(said) / (time.perf_counter() - began)


def vector_steps(target: str, said: Sequence[Conversation]) -> float:
    """As `vector_chat_env`, but the clock starts after the resets, as it does for recorded calls."""
    with _vector(target, said) as env:
        _reset_all(env, said)
        began = time.perf_counter()
        _step_all(env, said)
        return _steps(said) / (time.perf_counter() - began)


def spread_vector_steps(target: str, said: Sequence[Conversation]) -> float:
    """As `vector_steps`, over the connections that the client opens by itself: one to each process of the server."""
    with VectorChatEnv(target, len(said)) as env:
        _reset_all(env, said)
        began = time.perf_counter()
        _step_all(env, said)
        return _steps(said) / (time.perf_counter() - began)


@contextmanager
def _vector(target: str, said: Sequence[Conversation]) -> Iterator[VectorChatEnv]:
    with grpc.insecure_channel(target, channel_options()) as channel:
        ChatEnv(channel).server_info()
        with VectorChatEnv(channel, len(said)) as env:
            yield env


def _reset_all(env: VectorChatEnv, said: Sequence[Conversation]) -> None:
    env.reset([{"messages": [conversation.opening]} for conversation in said])


def _step_all(env: VectorChatEnv, said: Sequence[Conversation]) -> None:
    for turn in range(len(said[0].turns)):
        env.step([ChatAction(tokens=conversation.turns[turn].ids) for conversation in said])
        env.step([conversation.turns[turn].reply for conversation in said])


def pool_steps(target: str, said: Sequence[Conversation]) -> float:
    """As `vector_steps`, of EpisodePool: each episode at its own pace."""
    return asyncio.run(_pool_steps(target, said))


async def _pool_steps(target: str, said: Sequence[Conversation]) -> float:
    async with EpisodePool(target) as pool:
        envs = await asyncio.gather(*(pool.reset(messages=[conversation.opening]) for conversation in said))

        async def play(env: AsyncChatEnv, conversation: Conversation) -> None:
            for turn in conversation.turns:
                await env.step(ChatAction(tokens=turn.ids))
                await env.step(turn.reply)

        began = time.perf_counter()
        await asyncio.gather(*map(play, envs, said))
        return _steps(said) / (time.perf_counter() - began)


def peer(target: str, said: Sequence[Conversation]) -> float:
    """Steps per second of the peer's own client, all episodes at once."""
    from benchmarks import peer_client

    return _steps(said) / asyncio.run(peer_client.play(target, said))


def peer_steps(target: str, said: Sequence[Conversation]) -> float:
    """As `peer`, but the clock starts after the resets."""
    from benchmarks import peer_client

    return _steps(said) / asyncio.run(peer_client.play(target, said, counts_resets=False))


def _steps(said: Sequence[Conversation]) -> int:
    return sum(2 * len(conversation.turns) for conversation in said)


# Without gRPC.


def in_process(subject: Subject, said: Sequence[Conversation]) -> float:
    """Steps per second of ChatEnvironment without any server."""
    environments = [ChatEnvironment(subject.engine) for _ in said]
    for environment, conversation in zip(environments, said, strict=True):
        environment.reset(messages=[conversation.opening])
    began = time.perf_counter()
    for turn in range(len(said[0].turns)):
        for environment, conversation in zip(environments, said, strict=True):
            environment.step(ChatAction(tokens=conversation.turns[turn].ids))
        for environment, conversation in zip(environments, said, strict=True):
            environment.step(conversation.turns[turn].reply)
    return _steps(said) / (time.perf_counter() - began)


def ceiling(subject: Subject, said: Sequence[Conversation]) -> float:
    """Steps per second of the least work, in a plain loop."""
    work = LeastWork(subject)
    began = time.perf_counter()
    for turn in range(len(said[0].turns)):
        for conversation in said:
            work.read(conversation.turns[turn].ids.tolist())
        for conversation in said:
            work.write(conversation.turns[turn].reply)
    return _steps(said) / (time.perf_counter() - began)
