"""The command `chatenv-rl`: hands over to a subcommand. The server has a command of its own, `chatenv-server`."""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys
from collections.abc import Sequence
from typing import Final

from chatenv_client._version import __version__
from chatenv_client.distribution import DISTRIBUTION, MissingExtraError
from chatenv_server.commands import (
    chat,
    completion,
    doctor,
    episodes,
    export,
    fail,
    fork,
    health,
    import_episode,
    info,
    openenv,
    reward,
    state,
    tokenizer,
    trajectories,
    view,
)
from chatenv_server.commands.connection import EXIT_USAGE

EXIT_NOBODY_READS: Final = 128 + signal.SIGPIPE
"""What a shell shows of a program that a broken pipe ended."""

_COMMANDS: Final = (
    health,
    info,
    episodes,
    chat,
    state,
    view,
    reward,
    fail,
    trajectories,
    export,
    import_episode,
    fork,
    doctor,
    tokenizer,
    openenv,
    completion,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand; the exit code."""
    parser = argparse.ArgumentParser(
        prog=DISTRIBUTION, description="Chat environments for RL trainers of language models."
    )
    parser.add_argument("--version", action="version", version=f"{DISTRIBUTION} {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in _COMMANDS:
        subparser = commands.add_parser(command.NAME, help=command.HELP)
        command.add_arguments(subparser)
        subparser.set_defaults(run=command.run)
    parser.set_defaults(parser=parser)
    parsed = parser.parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # what the terminal's encoding has not is spelt out
    try:
        code: int = parsed.run(parsed)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader, such as `head`, has closed the pipe. At its end Python would still try to write the rest.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_NOBODY_READS
    except MissingExtraError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_USAGE
    return code


if __name__ == "__main__":
    sys.exit(main())
