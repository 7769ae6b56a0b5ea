"""A task that counts its turns, and writes into a file what it was closed for."""

from __future__ import annotations

import os
from pathlib import Path

from chatenv_server import Answer, End, ModelTurn, Opening, Task, TaskEpisode


class Counting(Task):
    """Answers with the number of the turn."""

    def open(self, episode: TaskEpisode) -> Opening:
        """Begin to count."""
        self.name = episode.episode_id
        self.count = 0
        return Opening(messages=[{"role": "user", "content": "Go."}])

    async def answer(self, turn: ModelTurn) -> Answer:  # noqa: ARG002
        """Count."""
        self.count += 1
        return Answer(messages=[{"role": "user", "content": str(self.count)}], rewards={"turn": self.count})

    def close(self, reason: End) -> None:
        """Tell."""
        with Path(os.environ["ENDED"]).open("a") as ended:
            ended.write(f"{self.name} {reason}\n")
