"""`chatenv-rl completion`: makes a shell complete the commands and their flags. Needs shtab, the extra `completion`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from chatenv_client.distribution import DISTRIBUTION, needing
from chatenv_server.commands.connection import reporting

NAME: Final = "completion"
HELP: Final = "a script that makes your shell complete commands and flags"

_SHELLS: Final = ("bash", "zsh", "tcsh")
_OF_FILES: Final = ("FILE", "FOLDER", "OUT", "EPISODE|FILE|FOLDER", "TOKENIZER")
"""Names of arguments that files are given for."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.description = (
        f'Print a script for a shell. bash: eval "$({DISTRIBUTION} {NAME} bash)" in ~/.bashrc. '
        f"zsh: {DISTRIBUTION} {NAME} zsh > a file _{DISTRIBUTION} in a folder of $fpath. Exit code 0: fine. 2: usage."
    )
    parser.add_argument("shell", choices=_SHELLS, help="of which kind the shell is")


def run(arguments: argparse.Namespace) -> int:
    """Print the script; the exit code."""
    with needing("completion", f"{DISTRIBUTION} {NAME}"):
        import shtab

    def work() -> int:
        for action in _actions(arguments.parser):
            if action.type is Path or action.metavar in _OF_FILES:
                action.complete = shtab.FILE
        _describe_shortly(arguments.parser)
        sys.stdout.write(shtab.complete(arguments.parser, arguments.shell) + "\n")
        return 0

    return reporting(NAME, work)


def _describe_shortly(parser: argparse.ArgumentParser) -> None:
    """Give subcommands their one line of help as a description: a shell shows no more beside a name."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for one in action._choices_actions:
                action.choices[one.dest].description = one.help


def _actions(parser: argparse.ArgumentParser) -> Iterator[Any]:
    """All arguments of a parser and of its subcommands."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for one in action.choices.values():
                yield from _actions(one)
