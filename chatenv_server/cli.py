"""The command `chatenv`: hands over to a subcommand. The server has a command of its own, `chatenv-server`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Final

from chatenv_client._version import __version__
from chatenv_server.commands import chat, doctor, health, info, state

_COMMANDS: Final = (health, info, chat, state, doctor)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand; the exit code."""
    parser = argparse.ArgumentParser(
        prog="chatenv", description="Chat environments for RL trainers of language models."
    )
    parser.add_argument("--version", action="version", version=f"chatenv {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in _COMMANDS:
        subparser = commands.add_parser(command.NAME, help=command.HELP)
        command.add_arguments(subparser)
        subparser.set_defaults(run=command.run)
    parsed = parser.parse_args(arguments)
    code: int = parsed.run(parsed)
    return code


if __name__ == "__main__":
    sys.exit(main())
