"""Asks a server for its health, as grpc.health.v1 defines it, without a further package."""

from __future__ import annotations

from typing import Any, Final

import grpc
from google.protobuf.wrappers_pb2 import Int32Value, StringValue

from chatenv_client._generated import chatenv_pb2 as pb

SERVING: Final = "SERVING"

SERVICE: Final = pb.DESCRIPTOR.services_by_name["ChatEnvService"].full_name
"""Name of the service, which health is asked for."""
_STATUSES: Final = ("UNKNOWN", SERVING, "NOT_SERVING", "SERVICE_UNKNOWN")
"""The enum of grpc.health.v1, by number."""


def health_of(channel: grpc.Channel, *, timeout_s: float, wait_for_ready: bool = False) -> str:
    """What a chatenv server says of its health: `SERVING`, `NOT_SERVING`, or another word of grpc.health.v1.

    Args:
        channel: to the server.
        timeout_s: for the call.
        wait_for_ready: whether to go on trying to connect for that long.

    Raises:
        grpc.RpcError: it cannot be asked.
    """
    # On the wire a HealthCheckRequest is a StringValue, and a HealthCheckResponse, whose one field is an enum, an
    # Int32Value.
    check: Any = channel.unary_unary(
        "/grpc.health.v1.Health/Check",
        request_serializer=StringValue.SerializeToString,
        response_deserializer=Int32Value.FromString,
    )
    answer = check(StringValue(value=SERVICE), timeout=timeout_s, wait_for_ready=wait_for_ready)
    return _STATUSES[answer.value] if 0 <= answer.value < len(_STATUSES) else str(answer.value)


def is_serving(channel: grpc.Channel, *, timeout_s: float) -> bool:
    """Whether a chatenv server answers within `timeout_s` seconds that it serves. Waits for a connection that long."""
    try:
        return health_of(channel, timeout_s=timeout_s, wait_for_ready=True) == SERVING
    except grpc.RpcError:
        return False
