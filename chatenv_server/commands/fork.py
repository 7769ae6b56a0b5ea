"""`chatenv-rl fork`: makes episodes that share an episode's past."""

from __future__ import annotations

import argparse
from typing import Final

from chatenv_server.commands.connection import EXIT_CODES, add_connection_arguments, client_of, reporting
from chatenv_server.commands.output import print_json, print_line, printable

NAME: Final = "fork"
HELP: Final = "make episodes that share an episode's past"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.description = (
        "Make episodes that share an episode's past up to a step and go their own way from there, and print their ids. "
        f"They stay live. {EXIT_CODES}"
    )
    parser.add_argument("episode", metavar="EPISODE", help="id of the episode; it stays as it is")
    parser.add_argument("--at-step", type=int, metavar="STEP", help="last step to share, 0: the opening; default: all")
    asked = parser.add_mutually_exclusive_group()
    asked.add_argument("--count", type=int, default=1, metavar="N", help="how many; default: 1")
    asked.add_argument("--id", action="append", metavar="ID", help="the id of one; may be given several times")
    add_connection_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Ask and print; the exit code."""

    def work() -> int:
        with client_of(arguments) as env:
            env.resume(arguments.episode)
            forks = env.fork(arguments.count, episode_ids=arguments.id, at_step=arguments.at_step)
        observations = [fork.observation for fork in forks]
        fork_ids = [observation.episode_id for observation in observations]
        if arguments.json:
            step = observations[0].step_count
            print_json({"episode_id": arguments.episode, "at_step": step, "fork_ids": fork_ids})
        else:
            for fork_id in fork_ids:
                print_line(printable(fork_id))
        return 0

    return reporting(NAME, work)
