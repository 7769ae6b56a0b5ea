"""`chatenv-rl trajectories`: live episodes as training wants them, in a file. Changes nothing."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final, get_args

from chatenv_client import ChatEnv, EpisodeNotFoundError, Trajectory, read_trajectories, write_trajectories
from chatenv_client.exports.files import Form, kind_of
from chatenv_server.commands.connection import EXIT_CODES, add_connection_arguments, client_of, reporting, tell
from chatenv_server.commands.output import print_json, print_line, printable, progress_line

NAME: Final = "trajectories"
HELP: Final = "live episodes as rows of a JSON Lines or Parquet file, for training"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.description = (
        "Write the trajectories of live episodes into a file, and print how many they are. docs/training.md lists the "
        f"columns. The episodes stay live. {EXIT_CODES}"
    )
    parser.add_argument("episodes", nargs="*", metavar="EPISODE", help="ids of episodes; default: all that are live")
    parser.add_argument("--prefix", metavar="TEXT", help="only live episodes whose id begins with it")
    parser.add_argument(
        "--out",
        required=True,
        type=Path,
        metavar="FILE",
        help="FILE.jsonl or FILE.parquet; one that is there is replaced",
    )
    parser.add_argument(
        "--form",
        choices=get_args(Form),
        default="trajectory",
        help="what a line holds: all of an episode (default), or its sampled turns as OpenEnv's TrainingTrace or as "
        "Harbor's RolloutDetails",
    )
    parser.add_argument(
        "--from",
        dest="source",
        type=Path,
        metavar="PATH",
        help="take them from a file of trajectories, or a folder such as a server's archive, and ask no server",
    )
    parser.add_argument(
        "--assistants", action="store_true", help="find what given assistants say, too, for supervised training"
    )
    add_connection_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Read and write; the exit code."""

    def work() -> int:
        if arguments.episodes and arguments.prefix is not None:
            raise ValueError("give ids of episodes or --prefix, not both")
        kind_of(arguments.out)
        with progress_line() as show:
            if arguments.source is not None:
                count = _written(arguments, _stored(arguments), show)
            else:
                with client_of(arguments) as env:
                    read = _named(env, arguments) if arguments.episodes else _live(env, arguments)
                    count = _written(arguments, read, show)
        if arguments.json:
            print_json({"file": str(arguments.out), "episodes": count})
        else:
            print_line(printable(f"{count} episode{'s' * (count != 1)} written to {arguments.out}"))
        return 0

    return reporting(NAME, work)


def _written(arguments: argparse.Namespace, trajectories: Iterable[Trajectory], show: Callable[[str], None]) -> int:
    return write_trajectories(arguments.out, _shown(trajectories, show), form=arguments.form)


def _shown(trajectories: Iterable[Trajectory], show: Callable[[str], None]) -> Iterator[Trajectory]:
    """The same, while it is shown how many there are already."""
    for number, trajectory in enumerate(trajectories, 1):
        show(f"{number:,} read, the last is {trajectory.episode_id}")
        yield trajectory


def _stored(arguments: argparse.Namespace) -> Iterator[Trajectory]:
    """Of a file or a folder, those that were asked for."""
    if arguments.assistants:
        raise ValueError("--assistants asks a server, and a file holds what was read of it: leave it out with --from")
    wanted, prefix = set(arguments.episodes), arguments.prefix or ""
    for trajectory in read_trajectories(arguments.source):
        if trajectory.episode_id.startswith(prefix) and (not wanted or trajectory.episode_id in wanted):
            yield trajectory


def _named(env: ChatEnv, arguments: argparse.Namespace) -> Iterable[Trajectory]:
    return (_trajectory(env, episode, arguments) for episode in arguments.episodes)


def _live(env: ChatEnv, arguments: argparse.Namespace) -> Iterator[Trajectory]:
    """Of all that are live; of one that ends meanwhile, it is told."""
    known = list(dict.fromkeys(each.episode_id for each in env.episodes(arguments.prefix or "")))
    for episode in known:
        try:
            trajectory = _trajectory(env, episode, arguments)
        except EpisodeNotFoundError:  # noqa: PERF203 - one may be gone while the others are not
            tell(NAME, f"episode {episode} ended before it could be read, and is left out")
        else:
            yield trajectory


def _trajectory(env: ChatEnv, episode: str, arguments: argparse.Namespace) -> Trajectory:
    env.resume(episode)
    return env.trajectory(assistants=arguments.assistants)
