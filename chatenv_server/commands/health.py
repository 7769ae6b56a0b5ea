"""`chatenv-rl health`: whether a server serves."""

from __future__ import annotations

import argparse
from typing import Any, Final

import grpc

from chatenv_client.health import SERVING, health_of
from chatenv_server.commands.connection import (
    EXIT_CODES,
    EXIT_FAILED,
    add_connection_arguments,
    channel_of,
    reporting,
)
from chatenv_server.commands.output import print_json, print_line

NAME: Final = "health"
HELP: Final = "whether a server serves, as an exit code"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.description = f"Ask grpc.health.v1 whether a server serves. Needs no token. {EXIT_CODES}"
    add_connection_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Ask and print; the exit code."""

    def work() -> int:
        status, detail = _ask(arguments)
        if arguments.json:
            print_json({"address": arguments.address, "status": status, "detail": detail}, indent=None)
        else:
            print_line(f"{arguments.address} {status}" + (f": {detail}" if detail else ""))
        return 0 if status == SERVING else EXIT_FAILED

    return reporting(NAME, work)


def _ask(arguments: argparse.Namespace) -> tuple[str, str]:
    """The status, by health's name or that of a failed call, and why it failed."""
    with channel_of(arguments) as channel:
        try:
            return health_of(channel, timeout_s=arguments.timeout), ""
        except grpc.RpcError as error:
            failed: Any = error
            return failed.code().name, failed.details()
