"""Opens gRPC channels to a chatenv server: message limits, keepalive, retries, TLS.

Knows nothing of episodes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Final

import grpc
import grpc.aio

from chatenv_client._generated import chatenv_pb2 as pb

DEFAULT_MAX_MESSAGE_BYTES: Final = 64 * 1024 * 1024
"""Largest message either way, the same on both sides: 16 million tokens. gRPC's own default is 4 MiB."""

KEEPALIVE_TIME_MS: Final = 30_000
"""Pause between pings while a call is in flight. A server has to allow it, or it hangs up on who pings."""

_KEEPALIVE_TIMEOUT_MS: Final = 10_000

# Backoffs of 0.1, 0.2, 0.4 and 0.8 s, each jittered by gRPC, span the restart of a proxy and not more.
_RETRY_POLICY: Final = {
    "maxAttempts": 5,
    "initialBackoff": "0.1s",
    "maxBackoff": "1s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}

_FOREIGN_SCHEMES: Final = ("http://", "https://", "grpc://", "grpcs://", "tcp://")


@dataclass(frozen=True)
class Tls:
    """Certificates for a channel, each as PEM bytes. `Tls()` trusts the roots that gRPC brings along."""

    root_certificates: bytes | None = None
    """Whom to trust as a server."""
    private_key: bytes | None = field(default=None, repr=False)
    """Of this client, for servers that ask who calls (mTLS)."""
    certificate_chain: bytes | None = None
    """Of this client, together with `private_key`."""

    def credentials(self) -> grpc.ChannelCredentials:
        """The certificates as gRPC wants them."""
        return grpc.ssl_channel_credentials(self.root_certificates, self.private_key, self.certificate_chain)


def open_channel(
    target: str, *, tls: Tls | None = None, max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES
) -> grpc.Channel:
    """Open a channel. It connects with the first call.

    Args:
        target: `host:port`, `unix:///path` or `dns:///name:port`.
        tls: certificates; None is plain text.
        max_message_bytes: largest message either way; to be the same on the server.

    Raises:
        ValueError: the target is a URL of another kind.
    """
    _check_target(target)
    options = channel_options(max_message_bytes)
    if tls is None:
        return grpc.insecure_channel(target, options)
    return grpc.secure_channel(target, tls.credentials(), options)


def channel_to(target: str | grpc.Channel, tls: Tls | None, max_message_bytes: int) -> grpc.Channel:
    """The channel that a client was given, or one to the address that it was given.

    Raises:
        ValueError: the target is a URL of another kind, or an option was given along with a ready channel.
    """
    if isinstance(target, str):
        return open_channel(target, tls=tls, max_message_bytes=max_message_bytes)
    refuse_options_of_ready_channel(tls, max_message_bytes)
    return target


def open_async_channel(
    target: str, *, tls: Tls | None = None, max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES
) -> grpc.aio.Channel:
    """Open a channel for asyncio, inside a running loop; see `open_channel`."""
    _check_target(target)
    options = channel_options(max_message_bytes)
    if tls is None:
        return grpc.aio.insecure_channel(target, options)
    return grpc.aio.secure_channel(target, tls.credentials(), options)


def refuse_options_of_ready_channel(tls: Tls | None, max_message_bytes: int) -> None:
    """Say that a ready channel cannot be changed.

    Raises:
        ValueError: one of the options was given.
    """
    if tls is not None or max_message_bytes != DEFAULT_MAX_MESSAGE_BYTES:
        raise ValueError("tls and max_message_bytes belong to the channel; set them where the channel is opened")


def _check_target(target: str) -> None:
    if target.startswith(_FOREIGN_SCHEMES):
        raise ValueError(
            f"{target!r} is no gRPC target; give 'host:port', 'unix:///path' or 'dns:///name:port', "
            "and tls=Tls() for TLS"
        )


def channel_options(max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES) -> list[tuple[str, int | str]]:
    """Options of a channel to a chatenv server, for callers who open their own."""
    return [
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.keepalive_time_ms", KEEPALIVE_TIME_MS),
        ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
        # An environment is a neighbour; a cluster's web proxy would only break the way to it.
        ("grpc.enable_http_proxy", 0),
        ("grpc.service_config", _service_config()),
        # A request beyond the buffer, 256 KiB by default, is silently not retried.
        ("grpc.per_rpc_retry_buffer_size", max_message_bytes),
    ]


def _service_config() -> str:
    # The client makes every unary call idempotent: Reset names its episode, Step carries step_index.
    service = pb.DESCRIPTOR.services_by_name["ChatEnvService"]
    unary = [method.name for method in service.methods if not method.client_streaming]
    names = [{"service": service.full_name, "method": method} for method in unary]
    return json.dumps({"methodConfig": [{"name": names, "retryPolicy": _RETRY_POLICY}]})
