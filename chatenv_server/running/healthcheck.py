"""`python -m chatenv_server.running.healthcheck`: whether a server serves, as an exit code.

For the probes of containers.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import grpc

from chatenv_client import Tls
from chatenv_client.distribution import MissingExtraError, needing
from chatenv_client.health import SERVING, health_of

try:
    with needing("server", "the health check"):
        from chatenv_server.running.listeners import reachable
        from chatenv_server.settings.settings import Settings, read_settings
except MissingExtraError as error:
    sys.stderr.write(f"{error}\n")
    sys.exit(2)


def main(arguments: Sequence[str] | None = None) -> int:
    """0 if the server serves, 1 if it does not or cannot be asked; then standard error says why."""
    options = _parser().parse_args(arguments)
    try:
        settings = read_settings([], os.environ)
        status = _ask(options, settings)
    except (OSError, ValueError) as error:
        return _unhealthy(str(error))
    except grpc.RpcError as error:
        return _unhealthy(f"{error.code().name}: {error.details()}")
    return 0 if status == SERVING else _unhealthy(status)


def _unhealthy(why: str) -> int:
    sys.stderr.write(f"not serving: {why}\n")
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m chatenv_server.running.healthcheck", description="Exits with 0 if a chatenv server serves."
    )
    parser.add_argument("--address", help="HOST:PORT or unix:///PATH; default: the first of CHATENV_LISTEN")
    parser.add_argument("--timeout", type=float, default=2.0, metavar="SECONDS", help="default: 2")
    parser.add_argument("--tls-ca", metavar="FILE", help="PEM file that vouches for the server; turns TLS on")
    parser.add_argument("--tls-name", metavar="NAME", help="name in the server's certificate; default: the host")
    parser.add_argument("--tls-certificate", metavar="FILE", help="client certificate, for mTLS")
    parser.add_argument("--tls-key", metavar="FILE", help="its key")
    return parser


def _ask(options: argparse.Namespace, settings: Settings) -> str:
    with _channel(options, settings) as channel:
        return health_of(channel, timeout_s=options.timeout, wait_for_ready=True)


def _channel(options: argparse.Namespace, settings: Settings) -> grpc.Channel:
    address = reachable(options.address or settings.listen[0])
    if not options.tls_ca:
        if options.tls_name or options.tls_certificate or options.tls_key:
            raise ValueError("--tls-name, --tls-certificate and --tls-key need --tls-ca, which turns TLS on")
        return grpc.insecure_channel(address)
    credentials = Tls(_read(options.tls_ca), _read(options.tls_key), _read(options.tls_certificate)).credentials()
    names = [("grpc.ssl_target_name_override", options.tls_name)] if options.tls_name else []
    return grpc.secure_channel(address, credentials, options=names)


def _read(path: str | None) -> bytes | None:
    return Path(path).read_bytes() if path else None


if __name__ == "__main__":
    sys.exit(main())
