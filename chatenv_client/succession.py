"""Episodes that take the place of others: an episode is closed once its successor has been opened.

So a refused Reset leaves the episode before as it was. Where the server has no room for both, the one before is closed
first. Without any input or output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Final

from chatenv_client.batch import Round
from chatenv_client.calls import Call
from chatenv_client.errors import EpisodeLimitError, TokenLimitError
from chatenv_client.models import StepResult

NO_ROOM: Final = (EpisodeLimitError, TokenLimitError)
"""What a server says that has no room for one episode more."""
STAYS: Final = "the episode before could not be closed"


class Succession:
    """Which episodes of a round take the place of others. Its rounds are to be made in the order of its methods."""

    def __init__(
        self,
        opening: Round[StepResult],
        resets: Mapping[int, Callable[[], Call[StepResult]]],
        closes: Mapping[int, Call[None]],
    ) -> None:
        self.opening = opening
        """The round to make first; it may hold other calls, too."""
        self._resets = resets
        self._closes = dict(closes)
        """Of the episodes before, by index, that are not closed yet."""

    def making_room(self) -> Round[None]:
        """Close the episodes before those that found no room beside them."""
        errors = self.opening.errors
        return self._closing(index for index in self._closes if isinstance(errors.get(index), NO_ROOM))

    def opening_again(self, room: Round[None]) -> Round[StepResult]:
        """Open those again for which room was made; the opening then has to take it in."""
        again: Round[StepResult] = Round(len(self.opening.results))
        for index in room.succeeded:
            del self._closes[index]
            again.ask(index, self._resets[index])
        return again

    def closing(self) -> Round[None]:
        """Close all other episodes before those that were opened."""
        return self._closing(index for index in self._closes if index in self.opening.succeeded)

    def _closing(self, indices: Iterable[int]) -> Round[Any]:
        closing: Round[None] = Round(len(self.opening.results))
        for index in indices:
            closing.ask(index, partial(self._closes.__getitem__, index))
        return closing
