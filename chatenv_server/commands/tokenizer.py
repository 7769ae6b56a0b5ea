"""`chatenv-rl tokenizer export`: the built-in tokenizer as a folder that a trainer loads. Needs no server."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

from chatenv_client.distribution import DISTRIBUTION, needing
from chatenv_server.commands.connection import reporting
from chatenv_server.commands.output import print_json, print_line, printable

NAME: Final = "tokenizer"
HELP: Final = "write the built-in tokenizer as a Hugging Face folder, for a trainer"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.description = "The built-in tokenizer, which a server without a TOKENIZER has. Exit code 0: fine. 2: usage."
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    export = actions.add_parser("export", help="write it as a folder that AutoTokenizer.from_pretrained loads")
    export.add_argument("folder", type=Path, metavar="FOLDER", help="where to write it; made where it is not there")
    export.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Write the folder; the exit code."""
    with needing("server", f"{DISTRIBUTION} {NAME}"):
        from chatenv_server.tokenizer_files.exporting import export_embedded

    def work() -> int:
        export_embedded(arguments.folder)
        if arguments.json:
            print_json({"folder": str(arguments.folder)})
        else:
            print_line(printable(f"written to {arguments.folder}: AutoTokenizer.from_pretrained loads it"))
        return 0

    return reporting(NAME, work)
