"""Episodes of files: those that `trajectories` and `write_trajectories` write, and those that `export` writes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from chatenv_client import Trajectory, read_trajectories
from chatenv_client.distribution import DISTRIBUTION
from chatenv_client.exports.files import JSON_LINES, PARQUET
from chatenv_server.commands.import_episode import snapshot_in

if TYPE_CHECKING:
    from chatenv_server.engine import TokenEngine

_TRAJECTORIES: Final = (JSON_LINES, PARQUET)
_SNAPSHOTS: Final = (".bin", ".json")
KINDS: Final = (*_TRAJECTORIES, *_SNAPSHOTS)
"""How names of such files end."""
_IN_FOLDERS: Final = (*_TRAJECTORIES, ".bin")
"""In a folder JSON may be anything."""


def episodes_in(path: Path, engine: TokenEngine | None) -> Iterator[Trajectory]:
    """The episodes of a file, or of all files of a folder by name.

    Args:
        path: of the file or folder.
        engine: the tokenizer that wrote the snapshots; trajectories need none.

    Raises:
        ValueError: there is no such file, or one holds something else; the message says which.
        ChatEnvError: a snapshot cannot be read, or another tokenizer or template wrote it.
    """
    files = sorted(one for one in path.iterdir() if one.suffix in _IN_FOLDERS) if path.is_dir() else [path]
    if not files:
        raise ValueError(
            f"{path} holds no file that ends in {', '.join(_IN_FOLDERS)}; `{DISTRIBUTION} trajectories` writes some"
        )
    for file in files:
        if file.suffix in _SNAPSHOTS:
            yield _exported(file, engine)
        else:
            yield from _written(file)


def _written(file: Path) -> Iterator[Trajectory]:
    try:
        yield from read_trajectories(file)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def _exported(file: Path, engine: TokenEngine | None) -> Trajectory:
    snapshot = snapshot_in(file.read_bytes(), str(file))
    if engine is None:
        raise ValueError(f"{file} is an exported episode: give --tokenizer, the one of the server that wrote it")
    from chatenv_server.environment.restoring import restored
    from chatenv_server.environment.views import trajectory_of

    record, _ = restored(engine, snapshot, keeps_journal=False)
    return trajectory_of(record)
