"""`chatenv-rl import`: takes up an episode that `export` wrote."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Final

from google.protobuf import json_format
from google.protobuf.message import DecodeError

from chatenv_client import EpisodeSnapshot, InvalidRequestError, Reason
from chatenv_client.distribution import DISTRIBUTION
from chatenv_server.commands.connection import EXIT_CODES, add_connection_arguments, client_of, reporting
from chatenv_server.commands.output import print_json, print_line, printable, progress_line

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
        snapshot = snapshot_in(given, "standard input" if arguments.file == "-" else arguments.file)
        with client_of(arguments) as env, progress_line() as show:
            show(f"sending {len(given):,} bytes")
            observation = env.import_episode(snapshot, arguments.id).observation
        if arguments.json:
            counts = {"step_count": observation.step_count, "token_count": len(observation.stream)}
            print_json({"episode_id": observation.episode_id, **counts})
        else:
            print_line(printable(observation.episode_id))
        return 0

    return reporting(NAME, work)


def snapshot_in(given: bytes, name: str) -> EpisodeSnapshot:
    """What a file of that name holds. No snapshot's bytes begin with a brace: no field of one has such a tag.

    Raises:
        InvalidRequestError: it is no snapshot.
    """
    try:
        if given.lstrip().startswith(b"{"):
            snapshot = json_format.Parse(given, EpisodeSnapshot())
        else:
            snapshot = EpisodeSnapshot.FromString(given)
    except DecodeError as error:
        raise _no_snapshot(name, "it is neither the bytes of one nor its JSON, or it is cut off") from error
    except (json_format.ParseError, UnicodeDecodeError, RecursionError) as error:
        raise _no_snapshot(name, f"its JSON is that of something else, or cut off ({_first_line(error)})") from error
    if not snapshot.entries:
        raise _no_snapshot(name, "there is no episode in it")
    return snapshot


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _no_snapshot(name: str, why: str) -> InvalidRequestError:
    what = f"{name} is no exported episode: {why}; write one with `{DISTRIBUTION} export ID > FILE`"
    return InvalidRequestError(what, reason=Reason.BAD_SNAPSHOT, field="snapshot")
