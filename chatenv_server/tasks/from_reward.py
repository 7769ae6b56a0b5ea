"""A task out of a function that scores one turn: the commonest case, in one line."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from chatenv_server.tasks.prompts import opening_messages
from chatenv_server.tasks.scores import NoScoreError, Score, ending
from chatenv_server.tasks.task import Answer, ModelTurn, Opening, Task, TaskEpisode
from chatenv_server.tasks.user_functions import is_async

RewardFunction = Callable[[str, Mapping[str, Any]], Score | Awaitable[Score]]
"""Called with the text of a turn and its row; returns the reward, or its components by name."""


def from_reward(function: RewardFunction) -> type[Task]:
    """Make a task of a function: the model speaks once, the function scores it, and the episode has terminated.

    ```python
    def right(text, row):
        return {"right": float(row["solution"] in text), "short": -len(text) / 1000}

    Sums = from_reward(right)
    ```

    The episode opens with the caller's messages, or with the row's `prompt` where the caller gives none: a text, or a
    list of messages.

    Args:
        function: plain, and called in a thread, or `async`. The text is all that the model wrote, thinking included,
            without the token that ends the turn. The row is the one that the caller chose, or the episode's metadata
            where it chose none.

    Raises:
        TypeError: what is given cannot be called with a text and a row.
    """
    _check(function)
    base = _AsyncReward if is_async(function) else _PlainReward
    name = getattr(function, "__name__", type(function).__name__)
    described = {"__doc__": inspect.getdoc(function), "__module__": getattr(function, "__module__", __name__)}
    return type(name, (base,), {"function": staticmethod(function), **described})


def _check(function: Any) -> None:
    if not callable(function):
        raise TypeError(f"a reward function is called with a text and a row; {function!r} cannot be called")
    try:
        signature = inspect.signature(function)
    except ValueError:  # some functions written in C have none
        return
    try:
        signature.bind("", {})
    except TypeError as error:
        raise TypeError(f"a reward function is called with a text and a row, and this one takes {signature}") from error


class _Reward(Task):
    function: RewardFunction

    def open(self, episode: TaskEpisode) -> Opening:
        """The caller's messages, or the row's prompt."""
        return Opening(messages=opening_messages(episode))

    def _given(self, score: Any) -> Answer:
        if score is None or (isinstance(score, Mapping) and not score):
            raise NoScoreError(f"the reward function {type(self).__name__} returned {score!r}, and no reward")
        return ending(score)


class _PlainReward(_Reward):
    def answer(self, turn: ModelTurn) -> Answer:
        """Score the turn, and end."""
        return self._given(self.function(turn.text, _row_of(turn)))


class _AsyncReward(_Reward):
    async def answer(self, turn: ModelTurn) -> Answer:
        """Score the turn, and end."""
        score: Any = self.function(turn.text, _row_of(turn))
        return self._given(await score)


def _row_of(turn: ModelTurn) -> Mapping[str, Any]:
    return turn.metadata if turn.row is None else turn.row
