"""The messages that a ready-made task opens an episode with: the caller's, or those of its row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from chatenv_server.tasks.task import TaskEpisode


def opening_messages(episode: TaskEpisode) -> Sequence[Mapping[str, Any]] | None:
    """The messages of the row's `prompt`, where the caller gives none; None: as the caller gave it.

    A prompt is a text, which a user says, or a list of messages.

    Raises:
        TypeError: the row's prompt is neither.
    """
    if episode.messages or episode.row is None or episode.row.get("prompt") is None:
        return None
    prompt = episode.row["prompt"]
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    if isinstance(prompt, Sequence) and all(isinstance(message, Mapping) for message in prompt):
        return prompt
    raise TypeError(f"the row's prompt is a {type(prompt).__name__}; it has to be a text or a list of messages")
