"""OpenRLHF: an agent executor that plays chatenv's episodes. See docs/trainers/openrlhf.md."""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from functools import partial
from typing import Any, ClassVar

import numpy as np
from openrlhf.utils.agent import AgentExecutorBase

from chatenv_client.aio import AsyncChatEnv
from chatenv_client.models import ChatAction, Origin, Sample, StopReason, Trajectory
from chatenv_client.tokens import Int32Array
from chatenv_client.trainers.checking import check_row
from chatenv_client.trainers.playing import play_async
from chatenv_client.trainers.rollouts import EpisodeFailedError, Room, Server, opening, sound


class ChatEnvExecutor(AgentExecutorBase):
    """The base of the `AgentExecutor` in the file that `--train.agent_func_path` names."""

    target: ClassVar[str]
    """Address of the chatenv server."""
    client: ClassVar[Mapping[str, Any]] = {}
    """More of `Server`, such as `token`."""
    options: ClassVar[Mapping[str, Any]] = {}
    """Keywords of `reset` for all episodes, such as `task`."""
    attempts: ClassVar[int] = 3
    """Episodes that are played in the place of one that broke, the first included."""

    def __init__(self) -> None:
        self.server = Server(self.target, **self.client)

    async def execute(
        self,
        prompt: str,
        label: Any,
        sampling_params: Any,
        max_length: int,
        hf_tokenizer: Any,
        llm_engine: Any,
        images: Any = None,
    ) -> dict[str, Any]:
        """Play an episode, and say of it what OpenRLHF trains on.

        Args:
            prompt: what the user says, not yet templated.
            label: keywords of `reset`, as JSON text; any other is shown to the task as `metadata["label"]`.
            sampling_params: vLLM's. `max_tokens` is the most that a turn may have.
            max_length: of the row.
            hf_tokenizer: OpenRLHF's. It is compared with the server's, which renders and encodes.
            llm_engine: OpenRLHF's.
            images: none.

        Raises:
            EpisodeFailedError: all attempts broke, or brought no reward.
            ValueError: the episode has several rows, of which OpenRLHF takes one; there are images; or the tokenizer
                is another one than the server's.
        """
        if images:
            raise ValueError("chatenv's conversations are text; leave out the images")
        stop_ids = await self.server.stop_ids(hf_tokenizer, getattr(sampling_params, "stop_token_ids", None))
        options = opening(prompt, **{"max_tokens": max_length, **self.options, **_options_of(label)})

        async def play() -> Trajectory:
            async with self.server.client() as env:
                sample = partial(self._sample, env, llm_engine, sampling_params, stop_ids)
                return await play_async(env, sample, **options)

        trajectory = await sound(play, self.attempts)
        if trajectory.reward is None:
            what = f"nobody rewarded episode {trajectory.episode_id!r}"
            raise EpisodeFailedError(f"{what}; let the task give each of its episodes a reward")
        rows = trajectory.samples()
        if len(rows) > 1:
            raise ValueError(f"an episode has {len(rows)} rows, and OpenRLHF takes one; use history_policy='append'")
        made = _made(rows[0], trajectory, with_logprobs=sampling_params.logprobs is not None)
        return {"prompt": prompt, "label": label, "images": images, "mm_train_inputs": None, **made}

    async def _sample(
        self, env: AsyncChatEnv, engine: Any, params: Any, stop_ids: list[int], prompt: Int32Array
    ) -> ChatAction | None:
        left = Room(None, params.max_tokens).left(env.observation)
        if left == 0:
            return None
        asked = deepcopy(params)
        asked.max_tokens, asked.stop_token_ids = left, stop_ids
        said = (await engine.generate(prompt.tolist(), asked)).outputs[0]
        if said.finish_reason == "abort":
            raise EpisodeFailedError("the engine gave the turn up")
        tokens = list(said.token_ids)
        logprobs = None
        if said.logprobs is not None:
            logprobs = [one[token].logprob for one, token in zip(said.logprobs, tokens, strict=True)]
        return ChatAction(tokens=tokens, logprobs=logprobs, stop_reason=said.finish_reason)


def _options_of(label: Any) -> dict[str, Any]:
    """What a label says of an episode."""
    try:
        options = json.loads(label) if isinstance(label, str) else None
    except ValueError:  # such as {1, 2}, an answer
        options = None
    if isinstance(options, dict):
        return {"given": options}
    return {"metadata": {"label": label}} if label else {}


def _made(row: Sample, trajectory: Trajectory, *, with_logprobs: bool) -> dict[str, Any]:
    tokens = row.tokens.tolist()
    logprobs = np.where(row.loss_mask, row.logprobs, 0.0).tolist() if with_logprobs else None
    if logprobs is not None and np.isnan(logprobs).any():
        raise ValueError("OpenRLHF asked for logprobs, and the engine gave none")
    edges = np.flatnonzero(np.diff(row.loss_mask, prepend=False, append=False))
    ranges = [(int(start), int(end)) for start, end in edges.reshape(-1, 2)]
    is_trained = np.zeros(len(tokens), dtype=bool)
    for start, end in ranges:
        is_trained[start:end] = True
    check_row(row, response_ids=tokens, response_mask=is_trained, response_logprobs=logprobs)
    last = [turn for turn in trajectory.turns if turn.origin is Origin.SAMPLED][-1]
    return {
        "reward": row.reward,
        "scores": row.reward,
        "observation_tokens": tokens,
        "action_ranges": ranges,
        "rollout_log_probs": logprobs,
        "truncated": trajectory.truncated or last.stop_reason is StopReason.LENGTH,
        "extra_logs": {"chatenv_turns": len(ranges), "chatenv_reports": len(trajectory.fidelity)},
    }
