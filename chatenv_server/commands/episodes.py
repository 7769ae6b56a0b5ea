"""`chatenv-rl episodes`: the live episodes of a server. Changes nothing."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Final

from chatenv_client import EpisodeSummary
from chatenv_server.commands.connection import EXIT_CODES, add_connection_arguments, client_of, reporting, tell
from chatenv_server.commands.output import print_json, print_line, printable
from chatenv_server.commands.terminal import Terminal

NAME: Final = "episodes"
HELP: Final = "the live episodes of a server, newest use first"

_UNITS: Final = (("d", 86400), ("h", 3600), ("min", 60))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.description = (
        f"List the live episodes of a server, newest use first, one a line. With --json each is an object. {EXIT_CODES}"
    )
    parser.add_argument("--prefix", default="", metavar="TEXT", help="only episodes whose id begins with it")
    add_connection_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Read page by page and print; the exit code."""

    def work() -> int:
        is_empty, terminal = True, Terminal.of(sys.stdout)
        with client_of(arguments) as env:
            for episode in env.episodes(arguments.prefix):
                is_empty = False
                if arguments.json:
                    print_json(episode, indent=None)
                else:
                    print_line(_line(episode, time.time(), terminal))
        if is_empty:
            ids = f" whose id begins with {arguments.prefix}" if arguments.prefix else ""
            tell(NAME, f"no episode{ids} is live on {arguments.address}")
        return 0

    return reporting(NAME, work)


def _line(episode: EpisodeSummary, now: float, terminal: Terminal) -> str:
    end = ", terminated" * episode.terminated + ", truncated" * episode.truncated + ", failed" * episode.failed
    counts = f"{episode.step_count} steps, {episode.token_count} tokens, {episode.message_count} messages"
    opened, used = (_ago(now - moment) for moment in (episode.created_unix_seconds, episode.last_used_unix_seconds))
    name = terminal.paint(printable(episode.episode_id), "bold")
    return f"{name}  {counts}, opened {opened}, used {used}{terminal.paint(end, 'red' if episode.failed else 'soft')}"


def _ago(seconds: float) -> str:
    for unit, length in _UNITS:
        if seconds >= length:
            return f"{seconds / length:.0f} {unit} ago"
    return f"{max(0.0, seconds):.0f} s ago"
