"""OpenEnv's stock client plays an episode of the guessing game.

Start both servers first:

    PYTHONPATH=examples chatenv-server --task guessing_game:Guess
    chatenv-rl openenv --port 8000
"""

from __future__ import annotations

import sys

from openenv.core.generic_client import GenericEnvClient

STOP = 257  # ends a turn in the built-in tokenizer, whose other tokens are bytes


def main(url: str = "http://localhost:8000") -> None:
    """Play by halving what is left."""
    with GenericEnvClient(base_url=url).sync() as env:
        result = env.reset(seed=7)
        left = range(1, 101)
        while not result.done:
            guess = left[len(left) // 2]
            action = {"tokens": [*str(guess).encode(), STOP], "metadata": result.observation["metadata"]}
            result = env.step(action)
            hint = result.observation["messages"][-1]["content"]
            print(f"{guess}: {hint if not result.done else 'found'}, reward {result.reward}")
            left = range(left.start, guess) if "lower" in hint.lower() else range(guess + 1, left.stop)


if __name__ == "__main__":
    main(*sys.argv[1:])
