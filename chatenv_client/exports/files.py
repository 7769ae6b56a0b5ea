"""Files of trajectories: which kind a file is, and that a file is there whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Final, Literal

from chatenv_client.distribution import needing
from chatenv_client.exports.json_lines import line_of, plain_line, read_lines, write_lines
from chatenv_client.exports.turns import rollout_details, training_trace
from chatenv_client.models import Trajectory

JSON_LINES: Final = ".jsonl"
PARQUET: Final = ".parquet"


Form = Literal["trajectory", "training_trace", "rollout_details"]
"""What a line of a file holds: all of an episode, or its sampled turns as OpenEnv or Harbor has them."""


def write_trajectories(
    path: str | os.PathLike[str], trajectories: Iterable[Trajectory], *, form: Form = "trajectory"
) -> int:
    """Write trajectories into a file, in the place of one that is there; how many they are.

    The file is written under another name first: if anything fails, what was there stays.

    Args:
        path: ends in `.jsonl` or `.parquet`, which says what is written.
        trajectories: any number; they are read one by one.
        form: what is written of each. The others than `trajectory` are for other programs: JSON Lines alone, and
            nobody reads them back as trajectories; see `training_trace` and `rollout_details`.

    Raises:
        ValueError: the name ends otherwise, or such a file has no such form; or what a form needs was not sampled.
        ImportError: Parquet is asked for and pyarrow is not installed: the extra `parquet`.
    """
    target = Path(path)
    if form not in _LINES:
        raise ValueError(f"there is no form {form!r}; there are {', '.join(_LINES)}")
    if kind_of(target) == JSON_LINES:
        with _whole(target) as unfinished, unfinished.open("wb") as file:
            return write_lines(file, trajectories, _LINES[form])
    if form != "trajectory":
        raise ValueError(f"{form} is written as JSON Lines alone: give a name that ends in {JSON_LINES}")
    with needing("parquet", "a Parquet file"):
        from chatenv_client.exports.parquet import write_parquet
    with _whole(target) as unfinished:
        return write_parquet(unfinished, trajectories)


_LINES: Final[Mapping[Form, Callable[[Trajectory], bytes]]] = {
    "trajectory": line_of,
    "training_trace": lambda trajectory: plain_line(training_trace(trajectory)),
    "rollout_details": lambda trajectory: plain_line(rollout_details(trajectory)),
}


def read_trajectories(path: str | os.PathLike[str]) -> Iterator[Trajectory]:
    """The trajectories of a file that `write_trajectories` or a server's archive wrote, bit for bit, one by one.

    Args:
        path: the file; or a folder, whose files are read in the order of their names.

    Raises:
        ValueError: the name ends otherwise, or a file holds something else.
        ImportError: it is Parquet and pyarrow is not installed: the extra `parquet`.
    """
    source = Path(path)
    if source.is_dir():
        files = sorted(file for file in source.iterdir() if file.suffix in (JSON_LINES, PARQUET))
        return chain.from_iterable(map(read_trajectories, files))
    if kind_of(source) == JSON_LINES:
        return _lines(source)
    with needing("parquet", "a Parquet file"):
        from chatenv_client.exports.parquet import read_parquet
    return read_parquet(source)


def kind_of(path: Path) -> str:
    """What a file's name says it holds: its ending.

    Raises:
        ValueError: it says nothing that is known.
    """
    if path.suffix in (JSON_LINES, PARQUET):
        return path.suffix
    raise ValueError(f"{path} is neither {JSON_LINES} nor {PARQUET}: the name's ending says what the file is")


def _lines(path: Path) -> Iterator[Trajectory]:
    with path.open("rb") as file:
        yield from read_lines(file)


@contextmanager
def _whole(target: Path) -> Iterator[Path]:
    """A file beside the target, which takes its place once the block has ended well."""
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    os.close(handle)
    unfinished = Path(name)
    try:
        yield unfinished
        unfinished.chmod(0o666 & ~_umask())
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
