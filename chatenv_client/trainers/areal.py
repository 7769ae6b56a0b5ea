"""AReaL: a rollout workflow that plays chatenv's episodes. See docs/trainers/areal.md."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from areal import workflow_context
from areal.api import ModelRequest, RolloutWorkflow
from areal.utils import stats_tracker
from areal.utils.data import concat_padded_tensors

from chatenv_client.aio import AsyncChatEnv
from chatenv_client.models import ChatAction, FailureKind, Origin, Sample, StopReason, Trajectory
from chatenv_client.tokens import Int32Array
from chatenv_client.trainers.checking import check_row
from chatenv_client.trainers.playing import play_async
from chatenv_client.trainers.rollouts import Room, Server, opening, why_unsound


class ChatEnvWorkflow(RolloutWorkflow):
    """The `workflow` of `PPOTrainer.train`; its arguments are the `workflow_kwargs`.

    Args:
        target: address of the chatenv server.
        gconfig: AReaL's generation parameters: `max_new_tokens` of a turn, `max_tokens` of an episode.
        tokenizer: AReaL's, where its engine asks for one. Where it is given, it is compared with the server's.
        client: more of `Server`, such as `token`.
        options: keywords of `reset` for all episodes, such as `task`.
    """

    def __init__(
        self,
        target: str,
        gconfig: Any,
        tokenizer: Any = None,
        client: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.server = Server(target, **client or {})
        self.gconfig, self.tokenizer = gconfig, tokenizer
        self.options = {"max_tokens": gconfig.max_tokens, **(options or {})}

    async def arun_episode(self, engine: Any, data: dict[str, Any]) -> dict[str, Any] | None:
        """Play an episode for a row of AReaL's data: tensors of (rows, T), one row for each to train on.

        Args:
            engine: AReaL's.
            data: `messages` opens the episode, `chatenv` has more keywords of `reset`.

        Returns:
            None where the episode broke, or nobody rewarded it: AReaL trains on nothing of it.
        """
        stop_ids = await self.server.stop_ids(self.tokenizer, self.gconfig.stop_token_ids)
        options = opening(data.get("messages", ()), data.get("chatenv"), **self.options)
        async with self.server.client() as env:
            trajectory = await play_async(env, partial(self._sample, env, engine, stop_ids), **options)
        if why_unsound(trajectory) or trajectory.reward is None:
            return None
        turns = sum(turn.origin is Origin.SAMPLED for segment in trajectory.segments for turn in segment.turns)
        stats_tracker.get(workflow_context.stat_scope()).scalar(reward=trajectory.reward, num_turns=turns)
        made: dict[str, Any] = concat_padded_tensors([_tensors(row, trajectory) for row in trajectory.samples()])
        return made

    async def _sample(
        self, env: AsyncChatEnv, engine: Any, stop_ids: list[int], prompt: Int32Array
    ) -> ChatAction | None:
        left = Room(None, self.gconfig.max_new_tokens).left(env.observation)
        if left == 0:
            return None
        asked = self.gconfig.new(n_samples=1, max_new_tokens=left, stop_token_ids=stop_ids)
        said = await engine.agenerate(
            ModelRequest(rid=env.episode_id, input_ids=prompt.tolist(), gconfig=asked, tokenizer=self.tokenizer)
        )
        action = ChatAction(
            tokens=said.output_tokens,
            logprobs=said.output_logprobs,
            stop_reason=said.stop_reason,
            model_version_runs=tuple((str(v), len(list(run))) for v, run in itertools.groupby(said.output_versions)),
        )
        if action.stop_reason is StopReason.ABORT:  # AReaL's engine goes on by itself where it can
            await env.fail("the engine gave the turn up", FailureKind.SAMPLER)
            return None
        return action


def _tensors(row: Sample, trajectory: Trajectory) -> dict[str, Any]:
    """What AReaL wants of a row: (1, T), and (1,) of its reward."""
    logprobs = np.where(row.loss_mask, row.logprobs, np.float32(0))
    check_row(row, response_ids=row.tokens, response_mask=row.loss_mask, response_logprobs=logprobs)
    tensors = {
        "input_ids": torch.tensor(row.tokens, dtype=torch.int32),
        "attention_mask": torch.ones(len(row.tokens), dtype=torch.bool),
        "loss_mask": torch.tensor(row.loss_mask, dtype=torch.int32),
        "logprobs": torch.tensor(logprobs, dtype=torch.float32),
        "versions": torch.tensor(_versions(row, trajectory), dtype=torch.int32),
        "rewards": torch.tensor(row.reward, dtype=torch.float32),
    }
    return {name: tensor[None] for name, tensor in tensors.items()}


def _versions(row: Sample, trajectory: Trajectory) -> Int32Array:
    """(T,) of the weights that sampled each token; -1 where none did."""
    versions = np.full(len(row.tokens), -1, dtype=np.int32)
    for turn in trajectory.segments[row.segment].turns:
        place = turn.start
        for version, count in turn.model_version_runs or ((turn.model_version, turn.length),):
            if version:
                versions[place : place + count] = int(version)
            place += count
    versions[~row.loss_mask] = -1
    return versions
