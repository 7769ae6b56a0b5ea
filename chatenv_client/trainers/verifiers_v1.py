"""verifiers 0.4, and so prime-rl: episodes of a chatenv server as a taskset, an environment and a harness.

A module of yours names the three in its `__all__`; its own name is the id of the taskset. The environment plays the
user; the harness asks the model in this process, with the tools that the episode has. The trace has the tokens.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from typing import Any

import grpc.aio
import verifiers.v1 as vf
from pydantic import Field

from chatenv_client.aio import AsyncChatEnv
from chatenv_client.channel import open_async_channel
from chatenv_client.models import Failure, Trajectory
from chatenv_client.trainers.examples import examples_of
from chatenv_client.trainers.speaking import Speaker, tools_of
from chatenv_client.trainers.verifiers_v1_model import ChatEnvHarness, turn_of

__all__ = ["ChatEnvEnv", "ChatEnvHarness", "ChatEnvTaskset"]


class ChatEnvTasksetConfig(vf.TasksetConfig):
    """Where the episodes are, and how many tasks there are."""

    address: str = "localhost:50051"
    token_variable: str = "CHATENV_TOKEN"
    """Environment variable with the server's token, where it asks for one."""
    reset: dict[str, Any] = Field(default_factory=dict)
    """Options of every reset, such as `task`, `split` and `max_turns`."""
    seeds: int | None = None
    """A task for each seed from 0 on. None: a task for each row of the server's data."""


class ChatEnvData(vf.TaskData):
    """An episode that is to be played."""

    reset: dict[str, Any]
    tools: list[dict[str, Any]] = Field(default_factory=list)
    """Of the episode, once it is open."""


class ChatEnvTask(vf.Task[ChatEnvData]):
    """The task of an episode; its rewards are the server's."""

    @property
    def key(self) -> str:
        """Its seed or row, whatever tools the episode turns out to have."""
        return str(self.data.name)


class ChatEnvTaskset(vf.Taskset[ChatEnvTask, ChatEnvTasksetConfig]):
    """A task for each seed, or for each row of the server's data."""

    def load(self) -> Iterator[ChatEnvTask]:
        """Ask the server for its rows, where no seeds are given."""
        config = self.config
        token = os.environ.get(config.token_variable)
        for each in examples_of(config.address, token, config.seeds, config.reset):
            (name,) = (f"{key} {value}" for key, value in each.items())
            yield ChatEnvTask(ChatEnvData(name=name, prompt=None, reset={**config.reset, **each}), config.task)


class ChatEnvEnvConfig(vf.EnvConfig):
    """One seat: whoever is trained or evaluated. It needs no box: what runs, runs in the server."""

    player: vf.AgentConfig = vf.AgentConfig(runtime={"type": "subprocess"})


class ChatEnvEnv(vf.Env[ChatEnvEnvConfig]):
    """The server plays the user, the tools and the judge."""

    _channel: grpc.aio.Channel

    async def start(self) -> None:
        """Open the channel that all episodes share."""
        self._channel = open_async_channel(self.config.taskset.address)

    async def stop(self) -> None:
        """Close it."""
        await self._channel.close()

    async def run(self, task: ChatEnvTask, agents: vf.Agents) -> None:
        """Play one episode. What breaks is raised: then the episode has errors, no reward, and may be tried again."""
        token = os.environ.get(self.config.taskset.token_variable)
        async with AsyncChatEnv(self._channel, token=token) as env:
            result = await env.reset(**{"group": task.key, **task.data.reset})
            speaker = Speaker(env)
            async with agents.player.interaction(task.with_data(tools=tools_of(await env.export()))) as interaction:
                trace, news = interaction.trace, result.observation.messages
                while not result.done:
                    known = len(trace.nodes)
                    if (await interaction.turn(news)).terminated:
                        break
                    result, news = await speaker.say(*turn_of(trace, known))
                    _check(result.observation.failure)
                if result.done:
                    trace.stop("truncated" if result.observation.truncated else "terminated")
            if not trace.has_error:
                _record(trace, await env.trajectory(), speaker)


def _record(trace: vf.Trace, trajectory: Trajectory, speaker: Speaker) -> None:
    """Record the rewards: by component, or as one where components have weights, and are metrics then."""
    trace.info["chatenv_episode"] = trajectory.episode_id
    trace.record_metric("chatenv_exact", speaker.exact_turns / max(1, speaker.turns))
    adds_up = math.isclose(sum(trajectory.rewards.values()), trajectory.reward or 0.0, abs_tol=1e-9)
    for name, value in trajectory.rewards.items():
        trace.record_reward(name, value) if adds_up else trace.record_metric(name, value)
    if trajectory.reward is not None and not (adds_up and trajectory.rewards):
        trace.record_reward("reward", trajectory.reward)


def _check(failure: Failure | None) -> None:
    """Raise what broke, so that no reward comes of it."""
    if failure is not None:
        raise vf.TaskError(failure.reason)
