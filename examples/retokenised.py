"""The usual bookkeeping, to compare with: a sampled turn is decoded, kept as a message, and rendered and encoded anew.

What it makes of an episode is set beside what was sampled. chatenv does none of this.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from typing import Any

import numpy as np
import torch
from grpo import logprobs_of, on_device

from chatenv_client import Origin, Sample, Trajectory, collate

Messages = list[dict[str, Any]]


@dataclass(frozen=True)
class Mismatch:
    """How rows that were tokenized anew differ from what was sampled, over the episodes of a step."""

    tokens: float
    """Share of the tokens to train on, of either row, that the other does not have in its place."""
    masks: float
    """Share of the rows that have another number of tokens to train on."""
    logprobs: float
    """What the trainer takes the turns of an episode to be as likely as, against the sampler: nats, in the mean."""


def retokenised_rows(trajectories: Sequence[Trajectory], tokenizer: Any) -> list[Sample]:
    """The rows of episodes as the usual bookkeeping has them. The sampler's logprobs do not fit them any more."""
    return [retokenised(trajectory, tokenizer) for trajectory in trajectories]


def retokenised(trajectory: Trajectory, tokenizer: Any) -> Sample:
    """The row of one episode."""
    (row,) = trajectory.samples()
    messages = decoded_messages(trajectory, tokenizer)
    spans: list[tuple[int, int]] = []
    ids: list[int] = []
    for index, message in enumerate(messages):
        if message["role"] == "assistant":
            start = len(rendered(tokenizer, messages[:index], add_generation_prompt=True))
            ids = rendered(tokenizer, messages[: index + 1])
            # Through the token that ends the turn; what the template writes behind it is not the model's.
            stop = max(place for place, token in enumerate(ids) if token == tokenizer.eos_token_id) + 1
            spans.append((start, stop))
    mask = np.zeros(len(ids), dtype=np.bool_)
    for start, stop in spans:
        mask[start:stop] = True
    end = spans[-1][1]
    return replace(
        row,
        tokens=np.array(ids[:end], dtype=np.int32),
        loss_mask=mask[:end],
        logprobs=np.full(end, np.nan, dtype=np.float32),
        token_rewards=None,
        extras={},
    )


def decoded_messages(trajectory: Trajectory, tokenizer: Any) -> Messages:
    """The conversation, with each sampled turn as the text that its tokens decode to."""
    texts = [
        tokenizer.decode(trajectory.tokens[turn.start : turn.stop].tolist(), skip_special_tokens=True)
        for turn in trajectory.turns
        if turn.origin is Origin.SAMPLED
    ]
    said = iter(texts)
    return [
        {"role": message["role"], "content": next(said) if message["role"] == "assistant" else message.get("content")}
        for message in trajectory.messages
    ]


def rendered(tokenizer: Any, messages: Sequence[Mapping[str, Any]], **options: Any) -> list[int]:
    """The tokens of a conversation, by its chat template."""
    return list(tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False, **options))


def mismatch(rows: Sequence[Sample], anew: Sequence[Sample], model: Any) -> Mismatch:
    """Compare what was sampled with what was tokenized anew. The model is the trainer's, before its update."""
    gaps = np.abs(likelihoods(anew, model) - [row.logprobs[row.loss_mask].sum() for row in rows])
    pairs = list(zip(rows, anew, strict=True))
    return Mismatch(
        tokens=float(np.mean([different(one, other) for one, other in pairs])),
        masks=float(np.mean([one.loss_mask.sum() != other.loss_mask.sum() for one, other in pairs])),
        logprobs=float(gaps.mean()),
    )


def different(row: Sample, anew: Sample) -> float:
    """Share of the tokens to train on that two rows do not have in common, in order."""
    ours, theirs = (one.tokens[one.loss_mask].tolist() for one in (row, anew))
    return 1.0 - SequenceMatcher(None, ours, theirs, autojunk=False).ratio()


def likelihoods(rows: Sequence[Sample], model: Any) -> Any:
    """(N,) float: the model's logprob of all that is trained on in each row."""
    batch = on_device(collate(rows, framework="torch"), model.device)
    counts = batch.loss_mask[:, 1:].sum(dim=1).tolist()
    with torch.no_grad():
        _, logprobs = logprobs_of(model, batch, torch.arange(len(rows)))
    return np.array([float(part.sum()) for part in logprobs.split(counts)])
