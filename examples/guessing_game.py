"""A task in full: the model guesses a number, and is told whether it is higher or lower. `make guessing-game` plays it.

Serve it with `PYTHONPATH=examples chatenv-server --task guessing_game:Guess`.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from chatenv_client import Message
from chatenv_server import Answer, ModelTurn, Opening, Task, TaskEpisode


class Guess(Task):
    """The model finds a number by guessing. Each episode has an instance of its own.

    Args:
        highest: the number is from 1 to this one. A reset may say otherwise: `reset(task_args={"highest": 10})`.
    """

    def __init__(self, highest: int = 100) -> None:
        self.highest = highest
        self.secret = 0

    def open(self, episode: TaskEpisode) -> Opening:
        """Think of a number. The same seed gives the same one."""
        self.secret = random.Random(episode.seed).randint(1, self.highest)
        question = f"I think of a number from 1 to {self.highest}. Guess it."
        return Opening(messages=[{"role": "user", "content": question}])

    async def answer(self, turn: ModelTurn) -> Answer:
        """Say whether the number is higher or lower, and end the episode when it is found."""
        guess = number_in(turn.text)
        if guess == self.secret:
            return Answer(rewards={"found": 1.0}, terminated=True)
        hint = "That is no number." if guess is None else "Higher." if guess < self.secret else "Lower."
        return Answer(messages=[{"role": "user", "content": hint}], rewards={"found": 0.0})


def number_in(text: str) -> int | None:
    """The last number in a text; None: there is none."""
    numbers = re.findall(r"[0-9]{1,9}", text)
    return int(numbers[-1]) if numbers else None


def halving(messages: Sequence[Message]) -> str:
    """Stand in for a model: guess the number in the middle of those that are left."""
    low, high = 1, number_in(str(messages[0].get("content"))) or 1
    for guessed, hint in zip(messages[1::2], messages[2::2], strict=True):
        guess = number_in(str(guessed.get("content"))) or low
        low, high = (guess + 1, high) if hint.get("content") == "Higher." else (low, guess - 1)
    return f"Is it {(low + high) // 2}?"


def main() -> None:
    """Play an episode."""
    from stand_in import play

    play(Guess, halving, seed=7, max_turns=10)


if __name__ == "__main__":
    main()
