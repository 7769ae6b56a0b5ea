"""What exact tokens are worth: `make train-proof` trains with them and with the usual bookkeeping, and draws both.

Three kinds of run, each with several seeds. Each run leaves a file; one whose file is there is not run again.

`demo`: as train_demo.py: the built-in tokenizer, exact rows.
`exact`: a tokenizer with merges and a template that trims; exact rows, which are compared with rows tokenized anew.
`anew`: the same run with the same seed, trained on the rows tokenized anew (retokenised.py).
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

from grpo import Options, exact_rows, train
from retokenised import Mismatch, mismatch, retokenised_rows
from server_process import server_of
from tiny_model import write_merging_tokenizer
from train_demo import LAST, SIZES, TASK, USUAL, model_for, told
from train_plots import Curves, write_plot

from chatenv_client import Origin, Sample, Trajectory

NAMES = {"exact": "trained on what was sampled", "anew": "trained on rows tokenized anew"}
KINDS = ("demo", *NAMES)
SHARES = ("tokens that differ", "rows whose mask differs")
MISMATCHES = dict(zip((*SHARES, "logprobs off, nats an episode"), ("tokens", "masks", "logprobs"), strict=True))
"""By title of the panel."""

Run = list[dict[str, Any]]
"""The figures of each step."""
Said = list[tuple[tuple[str, ...], int]]
"""Turns, as their tokens' names, and how often each was sampled in a step."""


def main() -> None:
    """Run what has not run yet, print what all of it comes to, and draw it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--steps", type=int, help=f"left out: {USUAL.steps} of `demo`, {Options().steps} of the others")
    parser.add_argument("--runs", type=Path, default=Path("build/train-proof"), help="folder of the runs' files")
    parser.add_argument("--plots", type=Path, default=Path("docs"), help="folder of the plots")
    arguments = parser.parse_args()
    arguments.runs.mkdir(parents=True, exist_ok=True)
    runs = {
        kind: [run_of(kind, options_of(kind, arguments.steps, seed), arguments.runs) for seed in arguments.seeds]
        for kind in arguments.kinds
    }
    for kind, seeds in runs.items():
        for seed, run in zip(arguments.seeds, seeds, strict=True):
            print(f"{kind:>5}, seed {seed}: {summary(run)}")
    draw(runs, arguments.plots)


def options_of(kind: str, steps: int | None, seed: int) -> Options:
    """As the demo has them, or as they suit the smaller model that the two kinds of rows are compared with."""
    usual = USUAL if kind == "demo" else Options()
    return replace(usual, steps=steps or usual.steps, seed=seed)


def run_of(kind: str, options: Options, folder: Path) -> Run:
    """The figures of each step of a run."""
    file = folder / f"{kind}-{options.seed}.json"
    if not file.exists():
        file.write_text(json.dumps(trained(kind, options), indent=0), encoding="utf-8")
    steps: Run = json.loads(file.read_text(encoding="utf-8"))
    return steps


def trained(kind: str, options: Options) -> Run:
    """Run it."""
    if kind == "demo":
        with server_of(TASK) as target:
            return [vars(told(step)) for step in train(model_for(target, options.seed, **SIZES), target, options)]
    with tempfile.TemporaryDirectory() as folder:
        write_merging_tokenizer(Path(folder))
        with server_of(TASK, folder) as target:
            model = model_for(target, options.seed)
            compared = Compared(model, folder, train_on_anew=kind == "anew")
            steps = [told(step) for step in train(model, target, options, compared)]
    seen = zip(steps, compared.seen, compared.said, strict=True)
    return [{**vars(step), **vars(off), "said": said} for step, off, said in seen]


class Compared:
    """The rows of each step, compared with the same tokenized anew before the update."""

    def __init__(self, model: Any, tokenizer: str, *, train_on_anew: bool) -> None:
        from transformers import AutoTokenizer

        self.seen: list[Mismatch] = []
        self.said: list[Said] = []
        self._model = model
        self._tokenizer = AutoTokenizer.from_pretrained(tokenizer)
        self._train_on_anew = train_on_anew

    def __call__(self, trajectories: Sequence[Trajectory]) -> list[Sample]:
        """The rows to train on."""
        exact, anew = exact_rows(trajectories), retokenised_rows(trajectories, self._tokenizer)
        self.seen.append(mismatch(exact, anew, self._model))
        self.said.append(most_said(trajectories, self._tokenizer))
        return anew if self._train_on_anew else exact


def most_said(trajectories: Sequence[Trajectory], tokenizer: Any) -> Said:
    """The turns that were sampled most often."""
    turns = Counter(
        tuple(tokenizer.convert_ids_to_tokens(trajectory.tokens[turn.start : turn.stop].tolist()))
        for trajectory in trajectories
        for turn in trajectory.turns
        if turn.origin is Origin.SAMPLED
    )
    return turns.most_common(3)


def summary(run: Run) -> str:
    """What a run comes to: its first step, and the mean of its last ones."""

    def last(figure: str) -> float:
        return mean(float(step[figure]) for step in run[-LAST:])

    text = f"reward from {run[0]['reward']:.2f} to {last('reward'):.2f}"
    if "tokens" in run[0]:
        off = (f"{title} {run[0][figure]:.2g} to {last(figure):.2g}" for title, figure in MISMATCHES.items())
        return "; ".join([text, *off])
    spent = {part: sum(step["seconds"][part] for step in run) for part in run[0]["seconds"]}
    return f"{text} in {sum(spent.values()):.0f} s, of which chatenv {spent['chatenv'] / sum(spent.values()):.1%}"


def draw(runs: Mapping[str, Sequence[Run]], folder: Path) -> None:
    """Draw the demo's rewards, and both kinds of run beside each other with what is off in their rows."""

    def curves(figure: str) -> Curves:
        return {NAMES[kind]: [[step[figure] for step in run] for run in runs[kind]] for kind in NAMES}

    if "demo" in runs:
        rewards = [[step["reward"] for step in run] for run in runs["demo"]]
        write_plot(folder / "train-demo.svg", {"reward": {"a seed each": rewards}})
    if NAMES.keys() <= runs.keys():
        off = {title: curves(figure) for title, figure in MISMATCHES.items()}
        write_plot(folder / "train-proof.svg", {"reward": curves("reward"), **off}, percent=SHARES)


if __name__ == "__main__":
    main()
