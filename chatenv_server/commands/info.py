"""`chatenv-rl info`: what a server is and holds."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any, Final

from chatenv_client import RowCount, ServerInfo
from chatenv_server.commands.connection import EXIT_CODES, add_connection_arguments, client_of, reporting
from chatenv_server.commands.output import print_fields, print_json, printable

NAME: Final = "info"
HELP: Final = "what a server is: tokenizer, limits, uptime, live episodes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.description = f"Say what a server is and holds. {EXIT_CODES}"
    add_connection_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Ask and print; the exit code."""

    def work() -> int:
        with client_of(arguments) as env:
            info = env.server_info()
        if arguments.json:
            print_json(info)
        else:
            print_fields(_fields(info))
        return 0

    return reporting(NAME, work)


def _fields(info: ServerInfo) -> dict[str, Any]:
    limits = {field.name: getattr(info.limits, field.name) for field in dataclasses.fields(info.limits)}
    return {
        "version": info.version,
        "uptime": f"{info.uptime_seconds:.0f} s",
        "live episodes": info.live_episodes,
        "live tokens": info.live_tokens,
        "tokenizer": printable(info.tokenizer_name),
        "tokenizer fingerprint": info.tokenizer_fingerprint,
        "template fingerprint": info.chat_template_fingerprint,
        "vocabulary": f"{info.vocabulary_size} tokens; ids from {info.token_id_limit} on are refused",
        "template features": ", ".join(info.features) or "none",
        "turn parser": info.turn_parser,
        "stops at": ", ".join(f"{token.text} ({token.id})" for token in info.special_tokens if token.stops) or "none",
        "tasks": printable(", ".join(info.tasks)) or "none",
        "rows": printable(", ".join(map(_told_rows, info.row_counts))) or "none",
        **{name.replace("_", " "): "none" if value is None else f"{value:,.15g}" for name, value in limits.items()},
    }


def _told_rows(rows: RowCount) -> str:
    return f"{rows.count:,} {rows.split}" + (f" of {rows.task}" if rows.task else "")
