"""Turns sampled by the model that a GRPOTrainer trains: through its vLLM where it has one, else by `generate`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import LogitsProcessor
from trl.models import unwrap_model_for_generation
from trl.trainer.utils import pad

from chatenv_client.models import ChatAction
from chatenv_client.tokens import Int32Array

Ids = list[int]


class Turns:
    """Samples turns. All processes of a run sample in step, since some generators wait until all of them call."""

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer

    def sample(self, prompts: Sequence[Int32Array]) -> list[ChatAction]:
        """A turn for each prompt."""
        ids: list[Ids] = [prompt.tolist() for prompt in prompts]
        fillers = [[self._trainer.eos_token_ids[0]]] * (self._most_prompts(len(ids)) - len(ids))
        sampled, logprobs = self._generate(ids + fillers)
        version = str(self._trainer.state.global_step)
        return [
            ChatAction(turn, None if logprobs is None else _as_given(logprobs[index]), model_version=version)
            for index, turn in enumerate(sampled[: len(ids)])
        ]

    def finish(self) -> None:
        """Sample for nobody for as long as other processes have prompts."""
        if self._trainer.accelerator.num_processes > 1:
            while most := self._most_prompts(0):
                self._generate([[self._trainer.eos_token_ids[0]]] * most)

    def _most_prompts(self, count: int) -> int:
        """How many prompts the process has that has most of them."""
        accelerator = self._trainer.accelerator
        if accelerator.num_processes == 1:
            return count
        return int(accelerator.gather(torch.tensor([count], device=accelerator.device)).max())

    def _generate(self, prompts: list[Ids]) -> tuple[list[Ids], list[list[float | None]] | None]:
        trainer = self._trainer
        if trainer.use_vllm or trainer.use_transformers_continuous_batching:
            sampled: tuple[list[Ids], Any] = trainer._generate_single_turn(prompts, None, {}, 1)
            return sampled
        return generate(trainer, prompts)


def _as_given(logprobs: Sequence[float | None]) -> list[float]:
    """VLLM says None where it could not tell."""
    return [float("nan") if value is None else value for value in logprobs]


def generate(trainer: Any, prompts: list[Ids]) -> tuple[list[Ids], list[list[float | None]]]:
    """Sample a turn for each prompt with the trainer's settings: ids up to the first that ends it, and logprobs.

    A logprob is that of the distribution at the trainer's temperature, before top-k, top-p and min-p: what its loss
    computes.
    """
    rows = [torch.tensor(ids) for ids in prompts]
    padding = {"padding_side": "left", "pad_to_multiple_of": trainer.pad_to_multiple_of}
    device = trainer.accelerator.device
    prompt_ids = pad(rows, padding_value=trainer._tokenizer.pad_token_id, **padding).to(device)
    attention_mask = pad([torch.ones_like(row) for row in rows], padding_value=0, **padding).to(device)
    kept = _Logprobs(trainer.temperature)
    with (
        unwrap_model_for_generation(
            trainer.model_wrapped,
            trainer.accelerator,
            gather_deepspeed3_params=trainer.args.ds3_gather_for_generation,
            generation_kwargs=trainer.generation_kwargs,
            gradient_checkpointing_kwargs=trainer.args.gradient_checkpointing_kwargs,
        ) as model,
        torch.no_grad(),
        trainer._dist.summon_full_params(trainer.model_wrapped, recurse=False),
    ):
        sequences = model.generate(
            input_ids=prompt_ids,
            attention_mask=attention_mask,
            generation_config=trainer.generation_config,
            logits_processor=[kept],
        )
    sampled = sequences[:, prompt_ids.shape[1] :].tolist()
    logprobs = kept.of(sequences).tolist()
    lengths = [_length(ids, trainer.eos_token_ids) for ids in sampled]
    return (
        [ids[:length] for ids, length in zip(sampled, lengths, strict=True)],
        [values[:length] for values, length in zip(logprobs, lengths, strict=True)],
    )


def _length(ids: Ids, ends: list[int]) -> int:
    """Tokens through the first that ends the turn; all, where none does."""
    return next((index + 1 for index, token in enumerate(ids) if token in ends), len(ids))


class _Logprobs(LogitsProcessor):
    """Keeps the logprob of each sampled token without keeping the logits of more than one."""

    def __init__(self, temperature: float) -> None:
        self._temperature = temperature
        self._kept: list[torch.Tensor] = []
        self._next: torch.Tensor | None = None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self._take(input_ids)
        self._next = (scores.float() / self._temperature).log_softmax(-1)
        return scores

    def of(self, sequences: torch.Tensor) -> torch.Tensor:
        """(N, n) float32, the logprobs of the last n tokens of each sequence: those that were sampled."""
        self._take(sequences)
        return torch.stack(self._kept, dim=1)

    def _take(self, input_ids: torch.Tensor) -> None:
        if self._next is not None:
            self._kept.append(self._next.gather(-1, input_ids[:, -1:])[:, 0])
        self._next = None
