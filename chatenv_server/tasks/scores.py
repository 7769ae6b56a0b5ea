"""What a function that scores may return, as an answer."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from chatenv_server.tasks.task import Answer

Score = float | Mapping[str, float]
"""A reward: one number, or components by name, whose sum it is."""


class NoScoreError(TypeError):
    """A function that has to score returned no score. Callers are told what it says."""


def ending(score: Score | Answer | None, *, truncated: bool = False) -> Answer:
    """The answer that ends an episode with a score. None: without a reward.

    An answer that was given stays as it is, so it says itself whether the episode ends; `truncated` ends it anyway,
    where it has no failure.
    """
    if isinstance(score, Answer):
        return dataclasses.replace(score, truncated=True) if truncated and score.failure is None else score
    end: dict[str, Any] = {"truncated": True} if truncated else {"terminated": True}
    if isinstance(score, Mapping):
        return Answer(rewards=score, **end)
    return Answer(reward=score, **end)
