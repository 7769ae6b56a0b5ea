"""`chatenv-rl openenv`: a chatenv server behind OpenEnv's protocol. Needs the extra `openenv`."""

from __future__ import annotations

import argparse
from contextlib import suppress
from typing import Final

from chatenv_client.distribution import needing
from chatenv_server.commands.connection import EXIT_CODES, add_connection_arguments, client_of, reporting
from chatenv_server.commands.output import print_line, printable

NAME: Final = "openenv"
HELP: Final = "serve OpenEnv's protocol over a chatenv server"

TIMEOUT_S: Final = 330.0
"""Of each call: a bit more than a server gives a task by default."""
MAX_FRAME_BYTES: Final = 2**26
"""Of a WebSocket; as long as a message to a chatenv server."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.description = (
        "Serve OpenEnv's protocol (/ws, /reset, /step, /state, /health, /schema, /metadata) over the episodes of a "
        f"chatenv server, until interrupted. It asks nobody for a token. {EXIT_CODES}"
    )
    parser.add_argument("--host", default="127.0.0.1", metavar="HOST", help="to listen on; default: 127.0.0.1")
    parser.add_argument("--port", type=int, default=8000, metavar="PORT", help="to listen on; default: 8000")
    add_connection_arguments(parser, TIMEOUT_S)


def run(arguments: argparse.Namespace) -> int:
    """Serve; the exit code."""

    def work() -> int:
        with needing("openenv", "chatenv-rl openenv"):
            import uvicorn

            from chatenv_client.trainers.openenv import openenv_app
        with client_of(arguments) as client:
            info = client.server_info()
            app = openenv_app(client)
            print_line(printable(f"OpenEnv at {arguments.host}:{arguments.port} over {info.tokenizer_name}"))
            with suppress(KeyboardInterrupt):
                uvicorn.run(
                    app, host=arguments.host, port=arguments.port, log_level="warning", ws_max_size=MAX_FRAME_BYTES
                )
        return 0

    return reporting(NAME, work)
