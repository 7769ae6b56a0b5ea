"""What reflection tells beyond the names of services."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from chatenv_client import wire
from chatenv_client.errors import InvalidRequestError
from chatenv_server.running.process import RunningServer


@pytest.fixture
def told(serve: Callable[..., RunningServer]) -> DescriptorPool:
    """What somebody knows who has asked a server for all that its calls and its errors may hold."""
    pool = DescriptorPool()
    symbols = ("chatenv.v1.ChatEnvService", "grpc.health.v1.Health", "google.rpc.ErrorInfo")
    with grpc.insecure_channel(serve().addresses[0]) as channel:
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        questions = [reflection_pb2.ServerReflectionRequest(file_containing_symbol=symbol) for symbol in symbols]
        for answer in stub.ServerReflectionInfo(iter(questions)):
            for file in reversed(answer.file_descriptor_response.file_descriptor_proto):
                pool.AddSerializedFile(file)
    return pool


def test_the_details_of_an_error_can_be_read_by_who_knows_nothing_but_reflection(told: DescriptorPool) -> None:
    error = InvalidRequestError("a", reason="BAD_ROLE", field="messages[0].role", details={"longest": "64"})
    info, bad = (
        GetMessageClass(told.FindMessageTypeByName(detail.type_url.rpartition("/")[2])).FromString(detail.value)
        for detail in wire.error_to_status(error).details
    )
    shown: Any = info
    assert (shown.reason, shown.domain, dict(shown.metadata)) == ("BAD_ROLE", "chatenv", {"longest": "64"})
    shown = bad
    assert [violation.field for violation in shown.field_violations] == ["messages[0].role"]


def test_every_method_is_told(told: DescriptorPool) -> None:
    methods = told.FindServiceByName("chatenv.v1.ChatEnvService").methods_by_name
    assert {"Reset", "Step", "StreamSteps"} <= set(methods)
