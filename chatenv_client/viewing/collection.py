"""Episodes to look at, wherever they are: in files, or live on a server.

Each has a key, by which its page asks for it. Nothing here changes an episode.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol
from urllib.parse import quote

from chatenv_client.errors import EpisodeNotFoundError
from chatenv_client.exports.files import JSON_LINES, PARQUET, read_trajectories
from chatenv_client.models import EpisodeSummary, Trajectory
from chatenv_client.models.token_text import TokenSource, TokenText
from chatenv_client.tokens import Int32Array, shared_length
from chatenv_client.viewing.episode_data import Relative, View
from chatenv_client.viewing.run_data import EpisodeRow, row_of
from chatenv_client.viewing.token_texts import texts_of

if TYPE_CHECKING:
    from chatenv_client.client import ChatEnv

MOST_RELATIVES: Final = 16
"""Of a group, on an episode's map."""
_AGAIN_S: Final = 15.0
"""After which an episode that is over without a reward is read again: a judge may have come."""
_JUDGES_S: Final = 600.0
"""For which that goes on. Reading counts as use, and what is used does not expire."""


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


class _Read(NamedTuple):
    """A live episode as it was read."""

    known: Known
    summary: tuple[object, ...]
    first_at: float
    at: float


class LiveEpisodes:
    """The live episodes of a server, and those that were when they were last read. Safe for threads.

    Args:
        env: a client without an episode.
        prefix: only episodes whose id begins with it.
    """

    follows = True

    def __init__(self, env: ChatEnv, prefix: str = "") -> None:
        self._env = env
        self._prefix = prefix
        self._lock = threading.Lock()
        self._texts: dict[int, TokenText] = {}
        self._read: dict[str, _Read] = {}
        self._tokenizer_name = env.server_info().tokenizer_name
        self.title = f"live episodes {prefix}*" if prefix else "live episodes"

    def rows(self) -> Sequence[EpisodeRow]:
        """A row of each, oldest first. Those that are gone stay as they were."""
        with self._lock:
            for summary in sorted(self._env.episodes(self._prefix), key=lambda one: one.created_unix_seconds):
                self._see(summary)
            return [read.known.row for read in self._read.values()]

    def _see(self, summary: EpisodeSummary) -> None:
        """Read an episode, unless it is as it was."""
        now, told = time.monotonic(), _told(summary)
        read = self._read.get(summary.episode_id)
        if read is None or read.summary != told or _may_be_judged(read, now):
            try:
                trajectory = self._trajectory(summary.episode_id)
            except EpisodeNotFoundError:
                return  # it ended meanwhile
            first_at = now if read is None or read.summary != told else read.first_at
            self._read[summary.episode_id] = _Read(self._known(trajectory), told, first_at, now)

    def _known(self, trajectory: Trajectory) -> Known:
        return known_of(trajectory, href_of(trajectory.episode_id))

    def _trajectory(self, episode_id: str) -> Trajectory:
        self._env.resume(episode_id)
        return self._env.trajectory()

    def episode(self, key: str) -> tuple[Trajectory, dict[int, TokenText], View]:
        """An episode by its id, as it is now; see `Collection`."""
        with self._lock:
            trajectory, state = self._trajectory(key), self._env.state()
            known = self._known(trajectory)
            others = [read.known for name, read in self._read.items() if name != key]
            view = View(
                index_href="./",
                relatives=relatives_of(known, others),
                forked_from=state.forked_from,
                task=state.task,
                tokenizer_name=self._tokenizer_name,
                data_href=href_of(key).replace("episode", "episode.json", 1),
            )
            return trajectory, self._texts_of(trajectory), view

    def _texts_of(self, trajectory: Trajectory) -> dict[int, TokenText]:
        """Texts are asked for once: those of a server's tokens do not change."""
        ids = {token for segment in trajectory.segments for token in segment.tokens.tolist()}
        new = sorted(ids - self._texts.keys())
        self._texts.update(zip(new, self._env.describe_tokens(new), strict=True))
        return texts_of(self._texts, trajectory)


def _told(summary: EpisodeSummary) -> tuple[object, ...]:
    """What changes with an episode. Being used is no change: to read it is to use it."""
    return (*vars(replace(summary, last_used_unix_seconds=0.0, metadata={})).values(),)


def _may_be_judged(read: _Read, now: float) -> bool:
    row = read.known.row
    waits = row.reward is None and row.end in ("terminated", "truncated") and now - read.first_at < _JUDGES_S
    return waits and now - read.at > _AGAIN_S
