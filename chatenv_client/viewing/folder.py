"""Writes pages into files: one of an episode, or a folder with one of each and one of all."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from chatenv_client.models import Trajectory
from chatenv_client.models.token_text import TokenSource
from chatenv_client.viewing.collection import Known, known_of, relatives_of
from chatenv_client.viewing.episode_data import View
from chatenv_client.viewing.pages import episode_page, run_page
from chatenv_client.viewing.run_data import EpisodeRow
from chatenv_client.viewing.token_texts import texts_of

INDEX: Final = "index.html"
EPISODES: Final = "episodes"
_LONGEST_NAME: Final = 80


def write_episode(path: Path, trajectory: Trajectory, tokens: TokenSource = None, view: View | None = None) -> None:
    """Write the page of an episode, in the place of what is there."""
    path.write_text(episode_page(trajectory, texts_of(tokens, trajectory), view), encoding="utf-8")


def write_run(
    folder: Path,
    trajectories: Sequence[Trajectory],
    title: str,
    tokens: TokenSource = None,
    told: Callable[[int, int], None] = lambda *_: None,
) -> Path:
    """Write the page of each episode and the page of all of them into a folder; the page of all.

    Args:
        folder: made where it is not there. Pages of the same names are replaced.
        trajectories: the episodes, in the order in which they were played.
        title: what they are.
        tokens: whoever knows what their tokens stand for.
        told: called with how many are written, and how many there are.
    """
    (folder / EPISODES).mkdir(parents=True, exist_ok=True)
    names = [_name_of(place, one) for place, one in enumerate(trajectories)]
    known = [known_of(one, name) for one, name in zip(trajectories, names, strict=True)]
    groups: dict[str, list[Known]] = {}
    for one in known:
        groups.setdefault(one.row.group, []).append(one)
    for place, (trajectory, one) in enumerate(zip(trajectories, known, strict=True), 1):
        view = View(index_href=f"../{INDEX}", relatives=relatives_of(one, groups[one.row.group]))
        write_episode(folder / EPISODES / one.row.href, trajectory, tokens, view)
        told(place, len(trajectories))
    (folder / INDEX).write_text(run_page(_rows(known), title), encoding="utf-8")
    return folder / INDEX


def _rows(known: Iterable[Known]) -> list[EpisodeRow]:
    return [replace(one.row, href=f"{EPISODES}/{one.row.href}") for one in known]


def _name_of(place: int, trajectory: Trajectory) -> str:
    """A file's name: the place, and as much of the id as any file system and URL takes."""
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", trajectory.episode_id)[:_LONGEST_NAME].strip(".-")
    return f"{place:05}-{safe}.html" if safe else f"{place:05}.html"
