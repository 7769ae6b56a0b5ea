"""One episode of chatenv from start to end: `make demo`, or `python examples/demo.py --tokenizer FOLDER-OR-NAME`.

A real server in this process plays the guessing game of `guessing_game.py`. A client talks to it over gRPC, and a
stand-in for a model samples: all it does is to search by halves.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
from guessing_game import Guess

from chatenv_client import ChatAction, ChatEnv, ChatObservation, Origin, ServerInfo, Trajectory
from chatenv_server import Settings, TokenEngine, serve
from chatenv_server.engine import PLAIN_TEMPLATE
from chatenv_server.tokenizer_files.loading import TokenizerError, load_tokenizer

HIGHEST = 10


class ScriptedModel:
    """Stands in for a language model: reads its prompt, and guesses in the middle of what is left."""

    def __init__(self, tokenizer: Any, stop_id: int) -> None:
        self._tokenizer = tokenizer
        self._stop_id = stop_id

    def generate(self, prompt: Any) -> ChatAction:
        """What a sampler returns: the token ids of the turn, its stop token last."""
        low, high = 1, HIGHEST
        for guess, hint in re.findall(r"Is it (\d+)\?.*?(Higher|Lower)\.", self._tokenizer.decode(prompt), re.DOTALL):
            low, high = (int(guess) + 1, high) if hint == "Higher" else (low, int(guess) - 1)
        reply = f"Is it {(low + high) // 2}?"
        ids = self._tokenizer.backend_tokenizer.encode(reply, add_special_tokens=False).ids
        return ChatAction(tokens=[*ids, self._stop_id])


def play(env: ChatEnv, model: ScriptedModel, seed: int) -> Iterator[ChatObservation]:
    """The loop of every rollout: the model speaks, and the same step brings the server's answer, until all is done."""
    result = env.reset(seed=seed, task_args={"highest": HIGHEST}, max_turns=8)
    yield result.observation
    while not result.done:
        result = env.step(model.generate(result.observation.token_ids))
        yield result.observation


# Everything below prepares the episode and prints what came of it.


def main() -> None:
    """Play, print, stop."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", default="bytes", help="`bytes` (built in), a folder, or a Hugging Face name")
    parser.add_argument("--seed", type=int, default=1, help="chooses the number")
    options = parser.parse_args()
    try:
        tokenizer = load_tokenizer(options.tokenizer)
    except TokenizerError as error:
        parser.error(str(error))

    # A server on a free port of this machine; `chatenv-server` is the same as a command.
    settings, engine = Settings(listen=("127.0.0.1:0",), drain_grace=5), TokenEngine.load(tokenizer)
    with serve(settings, engine=engine, task=Guess) as server, ChatEnv(server.target) as env:
        info = env.server_info()
        print(f"server    on {server.target}, tokenizer {info.tokenizer_name!r} with {info.vocabulary_size:,} tokens")
        model = ScriptedModel(tokenizer, stop_id_of(tokenizer, info))
        observations = list(play(env, model, options.seed))
        trajectory = env.trajectory()
        print_stream(tokenizer, trajectory)
        print_summary(trajectory)
        print_comparison(tokenizer, observations)
    print("server    stopped")


def stop_id_of(tokenizer: Any, info: ServerInfo) -> int:
    """The stop token that the chat template itself names, if it does; else the tokenizer's."""
    template = template_of(tokenizer)
    named = [token.id for token in info.special_tokens if token.stops and token.text in template]
    return named[0] if named else int(tokenizer.eos_token_id)


def template_of(tokenizer: Any) -> str:
    """The chat template in use: gpt2, for one, has none of its own."""
    return str(tokenizer.chat_template or PLAIN_TEMPLATE)


def print_stream(tokenizer: Any, trajectory: Trajectory) -> None:
    """The token stream as text, with who wrote it and how many tokens in the margin."""
    print("\nThe token stream, by who wrote it (sampled tokens are kept bit for bit):\n")
    for turn in trajectory.turns:
        ids = trajectory.tokens[turn.start : turn.stop].tolist()
        margin = f"{turn.origin.value:>8} {turn.length:>3} | "
        for line in tokenizer.decode(ids).splitlines(keepends=True):
            print(margin + coloured(line.replace("\n", "\\n"), turn.origin))
            margin = " " * 12 + " | "
        if turn.origin is Origin.SAMPLED:
            print(f"{margin}= {ids}, reward {turn.reward:g}")
    print()


def coloured(text: str, origin: Origin) -> str:
    """Sampled text in green and template text dimmed, where the output is a terminal."""
    if not sys.stdout.isatty() or "NO_COLOR" in os.environ:
        return text
    return f"\033[{'32' if origin is Origin.SAMPLED else '2'}m{text}\033[0m"


def print_summary(trajectory: Trajectory) -> None:
    """Reward, loss mask and fidelity of the whole episode."""
    sampled, total = int(trajectory.loss_mask.sum()), len(trajectory.tokens)
    end = "terminated: the number is found" if trajectory.terminated else "truncated by a limit"
    print(f"reward    {sum(turn.reward or 0 for turn in trajectory.turns):g} in all; {end}")
    print(f"loss mask {sampled} of {total} tokens are sampled and trained on, {total - sampled} are the template's")
    reports = Counter(f"{report.kind.name}: {report.detail}" for report in trajectory.fidelity)
    for report, times in reports.items():
        print(f"fidelity  {report} ({times} times)")
    if not reports:
        print("fidelity  exact: nothing to report")


def print_comparison(tokenizer: Any, observations: list[ChatObservation]) -> None:
    """Compare what the model was given, grown step by step, with Hugging Face's rendering of all messages at once."""
    prompts = [seen for seen in observations if seen.messages and seen.messages[-1]["role"] != "assistant"]
    equal = sum(is_rendering_of_the_whole(tokenizer, prompt) for prompt in prompts)
    print(f"compared  apply_chat_template of the same messages: the same tokens at {equal} of {len(prompts)} prompts")


def is_rendering_of_the_whole(tokenizer: Any, prompt: ChatObservation) -> bool:
    """Whether a prompt is what `apply_chat_template` makes of its messages."""
    rendered = tokenizer.apply_chat_template(
        prompt.messages,
        chat_template=template_of(tokenizer),
        add_generation_prompt=True,
        tokenize=True,
        return_dict=False,
    )
    return np.array_equal(prompt.token_ids, rendered)


if __name__ == "__main__":
    main()
