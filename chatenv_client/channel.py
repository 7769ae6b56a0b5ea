"""Opens gRPC channels to a chatenv server: message limits, keepalive, retries, TLS.

Knows nothing of episodes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import grpc
import grpc.aio

from chatenv_client._generated import chatenv_pb2 as pb

DEFAULT_MAX_MESSAGE_BYTES: Final = 64 * 1024 * 1024
"""Largest message either way, the same on both sides: 16 million tokens. gRPC's own default is 4 MiB."""

KEEPALIVE_TIME_MS: Final = 30_000
"""Pause between pings while a call is in flight. A server that does not allow it closes the connection."""

_KEEPALIVE_TIMEOUT_MS: Final = 10_000

_FIRST_RECONNECT_MS: Final = 200
_LATEST_RECONNECT_MS: Final = 1_000
"""Longest pause between two attempts to connect to a server that is gone; gRPC varies it by a fifth."""

_SERVICE: Final = pb.DESCRIPTOR.services_by_name["ChatEnvService"]

_EVERY_CALL: Final = [method.name for method in _SERVICE.methods if not method.client_streaming]
"""What gRPC may retry for our clients, which make every unary call idempotent: Reset and ForkEpisode name their
episodes, Step carries step_index."""
_NO_OPENINGS: Final = [name for name in _EVERY_CALL if name not in ("Reset", "BatchReset", "ForkEpisode")]
"""What it may retry for whoever builds the requests."""

# Backoffs of 0.1, 0.2, 0.4 and 0.8 s, each jittered by gRPC, span the restart of a proxy and not more.
_RETRY_POLICY: Final = {
    "maxAttempts": 5,
    "initialBackoff": "0.1s",
    "maxBackoff": "1s",
    "backoffMultiplier": 2,
    # A server that ends cancels what it has received and not looked at. No caller's own cancelling is tried again.
    "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
}

AFFINITY_HEADER: Final = "chatenv-affinity"
"""Calls with the same value go to the same server, on a channel with affinity or behind a proxy that hashes it."""

# gRPC reads the name of the header from the service config only where this is set, as of 1.85; it changes nothing else.
_HASH_BY_HEADER_VARIABLE: Final = "GRPC_EXPERIMENTAL_RING_HASH_SET_REQUEST_HASH_KEY"

LOCAL: Final = "local:"
"""How a target begins that leads to no channel; see `connect`."""
_FOREIGN_SCHEMES: Final = ("http://", "https://", "grpc://", "grpcs://", "tcp://")


@dataclass(frozen=True)
class Tls:
    """Certificates for a channel, each as PEM bytes. `Tls()` trusts the root certificates that come with gRPC."""

    root_certificates: bytes | None = None
    """Of the authorities that may sign a server's certificate."""
    private_key: bytes | None = field(default=None, repr=False)
    """Of this client, for servers that ask who calls (mTLS)."""
    certificate_chain: bytes | None = None
    """Of this client, together with `private_key`."""

    def __post_init__(self) -> None:
        """Refuse half a pair, with which gRPC would end the interpreter.

        Raises:
            ValueError: there is a key without a certificate, or a certificate without a key.
        """
        if bool(self.private_key) != bool(self.certificate_chain):
            raise ValueError("a client's certificate and its key come together; give both, or neither")

    def credentials(self) -> grpc.ChannelCredentials:
        """The certificates as gRPC wants them."""
        return grpc.ssl_channel_credentials(self.root_certificates, self.private_key, self.certificate_chain)


def open_channel(
    target: str,
    *,
    tls: Tls | None = None,
    max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES,
    affinity: bool = False,
    own_connection: bool = False,
) -> grpc.Channel:
    """Open a channel. It connects with the first call.

    Args:
        target: `host:port`, `unix:///path`, `dns:///name:port` or `ipv4:host:port,host:port`.
        tls: certificates; None is plain text.
        max_message_bytes: largest message either way; to be the same on the server.
        affinity: whether the calls of an episode stick to one of the servers that the target names.
        own_connection: whether it shares no connection with other channels, as those to one target do otherwise.

    Raises:
        ValueError: the target is a URL of another kind, or begins with `local:`.
    """
    _check_target(target)
    options = _options(max_message_bytes, affinity=affinity, retries=_EVERY_CALL, own_connection=own_connection)
    if tls is None:
        return grpc.insecure_channel(target, options)
    return grpc.secure_channel(target, tls.credentials(), options)


def open_async_channel(
    target: str,
    *,
    tls: Tls | None = None,
    max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES,
    affinity: bool = False,
    own_connection: bool = False,
) -> grpc.aio.Channel:
    """Open a channel for asyncio, inside a running loop; see `open_channel`."""
    _check_target(target)
    options = _options(max_message_bytes, affinity=affinity, retries=_EVERY_CALL, own_connection=own_connection)
    if tls is None:
        return grpc.aio.insecure_channel(target, options)
    return grpc.aio.secure_channel(target, tls.credentials(), options)


def check_ready_channel(channel: object, kind: type, tls: Tls | None, max_message_bytes: int) -> None:
    """Refuse what is no channel, and options that only the opening of a channel can take.

    Raises:
        TypeError: it is no channel of this kind.
        ValueError: one of the options was given.
    """
    if not isinstance(channel, kind):
        name = f"{kind.__module__.partition('._')[0]}.{kind.__name__}"
        raise TypeError(f"give an address, such as 'localhost:50051', or a {name}, not {type(channel).__name__}")
    if tls is not None or max_message_bytes != DEFAULT_MAX_MESSAGE_BYTES:
        raise ValueError("tls and max_message_bytes belong to the channel; set them where the channel is opened")


def _check_target(target: str) -> None:
    if target.startswith(LOCAL) and not target.removeprefix(LOCAL).isdecimal():  # a host may be called so
        raise ValueError(
            f"{target!r} is for `connect`; this client wants the address of a server, and "
            "`chatenv_server.serve` starts one in this process"
        )
    if target.startswith(_FOREIGN_SCHEMES):
        raise ValueError(
            f"{target!r} is no gRPC target; give 'host:port', 'unix:///path' or 'dns:///name:port', "
            "and tls=Tls() for TLS"
        )


def channel_options(
    max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES, *, affinity: bool = False
) -> list[tuple[str, int | str]]:
    """Options of a channel to a chatenv server, for callers who open their own; arguments as in `open_channel`.

    On such a channel gRPC retries all unary calls but Reset, BatchReset and ForkEpisode: where such a call names no
    episode and only its answer was lost, a retry would leave an episode that nobody knows.
    """
    return _options(max_message_bytes, affinity=affinity, retries=_NO_OPENINGS)


def _options(
    max_message_bytes: int, *, affinity: bool, retries: Sequence[str], own_connection: bool = False
) -> list[tuple[str, int | str]]:
    if affinity:
        os.environ.setdefault(_HASH_BY_HEADER_VARIABLE, "true")
    return [
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.keepalive_time_ms", KEEPALIVE_TIME_MS),
        ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
        # A server is near its clients; the web proxy of a cluster would only break the connection.
        ("grpc.enable_http_proxy", 0),
        ("grpc.service_config", _service_config(affinity, retries)),
        # gRPC would wait up to two minutes before it sees that a server is there again.
        ("grpc.initial_reconnect_backoff_ms", _FIRST_RECONNECT_MS),
        ("grpc.max_reconnect_backoff_ms", _LATEST_RECONNECT_MS),
        # A request beyond the buffer, 256 KiB by default, is silently not retried.
        ("grpc.per_rpc_retry_buffer_size", max_message_bytes),
        # Left out where it is off: a caller of `channel_options` may set it.
        *([("grpc.use_local_subchannel_pool", 1)] if own_connection else []),
    ]


def _service_config(affinity: bool, retries: Sequence[str]) -> str:
    names = [{"service": _SERVICE.full_name, "method": method} for method in retries]
    config: dict[str, Any] = {"methodConfig": [{"name": names, "retryPolicy": _RETRY_POLICY}]}
    if affinity:
        config["loadBalancingConfig"] = [{"ring_hash_experimental": {"requestHashHeader": AFFINITY_HEADER}}]
    return json.dumps(config)
