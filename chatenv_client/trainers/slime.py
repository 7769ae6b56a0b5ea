"""slime: a custom generate function that plays chatenv's episodes. See docs/trainers/slime.md."""

from __future__ import annotations

import copy
import math
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from slime.rollout.filter_hub.base_types import DynamicFilterOutput
from slime.utils.http_utils import post
from slime.utils.types import Sample

from chatenv_client.aio import AsyncChatEnv
from chatenv_client.models import ChatAction, StopReason, Trajectory
from chatenv_client.tokens import Int32Array
from chatenv_client.trainers.checking import check_row
from chatenv_client.trainers.playing import BROKEN, play_async, play_on_async
from chatenv_client.trainers.rollouts import Server, opening, why_unsound

_FILTER = "--dynamic-sampling-filter-path chatenv_client.trainers.slime.without_failures"


def generate_with(
    target: str, *, attempts: int = 3, client: Mapping[str, Any] | None = None, **options: Any
) -> Callable[..., Awaitable[Any]]:
    """The function for `--custom-generate-function-path`.

    Args:
        target: address of the chatenv server.
        attempts: episodes that are played in the place of one that broke, the first included.
        client: more of `Server`, such as `token`.
        **options: keywords of `reset` for all episodes; `sample.metadata["chatenv"]` has those of one.
    """
    server = Server(target, **client or {})

    async def generate(
        args: Any, sample: Sample, sampling_params: dict[str, Any], evaluation: bool = False
    ) -> Sample | list[Sample]:
        if not evaluation and not getattr(args, "dynamic_sampling_filter_path", None):
            raise ValueError(f"the group of an episode that broke is to be left out; give slime {_FILTER}")
        facts = {"metadata": {"label": sample.label}, "group": str(sample.group_index), **options}
        opens = opening(sample.prompt, sample.metadata.get("chatenv"), **facts)
        stop_ids = await server.stop_ids(more=sampling_params.get("stop_token_ids"))
        for _ in range(attempts):
            rollout = _Rollout(args, sample, {**sampling_params, "stop_token_ids": stop_ids})
            async with server.client() as env:
                if rows := await rollout.play(env, opens):
                    return rows if len(rows) > 1 else rows[0]
            sample = rollout.blank
        # The reward is no number: whoever lets it through finds out, where a 0 would be taken for a bad answer.
        sample.status, sample.remove_sample, sample.reward = Sample.Status.FAILED, True, _reward_of(args, math.nan, {})
        return sample

    return generate


def without_failures(_args: Any, samples: list[Any], **_: Any) -> DynamicFilterOutput:
    """A filter for `--dynamic-sampling-filter-path`: a group in which an episode broke is left out."""
    rows = [row for one in samples for row in (one if isinstance(one, list) else [one])]
    broke = any(row.status is Sample.Status.FAILED for row in rows)
    return DynamicFilterOutput(keep=not broke, reason="chatenv_failure" if broke else None)


def _reward_of(args: Any, reward: float, named: Mapping[str, float]) -> float | dict[str, float]:
    return {**named, args.reward_key: reward} if args.reward_key else reward


class _Rollout:
    """One episode, and slime's samples of it: one for each segment in which something was sampled."""

    def __init__(self, args: Any, sample: Sample, params: dict[str, Any]) -> None:
        self._args, self._params = args, params
        self._paused = sample.metadata.get("chatenv_episode") if sample.tokens else None
        self._rows, self._segment, self._aborted = [sample], 0, False
        self.blank: Sample = copy.deepcopy(sample)  # to begin anew with
        for name in ("tokens", "response", "response_length", "loss_mask", "rollout_log_probs", "weight_versions"):
            setattr(self.blank, name, getattr(Sample(), name))

    async def play(self, env: AsyncChatEnv, opens: Any) -> list[Sample]:
        """Play it, or on from where it was aborted; empty: it broke."""
        self._env = env
        if self._paused:
            try:
                trajectory = await play_on_async(env, await env.resume(self._paused), self._sample)
            except BROKEN:
                return []
        else:
            trajectory = await play_async(env, self._sample, **opens)
        if self._aborted and trajectory.failure is None:
            return [self._pause()]
        if self._paused and env.episode_id:
            await env.finish()
        return [] if why_unsound(trajectory) else self._finished(trajectory)

    async def _sample(self, prompt: Int32Array) -> ChatAction | None:
        shown, ids, row = self._env.observation, prompt.tolist(), self._rows[-1]
        if shown.segment != self._segment and row.tokens:
            row = copy.deepcopy(self.blank)
            self._rows.append(row)
        self._segment = shown.segment
        between = ids[len(row.tokens) :] if row.tokens else []
        left = self._params["max_new_tokens"] - row.response_length - len(between)
        left = left if shown.tokens_left is None else min(left, shown.tokens_left)
        if self._aborted or left < 1:
            row.status = row.status if self._aborted else Sample.Status.TRUNCATED
            return None
        if row.tokens:
            row.append_response_tokens(self._args, tokens=between, trainable=False)
        else:
            row.tokens = ids
        said = await self._asked(ids, left)
        meta = said["meta_info"]
        pairs = meta.get("output_token_logprobs") or []
        tokens, logprobs = [pair[1] for pair in pairs], [pair[0] for pair in pairs]
        row.append_response_tokens(self._args, tokens=tokens, log_probs=logprobs, meta_info=meta, text=said["text"])
        action = ChatAction(tokens, logprobs, meta["finish_reason"]["type"], str(meta.get("weight_version") or ""))
        self._aborted = action.stop_reason is StopReason.ABORT
        return action if tokens else None

    async def _asked(self, ids: list[int], left: int) -> Any:
        args, params = self._args, {**self._params, "max_new_tokens": left}
        asked = {"input_ids": ids, "sampling_params": params, "return_logprob": True}
        asked |= {"return_routed_experts": True} if getattr(args, "use_rollout_routing_replay", False) else {}
        key = {"X-SMG-Routing-Key": self._rows[0].session_id or self._env.episode_id}
        return await post(f"http://{args.sglang_router_ip}:{args.sglang_router_port}/generate", asked, headers=key)

    def _pause(self) -> Sample:
        sample = self._rows[0] if len(self._rows) == 1 else self.blank  # slime takes one back: several begin anew
        sample.status = Sample.Status.ABORTED
        if sample.tokens:
            sample.metadata["chatenv_episode"] = self._env.detach()
        return sample

    def _finished(self, trajectory: Trajectory) -> list[Sample]:
        first = self._rows[0]
        for row, own in zip(self._rows, trajectory.samples(), strict=True):
            start = len(row.tokens) - row.response_length
            ids = {"prompt_ids": row.tokens[:start], "response_ids": row.tokens[start:]}
            is_masked = self._paused and getattr(self._args, "mask_offpolicy_in_partial_rollout", False)
            mask = own.loss_mask[start:] if is_masked else row.loss_mask
            check_row(own, **ids, response_mask=mask, response_logprobs=row.rollout_log_probs)
            row.status = Sample.Status.TRUNCATED if trajectory.truncated else row.status
            row.rollout_id = first.index if first.rollout_id is None else first.rollout_id
            row.metadata["chatenv_episode"] = trajectory.episode_id
            if own.reward is not None:  # else slime's own reward model is asked
                row.reward = _reward_of(self._args, own.reward / len(self._rows), own.rewards)
        return self._rows
