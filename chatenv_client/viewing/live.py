"""Live episodes of a server, to look at. They are read again when they have changed."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple

from chatenv_client.errors import EpisodeNotFoundError
from chatenv_client.models import EpisodeSummary, Trajectory
from chatenv_client.models.token_text import TokenText
from chatenv_client.viewing.collection import Known, href_of, known_of, relatives_of
from chatenv_client.viewing.episode_data import View
from chatenv_client.viewing.last_seen import LastSeen
from chatenv_client.viewing.run_data import GONE, NOT_OVER, EpisodeRow
from chatenv_client.viewing.token_texts import texts_of

if TYPE_CHECKING:
    from chatenv_client.client import ChatEnv

_AGAIN_S: Final = 15.0
"""After which an episode that is over without a reward is read again: a judge may have come."""
_JUDGES_S: Final = 600.0
"""For which that goes on. Reading counts as use, and what is used does not expire."""


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
        self._last_seen = LastSeen()
        self._tokenizer_name = env.server_info().tokenizer_name
        self.title = f"live episodes {prefix}*" if prefix else "live episodes"

    def rows(self) -> Sequence[EpisodeRow]:
        """A row of each, oldest first. Those that are gone stay as they were."""
        with self._lock:
            live = {summary.episode_id: summary for summary in self._env.episodes(self._prefix)}
            for summary in sorted(live.values(), key=lambda one: one.created_unix_seconds):
                self._see(summary)
            return [_row(read.known.row, is_live=name in live) for name, read in self._read.items()]

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
        trajectory = self._env.trajectory()
        self._last_seen.keep(trajectory)
        return trajectory

    def episode(self, key: str) -> tuple[Trajectory, dict[int, TokenText], View]:
        """An episode by its id, as it is now, or as it was last seen; see `Collection`."""
        with self._lock:
            trajectory, view = self._seen_now(key)
            others = [read.known for name, read in self._read.items() if name != key]
            view = replace(
                view,
                index_href="./",
                relatives=relatives_of(self._known(trajectory), others),
                tokenizer_name=self._tokenizer_name,
            )
            return trajectory, self._texts_of(trajectory), view

    def _seen_now(self, key: str) -> tuple[Trajectory, View]:
        try:
            trajectory, state = self._trajectory(key), self._env.state()
        except EpisodeNotFoundError:
            last = self._last_seen.get(key)
            if last is None:
                raise
            return last, View(is_gone=True)
        data_href = href_of(key).replace("episode", "episode.json", 1)
        return trajectory, View(forked_from=state.forked_from, task=state.task, data_href=data_href)

    def _texts_of(self, trajectory: Trajectory) -> dict[int, TokenText]:
        """Texts are asked for once: those of a server's tokens do not change."""
        ids = {token for segment in trajectory.segments for token in segment.tokens.tolist()}
        new = sorted(ids - self._texts.keys())
        self._texts.update(zip(new, self._env.describe_tokens(new), strict=True))
        return texts_of(self._texts, trajectory)


def _row(row: EpisodeRow, *, is_live: bool) -> EpisodeRow:
    return row if is_live or row.end != NOT_OVER else replace(row, end=GONE)


def _told(summary: EpisodeSummary) -> tuple[object, ...]:
    """What changes with an episode. Being used is no change: to read it is to use it."""
    return (*vars(replace(summary, last_used_unix_seconds=0.0, metadata={})).values(),)


def _may_be_judged(read: _Read, now: float) -> bool:
    row = read.known.row
    waits = row.reward is None and row.end in ("terminated", "truncated") and now - read.first_at < _JUDGES_S
    return waits and now - read.at > _AGAIN_S
