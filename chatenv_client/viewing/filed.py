"""Episodes that were read from files, to look at."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from chatenv_client.errors import EpisodeNotFoundError
from chatenv_client.models import Trajectory
from chatenv_client.models.token_text import TokenSource, TokenText
from chatenv_client.viewing.collection import href_of, known_of, relatives_of
from chatenv_client.viewing.episode_data import View
from chatenv_client.viewing.run_data import EpisodeRow
from chatenv_client.viewing.token_texts import texts_of


class FiledEpisodes:
    """Episodes that stay as they are; the key of each is its place.

    Args:
        title: what they are.
        trajectories: in the order in which they were played.
        tokens: whoever knows what tokens stand for.
    """

    follows = False

    def __init__(self, title: str, trajectories: Iterable[Trajectory], tokens: TokenSource = None) -> None:
        self.title = title
        self._tokens = tokens
        self._trajectories = list(trajectories)
        self._known = [known_of(one, href_of(str(place))) for place, one in enumerate(self._trajectories)]

    def __len__(self) -> int:
        return len(self._trajectories)

    def rows(self) -> Sequence[EpisodeRow]:
        """A row of each."""
        return [known.row for known in self._known]

    def episode(self, key: str) -> tuple[Trajectory, dict[int, TokenText], View]:
        """An episode by its place; see `Collection`."""
        if not (key.isascii() and key.isdecimal() and int(key) < len(self._trajectories)):
            raise EpisodeNotFoundError(f"there is no episode {key}")
        trajectory, known = self._trajectories[int(key)], self._known[int(key)]
        view = View(index_href="./", relatives=relatives_of(known, self._known))
        return trajectory, texts_of(self._tokens, trajectory), view
