"""Group-relative training (GRPO) on a chatenv task, in plain PyTorch: play, compare within groups, update.

Made to be copied. `train` is the whole loop; it is given a model, the address of a server with a task, and `Options`.
`make train-demo` runs it (train_demo.py).
"""

from __future__ import annotations

import hashlib
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from chatenv_client import Batch, ChatAction, ChatEnv, ResetOptions, Sample, Trajectory, VectorChatEnv, collate

TOLERANCE = 1e-4
"""How far the trainer's logprob of a sampled token may be from the sampler's, in nats."""

RowsOf = Callable[[Sequence[Trajectory]], list[Sample]]
"""The rows to train on, of the episodes of a step."""


@dataclass(frozen=True)
class Options:
    """What a run is made of. The defaults suit the tiny model of the demo."""

    steps: int = 60
    groups: int = 8
    """Games of a step. All episodes of a group play the same one."""
    group_size: int = 8
    task_args: Mapping[str, Any] = field(default_factory=lambda: {"highest": 3})
    max_turns: int = 3
    max_new_tokens: int = 2
    """Of a turn."""
    epochs: int = 4
    """How often the rows of a step are trained on."""
    rows_per_update: int = 32
    learning_rate: float = 2e-3
    decay: float = 0.5
    """Over this part of the steps, the last ones, the learning rate falls to zero. 1: from the first step on."""
    clip: tuple[float, float] = (0.7, 1.5)
    """How far a token's probability moves in a step: the ratios between which it counts."""
    entropy_bonus: float = 0.01
    """Weight of the sampled distributions' entropy, in nats: it keeps the model from settling on the first answer that
    is ever right."""
    seed: int = 0


@dataclass(frozen=True)
class Step:
    """What is reported of a training step."""

    number: int
    reward: float
    """Mean over the episodes."""
    prompts: int
    """Turns that were sampled. The server has checked the fingerprint of each one's prompt."""
    gap: float
    """The most that a logprob of the trainer differed from the sampler's, in nats, before the update."""
    seconds: Mapping[str, float]
    """What the time went to: `chatenv`, `sampling`, `rows`, `learning`."""

    @property
    def chatenv_share(self) -> float:
        """Of the time of the step, where the rows are the exact ones."""
        return (self.seconds["chatenv"] + self.seconds["rows"]) / sum(self.seconds.values())


def exact_rows(trajectories: Sequence[Trajectory]) -> list[Sample]:
    """What was sampled, token by token."""
    return [row for trajectory in trajectories for row in trajectory.samples()]


def train(model: Any, target: str, options: Options, rows_of: RowsOf = exact_rows) -> Iterator[Step]:
    """Train a model on the task of a server, and report each step.

    Args:
        model: a causal language model of transformers.
        target: address of a server that has the model's tokenizer and a task.
        options: of the run. The same seed gives the same run.
        rows_of: what to train on.

    Raises:
        PromptMismatchError: a turn was sampled from another prompt than the server's.
        ValueError: a token has another logprob in the trainer than it had in the sampler.
    """
    torch.manual_seed(options.seed)
    draw = random.Random(options.seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.learning_rate, weight_decay=0.0)
    with ChatEnv(target) as env:
        stop_ids = env.server_info().stop_ids
    with VectorChatEnv(target, options.groups * options.group_size) as env:
        for number in range(options.steps):
            clock = Clock()
            games = [draw.getrandbits(32) for _ in range(options.groups)]
            trajectories = play(env, model, stop_ids, games, options, clock)
            with clock("rows"):
                rows = rows_of(trajectories)
            with clock("chatenv"):
                batch = on_device(collate(rows, unrewarded="drop", framework="torch"), model.device)
            with clock("learning"):
                left = 1 - number / options.steps
                optimizer.param_groups[0]["lr"] = options.learning_rate * min(1.0, left / options.decay)
                gap = update(model, optimizer, batch, options)
            prompts = sum(turn.has_logprobs for trajectory in trajectories for turn in trajectory.turns)
            yield Step(number, float(batch.rewards.mean()), prompts, gap, clock.seconds)


def play(
    env: VectorChatEnv, model: Any, stop_ids: list[int], games: Sequence[int], options: Options, clock: Clock
) -> list[Trajectory]:
    """Play each game by a group of episodes, all side by side, to the end."""
    openings: list[ResetOptions] = [
        {"seed": game, "group": f"game {game}"} for game in games for _ in range(options.group_size)
    ]
    with clock("chatenv"):
        results = env.reset(openings, task_args=dict(options.task_args), max_turns=options.max_turns)
    while live := [index for index, result in enumerate(results) if not result.done]:
        with clock("sampling"):
            prompts = [results[index].observation.token_ids for index in live]
            turns = dict(zip(live, sample(model, prompts, stop_ids, options.max_new_tokens), strict=True))
        with clock("chatenv"):
            results = env.step([turns.get(index) for index in range(len(results))])
    with clock("chatenv"):
        return env.finish()


def sample(model: Any, prompts: Sequence[Any], stop_ids: list[int], max_new_tokens: int) -> list[ChatAction]:
    """Sample a turn for each prompt: its ids, the stop token included, with their logprobs."""
    length = max(map(len, prompts))
    ids = np.full((len(prompts), length), stop_ids[0])
    attended = np.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, length - len(prompt) :] = prompt  # padded on the left
        attended[row, length - len(prompt) :] = 1
    out = model.generate(
        torch.from_numpy(ids).to(model.device), attention_mask=torch.from_numpy(attended).to(model.device),
        eos_token_id=stop_ids, pad_token_id=stop_ids[0], max_new_tokens=max_new_tokens,
        do_sample=True, temperature=1.0, top_k=0, top_p=1.0, repetition_penalty=1.0,
        return_dict_in_generate=True, output_logits=True,
    )  # fmt: skip
    sampled = out.sequences[:, length:]
    logprobs = torch.stack(out.logits, dim=1).log_softmax(-1).gather(-1, sampled[..., None])[..., 0]
    turns = []
    for row, tokens in enumerate(sampled.tolist()):
        count = next((place + 1 for place, token in enumerate(tokens) if token in stop_ids), len(tokens))
        read = fingerprint(ids[row, attended[row] == 1])
        turns.append(ChatAction(tokens=tokens[:count], logprobs=logprobs[row, :count].cpu(), prompt_fingerprint=read))
    return turns


def on_device(batch: Batch, device: Any) -> Batch:
    """The batch with what is computed with on a device."""
    names = ("input_ids", "attention_mask", "loss_mask", "logprobs", "rewards", "group_ids")
    return replace(batch, **{name: getattr(batch, name).to(device) for name in names})


def fingerprint(prompt: Any) -> str:
    """Of the prompt that the model was really given (docs/wire.md). The server refuses a turn from any other."""
    return hashlib.blake2b(prompt.astype("<i4").tobytes(), digest_size=16).hexdigest()


def update(model: Any, optimizer: Any, batch: Batch, options: Options) -> float:
    """Train on a batch; the most that a logprob of the trainer differed from the sampler's before.

    Raises:
        ValueError: one differed by more than the tolerance.
    """
    advantages = advantages_of(batch.rewards, batch.group_ids)
    old, gap = old_logprobs(model, batch, options)
    for _ in range(options.epochs):
        for rows in torch.randperm(len(advantages)).split(options.rows_per_update):
            mask = batch.loss_mask[rows, 1:]
            advantage = advantages[rows, None].expand_as(mask)[mask]
            distributions, logprobs = logprobs_of(model, batch, rows)
            ratio = (logprobs - old[rows][mask]).exp()
            gain = torch.min(ratio * advantage, ratio.clamp(*options.clip) * advantage)
            entropy = -(distributions.exp() * distributions).sum(dim=-1)
            (-gain.mean() - options.entropy_bonus * entropy.mean()).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
    return gap


def old_logprobs(model: Any, batch: Batch, options: Options) -> tuple[Any, float]:
    """(N, L - 1) as the sampler gave them, and the most that the trainer's own differ from them.

    Rows that come without any (NaN) get the trainer's own.
    """
    old = batch.logprobs[:, 1:].clone()
    gaps: list[float] = []
    for rows in torch.arange(len(old)).split(options.rows_per_update):
        mask = batch.loss_mask[rows, 1:]
        with torch.no_grad():
            _, ours = logprobs_of(model, batch, rows)
        theirs = old[rows][mask]
        gaps += (ours - theirs)[~theirs.isnan()].abs().tolist()
        old[rows] = old[rows].masked_scatter(mask, torch.where(theirs.isnan(), ours, theirs))
    gap = max(gaps, default=math.nan)
    if gap > TOLERANCE:
        raise ValueError(f"the trainer's logprob of a token is {gap:.2g} nats off the sampler's, more than {TOLERANCE}")
    return old, gap


def logprobs_of(model: Any, batch: Batch, rows: Any) -> tuple[Any, Any]:
    """Of the tokens to train on in some rows of a batch, in one pass over their streams.

    Returns:
        (n, vocabulary) float32 of every token that could have stood there, and (n,) of those that do.
    """
    ids, attended, mask = batch.input_ids[rows], batch.attention_mask[rows], batch.loss_mask[rows, 1:]
    logits = model(ids, attention_mask=attended).logits[:, :-1]
    distributions = logits[mask].float().log_softmax(-1)
    return distributions, distributions.gather(-1, ids[:, 1:][mask][:, None])[:, 0]


def advantages_of(rewards: Any, group_ids: Any) -> Any:
    """(N,) float32: how far each reward is above the mean of its group, in standard deviations of the group."""
    groups = torch.nn.functional.one_hot(group_ids).to(rewards.dtype)
    sizes = groups.sum(dim=0)
    centred = rewards - (rewards @ groups / sizes)[group_ids]
    deviations = (centred.square() @ groups / sizes).sqrt()[group_ids]
    return (centred / (deviations + 0.1)).float()


class Clock:
    """Adds up what the time of a step goes to."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        """Count what happens meanwhile as this part."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - began
