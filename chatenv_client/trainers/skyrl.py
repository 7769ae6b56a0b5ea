"""SkyRL's generator: episodes of a chatenv server as the rows that SkyRL trains on, token for token.

    class Exp(BasePPOExp):
        def get_generator(self, cfg, tokenizer, inference_engine_client):
            return ChatGenerator(cfg.generator, inference_engine_client, tokenizer, "localhost:50051")

It has the shape of SkyRL's `GeneratorInterface` and imports nothing of SkyRL, which needs Python 3.12. Its rows are
made in `skyrl_rows.py`. docs/trainers/skyrl.md says what becomes of masks, rewards, groups and failures.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from chatenv_client.aio import AsyncChatEnv
from chatenv_client.channel import open_async_channel
from chatenv_client.models import ChatAction, Trajectory
from chatenv_client.tokens import Int32Array
from chatenv_client.trainers.playing import play_async
from chatenv_client.trainers.rollouts import opening
from chatenv_client.trainers.skyrl_rows import Row, metrics_of, rows_of
from chatenv_client.trainers.tokenizers import compared_with

MOST_OPEN: Final = 512
"""Episodes that are played at once."""


class ChatGenerator:
    """Implements SkyRL's `GeneratorInterface`.

    Args:
        generator_cfg: SkyRL's `cfg.generator`.
        engine: SkyRL's inference engine client.
        tokenizer: SkyRL's, which is compared with the server's before the first episode.
        address: of the chatenv server.
        most_open: episodes that are played at once.
        options: of the reset of every episode, such as `task`; a row may say otherwise.
    """

    def __init__(
        self,
        generator_cfg: Any,
        engine: Any,
        tokenizer: Any,
        address: str,
        *,
        most_open: int = MOST_OPEN,
        **options: Any,
    ) -> None:
        self._cfg = generator_cfg
        self._engine = engine
        self._tokenizer = tokenizer
        self._stop_ids: list[int] | None = None
        self._address = address
        self._options = options
        self._most_open = most_open

    async def generate(self, input_batch: Mapping[str, Any], disable_tqdm: bool = False) -> dict[str, Any]:  # noqa: ARG002
        """Play one episode for each prompt; SkyRL's `GeneratorOutput`, in the order of the prompts.

        Raises:
            RuntimeError: every episode failed; one has no reward, though nothing broke; or one has several rows and
                `generator.step_wise_trajectories` is off.
            ValueError: SkyRL has another tokenizer than the server.
            ChatEnvError: the caller did something wrong.
        """
        prompts = input_batch["prompts"]
        extras = input_batch.get("env_extras") or [{}] * len(prompts)
        ids = input_batch.get("trajectory_ids")
        groups = [str(index) if ids is None else str(ids[index].instance_id) for index in range(len(prompts))]
        resets = [
            {"group": group, **self._limits(), **self._options, **opening(prompt, own.get("chatenv"))}
            for prompt, own, group in zip(prompts, extras, groups, strict=True)
        ]
        params, version = self._sampling(input_batch)
        room = asyncio.Semaphore(self._most_open)
        async with open_async_channel(self._address) as channel:
            params["stop_token_ids"] = sorted({*(params.get("stop_token_ids") or ()), *await self._stops(channel)})
            played = [_Player(self._engine, params, version, channel, room).play(options) for options in resets]
            trajectories = await asyncio.gather(*played)
        return self._output(trajectories, groups, ids)

    async def _stops(self, channel: Any) -> list[int]:
        """Ids that end a turn. The server is asked once, and its tokenizer compared then."""
        if self._stop_ids is None:
            async with AsyncChatEnv(channel) as env:
                self._stop_ids = (await compared_with(env, self._tokenizer)).stop_ids
        return self._stop_ids

    def _limits(self) -> dict[str, int]:
        """What SkyRL's configuration says of the length of an episode."""
        longest, turns = getattr(self._cfg, "max_input_length", None), getattr(self._cfg, "max_turns", None)
        limits = {"max_tokens": longest and longest + 1, "max_turns": turns}
        return {name: limit for name, limit in limits.items() if limit}

    def _sampling(self, input_batch: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
        """How to sample, and with which weights."""
        params, batch = input_batch.get("sampling_params"), input_batch.get("batch_metadata")
        params = asdict(self._cfg.sampling_params) if params is None else dict(params)
        return params, "" if batch is None else str(batch.global_step)

    def _output(self, trajectories: Sequence[Trajectory], groups: Sequence[str], ids: Any) -> dict[str, Any]:
        failed = {group for group, one in zip(groups, trajectories, strict=True) if one.failure is not None}
        if len(failed) == len(set(groups)):
            reason = next(one.failure.reason for one in trajectories if one.failure is not None)
            raise RuntimeError(f"no group of episodes came through whole, so there is nothing to train on: {reason}")
        is_step_wise = bool(getattr(self._cfg, "step_wise_trajectories", False))
        rows: list[Row] = []
        of_episode: list[int] = []
        for number, (trajectory, group) in enumerate(zip(trajectories, groups, strict=True)):
            made = rows_of(trajectory, is_step_wise=is_step_wise)
            if group in failed:
                made = [row._replace(loss_mask=[0] * len(row.loss_mask), stop_reason="error") for row in made]
            rows += map(self._as_configured, made)
            of_episode += [number] * len(made)
        has_logprobs = all(row.logprobs is not None for row in rows)
        return {
            "prompt_token_ids": [row.prompt_ids for row in rows],
            "response_ids": [row.response_ids for row in rows],
            "rewards": [row.rewards for row in rows],
            "loss_masks": [row.loss_mask for row in rows],
            "stop_reasons": [row.stop_reason for row in rows],
            "rollout_metrics": metrics_of(trajectories, rows),
            "rollout_logprobs": [row.logprobs for row in rows] if has_logprobs else None,
            "trajectory_ids": [ids[number] for number in of_episode] if is_step_wise and ids is not None else None,
            "is_last_step": [row.is_last for row in rows] if is_step_wise else None,
        }

    def _as_configured(self, row: Row) -> Row:
        """A row whose model did not end its turn, as SkyRL's configuration wants it."""
        if row.stop_reason == "stop":
            return row
        if getattr(self._cfg, "zero_reward_on_non_stop", False):
            row = row._replace(rewards=[0.0] * len(row.rewards))
        if getattr(self._cfg, "apply_overlong_filtering", False):
            row = row._replace(loss_mask=[0] * len(row.loss_mask))
        return row


class _Player:
    """Plays an episode with SkyRL's engine, which gets its id as the session, so that one server answers all turns."""

    def __init__(
        self, engine: Any, params: Mapping[str, Any], version: str, channel: Any, room: asyncio.Semaphore
    ) -> None:
        self._engine, self._params, self._version = engine, params, version
        self._channel, self._room = channel, room
        self._session = uuid.uuid4().hex

    async def play(self, options: Mapping[str, Any]) -> Trajectory:
        """Play it to its end, and close it."""
        async with self._room, AsyncChatEnv(self._channel) as env:
            try:
                return await play_async(env, self._sample, **{"episode_id": self._session, **options})
            finally:
                if hasattr(self._engine, "finish_session"):
                    await self._engine.finish_session(self._session)

    async def _sample(self, prompt: Int32Array) -> ChatAction:
        asked = {
            "prompts": None,
            "prompt_token_ids": [prompt.tolist()],
            "sampling_params": dict(self._params),
            "session_ids": [self._session],
        }
        answered = await self._engine.generate(asked)
        logprobs = answered.get("response_logprobs")
        return ChatAction(
            tokens=answered["response_ids"][0],
            logprobs=logprobs[0] if logprobs else None,
            stop_reason=answered["stop_reasons"][0],
            model_version=self._version,
        )
