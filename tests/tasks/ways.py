"""The ways in which a task's episode is played: in-process, by single calls, batches or a stream, asyncio, a pool."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import grpc

from chatenv_client import (
    AsyncChatEnv,
    AuditReport,
    ChatAction,
    ChatEnv,
    ChatObservation,
    ChatState,
    EpisodePool,
    Trajectory,
    channel_options,
    connect,
    wire,
)
from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client._generated.chatenv_pb2_grpc import ChatEnvServiceStub
from chatenv_client.wire.requests import write_step
from chatenv_server import ChatEnvironment, Settings, serve
from chatenv_server.engine import TokenEngine

if TYPE_CHECKING:
    from typing_extensions import Self

WAYS = ("in-process", "unary", "batch", "stream", "asyncio", "pool", "local")
STOP = 257
"""Ends a turn of the embedded tokenizer."""


def said(text: str, *, stop: bool = True, **more: Any) -> ChatAction:
    """A turn of the embedded tokenizer."""
    return ChatAction(tokens=[*text.encode(), *([STOP] if stop else [])], **more)


@dataclass
class Shown:
    """What a reset or step showed."""

    tokens: list[int]
    messages: list[Any]
    reward: float | None
    rewards: dict[str, float]
    terminated: bool
    truncated: bool
    metadata: dict[str, Any]
    turns_left: int | None
    tokens_left: int | None
    turn_open: bool
    step_count: int
    failure: Any


def shown(observation: ChatObservation) -> Shown:
    """Of an observation."""
    return _shown(observation, observation.token_ids.tolist(), observation.messages)


def _shown(observation: ChatObservation, tokens: list[int], messages: list[Any]) -> Shown:
    return Shown(
        tokens,
        messages,
        observation.reward,
        observation.rewards,
        observation.terminated,
        observation.truncated,
        observation.metadata,
        observation.turns_left,
        observation.tokens_left,
        observation.turn_open,
        observation.step_count,
        observation.failure,
    )


class Player(Protocol):
    """Plays one episode at a time."""

    def reset(self, **options: Any) -> Shown:
        """Start an episode."""

    def step(self, action: Any) -> Shown:
        """Take a step."""

    def trajectory(self) -> Trajectory:
        """The episode for training."""

    def state(self) -> ChatState:
        """The episode now."""

    def audit(self) -> AuditReport:
        """Compare the stream with a full rendering."""

    def close(self) -> None:
        """End the episode."""


@contextmanager
def playing(way: str, engine: TokenEngine, *, task: Any, **settings: Any) -> Iterator[Player]:
    """A player with a task, in one of the ways."""
    rows: Sequence[Mapping[str, Any]] | None = settings.pop("rows", None)
    if way == "in-process":
        timeout_s = settings.pop("task_timeout", 0.0)
        with ChatEnvironment(engine, task=task, rows=rows, task_timeout_s=timeout_s, **settings) as environment:
            yield _InProcess(environment)
        return
    if way == "local":
        with connect("local:", engine=engine, task=task, rows=rows, **settings) as env:
            yield _Unary(env)
        return
    made = Settings(listen=("127.0.0.1:0",), **settings)
    with ExitStack() as stack:
        server = stack.enter_context(serve(made, engine=engine, task=task, rows=rows))
        if way in ("asyncio", "pool", "local"):
            yield stack.enter_context(_Asyncio(server.target, pooled=way == "pool"))
        else:
            channel = stack.enter_context(grpc.insecure_channel(server.target, channel_options()))
            env = stack.enter_context(ChatEnv(channel))
            yield _Unary(env) if way == "unary" else _Wire(env, ChatEnvServiceStub(channel), way)


class _InProcess:
    def __init__(self, env: ChatEnvironment) -> None:
        self._env = env
        self.trajectory, self.audit, self.close = env.trajectory, env.audit, env.close

    def reset(self, **options: Any) -> Shown:
        return shown(self._env.reset(**options))

    def step(self, action: Any) -> Shown:
        return shown(self._env.step(action))

    def state(self) -> ChatState:
        return self._env.state


class _Unary:
    def __init__(self, env: ChatEnv) -> None:
        self._env = env
        self.trajectory, self.audit, self.state = env.trajectory, env.audit, env.state

    def reset(self, **options: Any) -> Shown:
        return shown(self._env.reset(**options).observation)

    def step(self, action: Any) -> Shown:
        return shown(self._env.step(action).observation)

    def close(self) -> None:
        self._env.close()


class _Wire:
    """Batches and streams, with one item each."""

    def __init__(self, env: ChatEnv, stub: ChatEnvServiceStub, way: str) -> None:
        self._env = env
        self._stub = stub
        self._way = way
        self._episode_id = ""

    def reset(self, **options: Any) -> Shown:
        request = pb.BatchResetRequest(resets=[wire.reset_to_proto(options)])  # type: ignore[arg-type]
        result = self._stub.BatchReset(request).results[0]
        observed = self._observed(result)
        self._episode_id = result.response.observation.episode_id
        return observed

    def step(self, action: Any) -> Shown:
        step = pb.StepRequest()
        given = action if isinstance(action, ChatAction) else ChatAction(messages=(action,))
        write_step(step, given, episode_id=self._episode_id)
        if self._way == "batch":
            return self._observed(self._stub.BatchStep(pb.BatchStepRequest(steps=[step])).results[0])
        return self._observed(next(iter(self._stub.StreamSteps(iter([pb.StreamStepsRequest(step=step)])))))

    def _observed(self, result: Any) -> Shown:
        if result.HasField("error"):
            raise wire.error_from_item(result.error)
        delta = wire.observation_from_proto(result.response.observation)
        return _shown(delta.observation, delta.tokens.tolist(), delta.messages)

    def state(self) -> ChatState:
        return wire.state_from_proto(self._stub.GetState(pb.GetStateRequest(episode_id=self._episode_id)))

    def trajectory(self) -> Trajectory:
        request = pb.GetTrajectoryRequest(episode_id=self._episode_id)
        return wire.trajectory_from_proto(self._stub.GetTrajectory(request))

    def audit(self) -> AuditReport:
        return wire.audit_from_proto(self._stub.AuditEpisode(pb.AuditEpisodeRequest(episode_id=self._episode_id)))

    def close(self) -> None:
        self._stub.CloseEpisode(pb.CloseEpisodeRequest(episode_id=self._episode_id))


class _Asyncio:
    def __init__(self, target: str, *, pooled: bool) -> None:
        self._target = target
        self._pooled = pooled
        self._pool: EpisodePool | None = None

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._env = self._run(self._open())
        return self

    def __exit__(self, *_: object) -> None:
        self._run((self._pool or self._env).__aexit__(None, None, None))
        self._loop.close()

    def _run(self, coroutine: Any) -> Any:
        return self._loop.run_until_complete(coroutine)

    async def _open(self) -> AsyncChatEnv:
        if self._pooled:
            self._pool = EpisodePool(self._target)
        return AsyncChatEnv(self._target)

    async def _opened_in_pool(self, pool: EpisodePool, options: dict[str, Any]) -> None:
        env = await pool.reset(**options)
        await self._env.close()
        self._env, self._pooled = env, False

    def reset(self, **options: Any) -> Shown:
        if self._pooled and self._pool is not None:
            self._run(self._opened_in_pool(self._pool, options))
            return shown(self._env.observation)
        return shown(self._run(self._env.reset(**options)).observation)

    def step(self, action: Any) -> Shown:
        return shown(self._run(self._env.step(action)).observation)

    def state(self) -> ChatState:
        state: ChatState = self._run(self._env.state())
        return state

    def trajectory(self) -> Trajectory:
        trajectory: Trajectory = self._run(self._env.trajectory())
        return trajectory

    def audit(self) -> AuditReport:
        report: AuditReport = self._run(self._env.audit())
        return report

    def close(self) -> None:
        self._run(self._env.close())
