"""What is compared at the start of a run of GRPOTrainer: trainer and server, and then what reached the trainer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import TrainerCallback

from chatenv_client.client import ChatEnv
from chatenv_client.trainers.tokenizers import check_stops, check_tokenizer, probes


def check_trainer(trainer: Any, env: ChatEnv) -> None:
    """Compare a trainer with the server of a client, before the first episode.

    Raises:
        ValueError: the trainer has tools, its tokenizer is another one, or what ends its turns ends none on the server.
    """
    if trainer.tools:
        raise ValueError("with tools of its own TRL ignores env_mask; let the task have them, and pass no tools")
    server = env.server_info()
    check_tokenizer(trainer._tokenizer, server, env.describe_tokens(probes(server)))
    check_stops(server, trainer.eos_token_ids)


class FirstUpdate(TrainerCallback):
    """Compares, before the first update of the model, what is to be trained on with what was handed over."""

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self._given: set[tuple[int, ...]] = set()
        self.is_over = False
        """Whether the model was updated, or is about to be."""

    def expect(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Take note of rows that are handed over."""
        self._given |= {(*row["completion_ids"], *row["env_mask"]) for row in rows}

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        """Raises RuntimeError: the trainer lost the mask, as patched ones have."""
        batches = () if self.is_over else self._trainer._buffered_inputs
        self.is_over = True
        for batch in batches:
            trained = batch["completion_mask"] * batch.get("tool_mask", 1)
            for ids, held, mask in zip(batch["completion_ids"], batch["completion_mask"], trained, strict=True):
                length = int(held.sum())  # 0 where TRL masks what was cut off
                if length and (*ids[:length].tolist(), *mask[:length].tolist()) not in self._given:
                    raise RuntimeError(
                        "the trainer would train on other tokens than those that were sampled; it is "
                        "patched, or of a version that ignores env_mask"
                    )
