r"""A model learns to play, on a chatenv server: `make train-demo`.

A tiny language model from scratch plays the guessing game of guessing_game.py, against a server in a process of its
own, and is trained by grpo.py. The trainer has no tokenizer: it never sees a text.

The same with a larger model, on a machine with a GPU, or without:

    python examples/train_demo.py --device cuda --model Qwen/Qwen2.5-0.5B-Instruct --learning-rate 1e-6 \
        --highest 20 --max-turns 6 --max-new-tokens 32 --rows-per-update 16
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from grpo import Options, Step, train
from server_process import server_of
from tiny_model import tiny_model
from train_plots import write_plot

from chatenv_client import ChatEnv

TASK = "guessing_game:Guess"
USUAL = Options(steps=40, epochs=9, learning_rate=8e-4, decay=1.0)
SIZES = {"hidden_size": 192, "layers": 4}
"""Of the tiny model."""
LAST = 5
"""Steps at the end that a run is judged by."""


def main() -> None:
    """Train, print a line for each step, and draw the plot."""
    arguments = parsed()
    options = replace(
        USUAL,
        steps=arguments.steps,
        task_args={"highest": arguments.highest},
        max_turns=arguments.max_turns,
        max_new_tokens=arguments.max_new_tokens,
        epochs=arguments.epochs,
        rows_per_update=arguments.rows_per_update,
        learning_rate=arguments.learning_rate,
        seed=arguments.seed,
    )
    sizes = {"hidden_size": arguments.hidden_size, "layers": arguments.layers}
    began = time.perf_counter()
    with server_of(TASK, arguments.model or "bytes") as target:
        model = large_model(arguments.model) if arguments.model else model_for(target, arguments.seed, **sizes)
        steps = [told(step) for step in train(model.to(arguments.device), target, options)]
    print(summary(steps, time.perf_counter() - began))
    arguments.out.mkdir(parents=True, exist_ok=True)
    arguments.out.joinpath("steps.json").write_text(json.dumps([vars(step) for step in steps]), encoding="utf-8")
    write_plot(
        arguments.out / "reward.svg", {"reward": {"mean of the step's episodes": [[step.reward for step in steps]]}}
    )
    print(f"written to {arguments.out}: reward.svg, steps.json")


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a folder or a Hugging Face name; left out: a tiny model from scratch")
    parser.add_argument("--hidden-size", type=int, default=SIZES["hidden_size"], help="of the tiny model")
    parser.add_argument("--layers", type=int, default=SIZES["layers"], help="of the tiny model")
    parser.add_argument("--device", default="cpu", help="such as `cuda`")
    parser.add_argument("--steps", type=int, default=USUAL.steps)
    parser.add_argument("--highest", type=int, default=USUAL.task_args["highest"], help="the number is from 1 to this")
    parser.add_argument("--max-turns", type=int, default=USUAL.max_turns, help="guesses that an episode has")
    parser.add_argument("--max-new-tokens", type=int, default=USUAL.max_new_tokens, help="tokens of a turn")
    parser.add_argument("--epochs", type=int, default=USUAL.epochs, help="how often the rows of a step are trained on")
    parser.add_argument("--rows-per-update", type=int, default=USUAL.rows_per_update, help="fewer take less memory")
    parser.add_argument("--learning-rate", type=float, default=USUAL.learning_rate)
    parser.add_argument("--seed", type=int, default=USUAL.seed)
    parser.add_argument("--out", type=Path, default=Path("build/train-demo"), help="folder for figures and plot")
    return parser.parse_args()


def model_for(target: str, seed: int, **sizes: int) -> Any:
    """A tiny model for the tokenizer of a server."""
    with ChatEnv(target) as env:
        return tiny_model(env.server_info().token_id_limit, seed=seed, **sizes)


def large_model(name: str) -> Any:
    """A model of transformers, in the precision that lets logprobs be compared."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32)


def told(step: Step) -> Step:
    """Print a step."""
    seconds = sum(step.seconds.values())
    print(
        f"step {step.number:>3}  reward {step.reward:.2f}  prompts checked {step.prompts:>3}  "
        f"logprobs within {step.gap:.0e}  {seconds:.1f} s, of which chatenv {step.chatenv_share:.1%}",
        flush=True,
    )
    return step


def summary(steps: list[Step], seconds: float) -> str:
    """What a run comes to."""
    spent = {part: sum(step.seconds[part] for step in steps) for part in steps[0].seconds}
    return (
        f"reward from {steps[0].reward:.2f} to {mean(step.reward for step in steps[-LAST:]):.2f} "
        f"(mean of the last {LAST} steps) in {seconds:.0f} s; "
        f"the trainer used {time.process_time():.0f} s of processor time\n"
        f"{sum(step.prompts for step in steps):,} prompts, the fingerprint of each one checked\n"
        f"logprobs of sampler and trainer within {max(step.gap for step in steps):.1e} nats of each other\n"
        f"chatenv's share of the training steps' time: {spent['chatenv'] / sum(spent.values()):.1%}"
    )


if __name__ == "__main__":
    main()
