"""`chatenv-rl fail`: ends an episode because something broke."""

from __future__ import annotations

import argparse
from typing import Final

from chatenv_client import FailureKind
from chatenv_server.commands.connection import EXIT_CODES, add_connection_arguments, client_of, reporting
from chatenv_server.commands.output import print_json, print_line, told_failure

NAME: Final = "fail"
HELP: Final = "end an episode because something broke, so that nobody trains on it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.description = (
        "End an episode because something broke, so that nobody takes it for one that went badly. The first failure "
        f"stays, and is printed. {EXIT_CODES}"
    )
    parser.add_argument("episode", metavar="EPISODE", help="id of the episode; it may be over already")
    parser.add_argument("--reason", required=True, metavar="TEXT", help="one sentence that says why")
    parser.add_argument(
        "--kind",
        choices=[kind.value for kind in FailureKind],
        default=FailureKind.OTHER.value,
        help="what broke; default: other",
    )
    add_connection_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Say it and print what is on record; the exit code."""

    def work() -> int:
        with client_of(arguments) as env:
            env.resume(arguments.episode)
            failure = env.fail(arguments.reason, arguments.kind)
        if arguments.json:
            print_json({"episode_id": arguments.episode, **failure._asdict()})
        else:
            print_line(told_failure(failure))
        return 0

    return reporting(NAME, work)
