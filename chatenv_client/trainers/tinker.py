"""tinker-cookbook: environments, groups and data sets of chatenv's episodes. See docs/trainers/tinker.md."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import chz
import tinker
from tinker_cookbook.rl import types

from chatenv_client.errors import ChatEnvError
from chatenv_client.models import ChatAction, ChatObservation
from chatenv_client.trainers.playing import is_models_turn
from chatenv_client.trainers.rollouts import EpisodeFailedError, Server


class ChatEnvTinkerEnv(types.Env):
    """One episode: token ids in, token ids out.

    Args:
        server: where it is played.
        options: keywords of `reset`.
        is_scored_by_group: whether `compute_group_rewards` rewards it; else an episode without a reward is an error.
    """

    def __init__(self, server: Server, options: Mapping[str, Any], *, is_scored_by_group: bool = False) -> None:
        self._server, self._options, self._is_scored = server, options, is_scored_by_group
        self._stop_ids: list[int] = []

    async def initial_observation(self) -> tuple[tinker.ModelInput, list[int]]:
        """The prompt, and the ids that end a turn."""
        self._stop_ids = await self._server.stop_ids()
        self._client = self._server.client()
        result = await self._client.reset(**self._options)
        return _seen(result.observation), self._stop_ids

    async def step(self, action: list[int], *, extra: types.ActionExtra | None = None) -> types.StepResult:
        """Append a turn. All that breaks is raised: a rollout strategy tries again, or leaves the rollout out."""
        stop_reason = None if extra is None else extra.get("stop_reason")
        result = await self._client.step(ChatAction(tokens=action, stop_reason=stop_reason))
        shown = result.observation
        if shown.failure is not None:
            raise EpisodeFailedError(f"an episode failed ({shown.failure.kind}): {shown.failure.reason}")
        self._is_scored |= shown.reward is not None
        is_over = not is_models_turn(result)
        if is_over and not self._is_scored:
            raise EpisodeFailedError(f"nobody rewarded episode {shown.episode_id!r}")
        return types.StepResult(
            reward=shown.reward or 0.0,
            episode_done=is_over,
            next_observation=_seen(shown),
            next_stop_condition=self._stop_ids,
            metrics={f"reward/{name}": value for name, value in shown.rewards.items()} | _why_over(shown, is_over),
            logs={"chatenv_episode": shown.episode_id, "chatenv_reports": len(shown.fidelity)},
        )

    async def close(self) -> None:
        """End the episode, if there is one."""
        if hasattr(self, "_client"):
            with suppress(ChatEnvError):  # an episode that nobody ends expires
                await self._client.close()


def _seen(shown: ChatObservation) -> tinker.ModelInput:
    return tinker.ModelInput.from_ints(shown.token_ids.tolist())


def _why_over(shown: ChatObservation, is_over: bool) -> dict[str, float]:
    if not is_over:
        return {}
    why = types.StopReason.COMPLETED
    if shown.truncated:
        why = types.StopReason.MAX_TURNS if shown.turns_left == 0 else types.StopReason.MAX_TOKENS
    return {f"stop/{why}": 1.0}


@dataclass(frozen=True)
class ChatEnvGroupBuilder(types.EnvGroupBuilder):
    """A group of episodes with one opening. It holds no connection, so it can be pickled."""

    server: Server
    options: Mapping[str, Any]
    """Keywords of `reset`; a `group` is made up where there is none."""
    size: int
    _made: list[ChatEnvTinkerEnv] = field(default_factory=list, init=False, repr=False, compare=False)

    async def make_envs(self) -> Sequence[ChatEnvTinkerEnv]:
        """New environments, which open their episodes when they are first read."""
        options = {"group": uuid.uuid4().hex, **self.options}
        scores = type(self).compute_group_rewards is not types.EnvGroupBuilder.compute_group_rewards
        made = [ChatEnvTinkerEnv(self.server, options, is_scored_by_group=scores) for _ in range(self.size)]
        self._made.extend(made)
        return made

    async def cleanup(self) -> None:
        """End all episodes."""
        while self._made:
            await self._made.pop().close()


@chz.chz
class ChatEnvDatasetBuilder(types.RLDatasetBuilder):
    """A data set of the rows that the server has for a task, or of seeds where it has none."""

    target: str
    """Address of the chatenv server."""
    batch_size: int
    """Groups in a batch."""
    group_size: int
    """Episodes in a group."""
    seeds: int = 0
    """Groups in all, each with a seed of its own; 0: one for each row of the server."""
    options: Mapping[str, Any] = chz.field(default_factory=dict)
    """Keywords of `reset` for all episodes, such as `task` and `split`."""
    client: Mapping[str, Any] = chz.field(default_factory=dict)
    """More of `Server`, such as `token`."""

    async def __call__(self) -> tuple[types.RLDataset, None]:
        """Read the rows."""
        server = Server(self.target, **self.client)
        rows: list[Mapping[str, Any]] = [{"seed": seed} for seed in range(self.seeds)]
        if not rows:
            async with server.client() as env:
                listed = env.list_rows(self.options.get("task"), self.options.get("split"))
                rows = [{"row": row.index} async for row in listed]
        if len(rows) < self.batch_size:
            raise ValueError(f"{len(rows)} groups are no batch of {self.batch_size}; serve more rows, or give `seeds`")
        return _Dataset(
            [ChatEnvGroupBuilder(server, {**self.options, **row}, self.group_size) for row in rows], self.batch_size
        ), None


@dataclass(frozen=True)
class _Dataset(types.RLDataset):
    builders: Sequence[ChatEnvGroupBuilder]
    batch_size: int

    def get_batch(self, index: int) -> Sequence[ChatEnvGroupBuilder]:
        return self.builders[index * self.batch_size : (index + 1) * self.batch_size]

    def __len__(self) -> int:
        return len(self.builders) // self.batch_size
