"""Episodes to look at, wherever they are: in files (`filed.py`), or live on a server (`live.py`).

Each has a key, by which its page asks for it. Nothing here changes an episode.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple, Protocol
from urllib.parse import quote

from chatenv_client.models import Trajectory
from chatenv_client.models.token_text import TokenText
from chatenv_client.tokens import Int32Array, shared_length
from chatenv_client.viewing.episode_data import Relative, View
from chatenv_client.viewing.run_data import EpisodeRow, row_of

MOST_RELATIVES: Final = 16
"""Of a group, on an episode's map."""


def href_of(key: str) -> str:
    """Where the local server has the page of an episode."""
    return f"episode?id={quote(key, safe='')}"


class Known(NamedTuple):
    """What is kept of an episode to show it beside others."""

    row: EpisodeRow
    first_tokens: Int32Array
    """The stream of its first segment."""


class Collection(Protocol):
    """Episodes to look at."""

    title: str
    follows: bool
    """Whether they change."""

    def rows(self) -> Sequence[EpisodeRow]:
        """A row of each, in the order in which they were played."""

    def episode(self, key: str) -> tuple[Trajectory, dict[int, TokenText], View]:
        """An episode, and what its page needs.

        Raises:
            EpisodeNotFoundError: there is none of this key.
        """


def known_of(trajectory: Trajectory, href: str) -> Known:
    """What is kept of an episode."""
    return Known(row_of(trajectory, href), trajectory.segments[0].tokens)


def relatives_of(known: Known, others: Iterable[Known]) -> list[Relative]:
    """The others of an episode's group, those first that share most with it."""
    if not known.row.group:
        return []
    group = [one for one in others if one.row.group == known.row.group and one is not known]
    made = [
        Relative(
            one.row.episode_id,
            shared_length(known.first_tokens, one.first_tokens),
            len(one.first_tokens),
            one.row.reward,
            bool(one.row.failure),
            one.row.href,
        )
        for one in group
    ]
    return sorted(made, key=lambda one: -one.shared_length)[:MOST_RELATIVES]
