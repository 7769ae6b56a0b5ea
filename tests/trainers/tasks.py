"""Tasks that the tests of adapters serve. The embedded tokenizer is theirs: a token is a byte, 257 ends a turn."""

from __future__ import annotations

from chatenv_client import ChatAction, Failure, FailureKind
from chatenv_server import Answer, ModelTurn, Opening, Task, TaskEpisode

STOP = 257


class Echo(Task):
    """Says back what the model said, for some turns; rewards each with the length of what was said.

    Args:
        turns: after which it ends.
        breaks_at: turn, from 0, in which it raises; -1: it does when it opens. None: never.
    """

    def __init__(self, turns: int = 2, breaks_at: int | None = None) -> None:
        self.turns, self.breaks_at, self.turn = turns, breaks_at, 0
        self.asked = ""

    def open(self, episode: TaskEpisode) -> Opening:
        """Say the seed."""
        if self.breaks_at == -1:
            raise OSError("the sandbox is down")
        return Opening(messages=[{"role": "user", "content": f"Seed {episode.seed}."}])

    def answer(self, turn: ModelTurn) -> Answer:
        """Say it back."""
        if self.turn == self.breaks_at:
            raise OSError("the sandbox is down")
        self.turn += 1
        rewards = {"length": float(len(turn.text))}
        if self.turn == self.turns:
            return Answer(rewards=rewards, terminated=True)
        return Answer(messages=[{"role": "user", "content": turn.text}], rewards=rewards)


class EveryOtherBreaks(Echo):
    """`Echo`, but in every other episode of the server it cannot go on after the first turn."""

    opened = 0

    def open(self, episode: TaskEpisode) -> Opening:
        """Count."""
        EveryOtherBreaks.opened += 1
        self.is_broken = EveryOtherBreaks.opened % 2 == 1
        return super().open(episode)

    def answer(self, turn: ModelTurn) -> Answer:
        """Say it back, or that something broke; the first turn is rewarded in any case."""
        if self.is_broken and self.turn == 1:
            return Answer(failure=Failure(FailureKind.TOOL, "the sandbox is gone"))
        return super().answer(turn)


def said(text: str) -> ChatAction:
    """A turn of the model, with logprobs that tell its tokens apart."""
    tokens = [*text.encode(), STOP]
    return ChatAction(tokens=tokens, logprobs=[-(index + 1) / 8 for index in range(len(tokens))])
