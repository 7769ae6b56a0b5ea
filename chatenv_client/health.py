"""Asks a server for its health, as grpc.health.v1 defines it, without a further package."""

from __future__ import annotations

from typing import Any, Final

import grpc
from google.protobuf.wrappers_pb2 import Int32Value, StringValue

from chatenv_client._generated import chatenv_pb2 as pb

_SERVICE: Final = pb.DESCRIPTOR.services_by_name["ChatEnvService"].full_name
_SERVING: Final = 1


def is_serving(channel: grpc.Channel, *, timeout_s: float) -> bool:
    """Whether a chatenv server answers within `timeout_s` seconds that it serves. Waits for a connection that long."""
    # On the wire a HealthCheckRequest is a StringValue, and a HealthCheckResponse, whose one field is an enum, an
    # Int32Value.
    check: Any = channel.unary_unary(
        "/grpc.health.v1.Health/Check",
        request_serializer=StringValue.SerializeToString,
        response_deserializer=Int32Value.FromString,
    )
    try:
        answer = check(StringValue(value=_SERVICE), timeout=timeout_s, wait_for_ready=True)
    except grpc.RpcError:
        return False
    return bool(answer.value == _SERVING)
