"""`chatenv-rl import`: takes up an episode that `export` wrote."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Final

from google.protobuf import json_format

from chatenv_client import EpisodeSnapshot, InvalidRequestError, Reason
from chatenv_server.commands.connection import EXIT_CODES, add_connection_arguments, client_of, reporting
from chatenv_server.commands.output import print_json, print_line, printable

NAME: Final = "import"
HELP: Final = "take up an episode that `export` wrote, on this server or another"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.description = f"Let an exported episode live on a server, and print its id. {EXIT_CODES}"
    parser.add_argument("file", metavar="FILE", help="what `export` wrote, bytes or JSON; -: standard input")
    parser.add_argument("--id", metavar="ID", help="the id that it gets; default: its own")
    add_connection_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Read, send and print; the exit code."""

    def work() -> int:
        given = sys.stdin.buffer.read() if arguments.file == "-" else Path(arguments.file).read_bytes()
        with client_of(arguments) as env:
            observation = env.import_episode(_snapshot(given), arguments.id).observation
        if arguments.json:
            counts = {"step_count": observation.step_count, "token_count": len(observation.stream)}
            print_json({"episode_id": observation.episode_id, **counts})
        else:
            print_line(printable(observation.episode_id))
        return 0

    return reporting(NAME, work)


def _snapshot(given: bytes) -> EpisodeSnapshot | bytes:
    """What a file holds. No snapshot's bytes begin with a brace: no field of one has such a tag."""
    if not given.lstrip().startswith(b"{"):
        return given
    try:
        return json_format.Parse(given, EpisodeSnapshot())
    except (json_format.ParseError, UnicodeDecodeError, RecursionError) as error:
        what = f"the snapshot cannot be read: {error}; export the episode again"
        raise InvalidRequestError(what, reason=Reason.BAD_SNAPSHOT, field="snapshot") from error
