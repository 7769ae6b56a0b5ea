"""`chatenv-rl export`: a whole episode, to take it elsewhere. Changes nothing."""

from __future__ import annotations

import argparse
import sys
from typing import Final

from google.protobuf import json_format

from chatenv_server.commands.connection import EXIT_CODES, add_connection_arguments, client_of, reporting
from chatenv_server.commands.output import print_line, progress_line

NAME: Final = "export"
HELP: Final = "an episode as bytes or JSON, which `import` takes up again"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.description = (
        "Write an episode to standard output: the bytes of an EpisodeSnapshot or, with --json, its JSON. It holds "
        f"all that was said and sampled. {EXIT_CODES}"
    )
    parser.add_argument("episode", metavar="EPISODE", help="id of the episode")
    add_connection_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Read and write; the exit code."""

    def work() -> int:
        if sys.stdout.isatty() and not arguments.json:
            raise ValueError("a snapshot is no text: send it into a file (> episode.bin), or give --json")
        with client_of(arguments) as env, progress_line() as show:
            show(f"reading {arguments.episode}")
            env.resume(arguments.episode)
            snapshot = env.export()
        if arguments.json:
            print_line(json_format.MessageToJson(snapshot, preserving_proto_field_name=True, ensure_ascii=False))
        else:
            sys.stdout.buffer.write(snapshot.SerializeToString())
            sys.stdout.buffer.flush()
        return 0

    return reporting(NAME, work)
