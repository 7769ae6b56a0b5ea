"""SkyRL-Gym plays an episode of the guessing game.

Start the server first: `PYTHONPATH=examples chatenv-server --task guessing_game:Guess`.
"""

from __future__ import annotations

import sys

import skyrl_gym


def main(address: str = "localhost:50051") -> None:
    """Play by halving what is left."""
    skyrl_gym.register("chatenv", entry_point="chatenv_client.trainers.skyrl_text:ChatTextEnv")
    extras = {"max_turns": 10, "chatenv": {"seed": 7}}
    env = skyrl_gym.make("chatenv", env_config={"address": address}, extras=extras)
    env.init([])
    left, done = range(1, 101), False
    while not done:
        guess = left[len(left) // 2]
        step = env.step(str(guess))
        done = step["done"]
        hint = "" if done else step["observations"][-1]["content"]
        print(f"{guess}: {hint or 'found'}, reward {step['reward']}")
        left = range(left.start, guess) if hint == "Lower." else range(guess + 1, left.stop)
    print(env.get_metrics())
    env.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
