"""Episodes of files, to look at: JSON Lines or Parquet, as `write_trajectories` writes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from chatenv_client.errors import EpisodeNotFoundError
from chatenv_client.exports.files import JSON_LINES, PARQUET, read_trajectories
from chatenv_client.models import Trajectory
from chatenv_client.models.token_text import TokenSource, TokenText
from chatenv_client.viewing.collection import href_of, known_of, relatives_of
from chatenv_client.viewing.episode_data import View
from chatenv_client.viewing.run_data import EpisodeRow
from chatenv_client.viewing.token_texts import texts_of


class FiledEpisodes:
    """Episodes of files; the key of each is its place.

    Args:
        path: a file, or a folder of some.
        tokens: whoever knows what tokens stand for.

    Raises:
        ValueError: there is no file that `write_trajectories` writes, or one holds something else.
    """

    follows = False

    def __init__(self, path: Path, tokens: TokenSource = None) -> None:
        self.title = path.name
        self._tokens = tokens
        self._trajectories = list(trajectories_in(path))
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


def trajectories_in(path: Path) -> Iterator[Trajectory]:
    """The trajectories of a file, or of all files of a folder by name.

    Raises:
        ValueError: there is none that `write_trajectories` writes, or one holds something else; the message says which.
    """
    files = sorted(each for each in path.iterdir() if each.suffix in (JSON_LINES, PARQUET)) if path.is_dir() else [path]
    if not files:
        raise ValueError(f"{path} holds no {JSON_LINES} and no {PARQUET} file; `chatenv-rl trajectories` writes some")
    for file in files:
        yield from _told_of(file)


def _told_of(file: Path) -> Iterator[Trajectory]:
    try:
        yield from read_trajectories(file)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
