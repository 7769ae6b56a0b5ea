"""TRL's AsyncGRPOTrainer by a rollout worker: a rollout is an episode, and each of its rows a training sequence.

from chatenv_client.trainers.trl_async import rollout_worker

worker = rollout_worker("localhost:50051", model=name, args=args, dataset=dataset, processing_class=tokenizer)
trainer = AsyncGRPOTrainer(model=name, args=args, train_dataset=dataset, rollout_worker=worker)
"""

from __future__ import annotations

import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from accelerate.logging import get_logger
from trl.experimental.async_grpo.async_rollout_worker import AsyncRolloutWorker, TrainingSequence, _AsyncRolloutLoop

from chatenv_client.models import ChatAction, ResetOptions, Sample, Trajectory
from chatenv_client.pool.pool import EpisodePool
from chatenv_client.tokens import Int32Array
from chatenv_client.trainers.checking import check_row
from chatenv_client.trainers.playing import play_in_pool
from chatenv_client.trainers.tokenizers import check_stops, compared_with
from chatenv_client.trainers.trl import options_of

if TYPE_CHECKING:
    from typing_extensions import Unpack

Rollout = tuple[list[Any], list[int], list[TrainingSequence], int, int, float | None]
"""What TRL takes of a rollout: messages, sampled ids, rows, tool calls, those that failed, and the reward."""

_LOG = get_logger(__name__)

_UNSCORABLE: Final[Rollout] = ([], [], [], 0, 0, None)
"""A rollout that is neither trained on nor part of the mean of its group."""

_AS_SAMPLED: Final = defaultdict(float, transitions=0.0)
"""TRL counts here what became of tokens that were rendered again. None are."""


def rollout_worker(
    target: str,
    *,
    model: str,
    args: Any,
    dataset: Any,
    processing_class: Any,
    eos_token_ids: Sequence[int] = (),
    reward_funcs: Sequence[Callable[..., Any]] = (),
    **options: Unpack[ResetOptions],
) -> EpisodeWorker:
    """The `rollout_worker` of an AsyncGRPOTrainer, with the settings that TRL's own would have.

    Args:
        target: address of a chatenv server. The worker's process opens the client.
        model: name of the model on the vLLM server.
        args: the AsyncGRPOConfig of the trainer.
        dataset: rows with a `prompt`, as for `chatenv_client.trainers.trl.rollout_func`.
        processing_class: the tokenizer.
        eos_token_ids: what ends a turn; left out: the tokenizer's.
        reward_funcs: others beside what the episode earns. They have to be picklable.
        **options: of the reset of every episode.
    """
    same = (
        *("num_generations", "max_inflight_tasks", "queue_maxsize", "temperature", "top_p", "top_k", "min_p"),
        *("repetition_penalty", "request_timeout", "log_completions", "num_completions_to_print"),
    )
    settings = {name: getattr(args, name) for name in same}
    if settings["max_inflight_tasks"] < 0:  # the trainer works it out only when it is made
        per_step = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
        settings["max_inflight_tasks"] = max(args.max_staleness, 1) * per_step
    return EpisodeWorker(
        target=target,
        options=options,
        model_name=model,
        dataset=dataset,
        reward_funcs=list(reward_funcs),
        processing_class=processing_class,
        eos_token_ids=list(eos_token_ids) or [processing_class.eos_token_id],
        vllm_server_url=args.vllm_server_base_url,
        max_tokens=args.max_completion_length,
        **settings,
    )


class EpisodeLoop(_AsyncRolloutLoop):
    """TRL's loop, in the process that TRL spawns for it: its own sampling and scoring, chatenv's episodes."""

    _provides_rollout_reward = True

    def __init__(self, *, target: str, options: ResetOptions, processing_class: Any, **settings: Any) -> None:
        # TRL refuses chat templates that it cannot read turns of. chatenv reads them.
        processing_class.response_template = getattr(processing_class, "response_template", None) or ""
        super().__init__(processing_class=processing_class, **settings)
        self._target, self._options, self._tokenizer = target, options, processing_class
        self._ends = settings["eos_token_ids"]
        self._run = uuid.uuid4().hex[:8]
        self.reward_func_names.append("episode_reward")

    async def _run_loops(self, stop_event: Any) -> None:
        async with EpisodePool(self._target) as self._pool:
            async with self._pool.client() as env:
                check_stops(await compared_with(env, self._tokenizer), self._ends)
            await super()._run_loops(stop_event)

    async def _generate_one(self, prompt: Any, tool_dict: Any, tools: Any, group_id: int = 0) -> Rollout:  # noqa: ARG002
        """Play an episode. Members of a group share a seed, so that they have the same problem to solve."""
        began = time.monotonic()
        options = options_of(prompt, self._options, group_id, f"trl-{self._run}-{group_id}")
        trajectory = await play_in_pool(self._pool, self._sample, **options)
        samples = trajectory.samples()
        if trajectory.failure is not None or not samples:
            _LOG.warning(f"an episode is left out: {trajectory.failure or 'nothing was sampled'}")
            return _UNSCORABLE
        sequences = [_sequence_of(sample) for sample in samples]
        sampled = [token for sample in samples for token in sample.tokens[sample.loss_mask].tolist()]
        self._push_rollout_metrics(
            turns=_turns_of(trajectory),
            sequences=len(sequences),
            completion_ids=sampled,
            tally=_AS_SAMPLED,
            loop_exhausted=trajectory.truncated,
            duration_s=time.monotonic() - began,
        )
        return list(trajectory.messages), sampled, sequences, 0, 0, trajectory.reward

    async def _sample(self, prompt_ids: Int32Array) -> ChatAction:
        version = self.model_version
        ids, logprobs = await self._generate_one_turn(prompt_ids.tolist())
        return ChatAction(ids, logprobs, model_version=version)


def _turns_of(trajectory: Trajectory) -> int:
    return len({turn.step for segment in trajectory.segments for turn in segment.turns if turn.stop_reason is not None})


def _sequence_of(sample: Sample) -> TrainingSequence:
    row = TrainingSequence(
        sample.tokens.tolist(),
        sample.loss_mask.astype(int).tolist(),
        np.where(sample.loss_mask, sample.logprobs, np.float32(0)).tolist(),
        sample.episode_id,
    )
    check_row(
        sample,
        response_ids=row.input_ids,
        response_mask=row.completion_mask,
        response_logprobs=row.old_log_probs,
    )
    return row


class EpisodeWorker(AsyncRolloutWorker):
    """The trainer's side of `EpisodeLoop`. Give it what `rollout_worker` gives it."""

    _loop_cls = EpisodeLoop
