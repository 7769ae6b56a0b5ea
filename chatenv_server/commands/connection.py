"""How the subcommands that talk to a server reach it, and what their exit codes mean."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import grpc

from chatenv_client import (
    AccessError,
    ChatEnv,
    ChatEnvError,
    DeadlineError,
    EpisodeNotFoundError,
    Tls,
    UnavailableError,
)
from chatenv_client.channel import open_channel
from chatenv_client.distribution import DISTRIBUTION
from chatenv_server.commands.output import printable
from chatenv_server.settings import variables

EXIT_FAILED: Final = 1
"""The server does not answer, is not healthy, or refused."""
EXIT_USAGE: Final = 2
"""Something on the command line is wrong, or what it names is not there; argparse has the same."""

EXIT_CODES: Final = "Exit code 0: fine. 1: the server is not healthy, not there, or refused. 2: usage."

_NEXT_STEPS: Final = (
    (UnavailableError, f"--address or {variables.ADDRESS} says where it is, and `chatenv-server` starts one"),
    (EpisodeNotFoundError, f"`{DISTRIBUTION} episodes` lists those that are live"),
    (AccessError, f"--bearer-token-file or {variables.BEARER_TOKEN} gives the token"),
    (DeadlineError, "--timeout gives it more time"),
)
"""What a person at a command line can do about an error, beside what it says to programs."""

DEFAULT_ADDRESS: Final = "localhost:50051"
DEFAULT_TIMEOUT_S: Final = 10.0


def add_connection_arguments(parser: argparse.ArgumentParser, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
    """Declare what names the server, and `--json`."""
    parser.add_argument(
        "--address",
        default=os.environ.get(variables.ADDRESS) or DEFAULT_ADDRESS,
        help=f"HOST:PORT or unix:///PATH [{variables.ADDRESS}; default: {DEFAULT_ADDRESS}]",
    )
    parser.add_argument("--tls", action="store_true", help="speak TLS, trusting the usual authorities")
    parser.add_argument("--tls-ca", metavar="FILE", help="PEM file that vouches for the server; turns TLS on")
    parser.add_argument("--tls-certificate", metavar="FILE", help="client certificate, for mTLS")
    parser.add_argument("--tls-key", metavar="FILE", help="its key")
    parser.add_argument(
        "--bearer-token-file",
        metavar="FILE",
        default=os.environ.get(variables.BEARER_TOKEN_FILE) or None,
        help=f"token for the server [{variables.BEARER_TOKEN_FILE}, or the token itself in {variables.BEARER_TOKEN}]",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=timeout_s,
        metavar="SECONDS",
        help=f"for each call; default: {timeout_s:g}",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def reporting(name: str, work: Callable[[], int]) -> int:
    """Do the work of a subcommand; its exit code. What goes wrong is told in one line, and so are warnings.

    Raises:
        BrokenPipeError: nobody reads any more what the work prints.
    """
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: tell(name, str(message))
            return work()
    except ChatEnvError as error:
        next_steps = "".join(f"; {step}" for kind, step in _NEXT_STEPS if isinstance(error, kind))
        return _told(name, f"{error.reason}: {error.message}{next_steps}", EXIT_FAILED)
    except BrokenPipeError:
        raise  # of standard output: not wrong use
    except OSError as error:
        return _told(name, f"{error.filename}: {error.strerror}" if error.filename else str(error), EXIT_USAGE)
    except ValueError as error:
        return _told(name, str(error), EXIT_USAGE)
    except KeyboardInterrupt:
        return _told(name, "interrupted", EXIT_FAILED)


def tell(name: str, what: str) -> None:
    """Tell a person what a subcommand doesn't print: one line on standard error."""
    sys.stderr.write(f"{DISTRIBUTION} {name}: {printable(what)}\n")


def _told(name: str, what: str, code: int) -> int:
    tell(name, what)
    return code


@contextmanager
def channel_of(arguments: argparse.Namespace) -> Iterator[grpc.Channel]:
    """A channel to the server that the arguments name.

    Raises:
        OSError: a file cannot be read.
        ValueError: the address is none, or a variable is misspelt.
    """
    variables.refuse_misspelt(os.environ)
    channel = open_channel(arguments.address, tls=_tls(arguments))
    try:
        yield channel
    finally:
        channel.close()


@contextmanager
def client_of(arguments: argparse.Namespace) -> Iterator[ChatEnv]:
    """A client of the server that the arguments name; raises as `channel_of`. It leaves its episode live."""
    with channel_of(arguments) as channel:
        yield ChatEnv(channel, timeout_s=arguments.timeout, token=_token(arguments))


def _tls(arguments: argparse.Namespace) -> Tls | None:
    ca, key, certificate = (
        Path(path).read_bytes() if path else None
        for path in (arguments.tls_ca, arguments.tls_key, arguments.tls_certificate)
    )
    if not (arguments.tls or ca):
        if key or certificate:
            raise ValueError("--tls-certificate and --tls-key need --tls or --tls-ca, which turn TLS on")
        return None
    return Tls(ca, private_key=key, certificate_chain=certificate)


def _token(arguments: argparse.Namespace) -> str | None:
    if arguments.bearer_token_file:
        return Path(arguments.bearer_token_file).read_text(encoding="utf-8").strip()
    return os.environ.get(variables.BEARER_TOKEN) or None
