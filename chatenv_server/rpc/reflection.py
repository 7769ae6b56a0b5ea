"""The schemas that reflection serves: those of the services here, and of the details that their errors carry.

The details have the types of google.rpc, which are written with messages of our own that have the same fields.
Reflection serves their schemas under Google's names, so that grpcurl shows a reason and a field instead of base64.
"""

from __future__ import annotations

from typing import Any, Final

from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from chatenv_client._generated import chatenv_pb2, status_pb2

_SERVED: Final[tuple[Any, ...]] = (chatenv_pb2, health_pb2, reflection_pb2)


def reflected_schemas() -> DescriptorPool:
    """The schemas in a pool of their own: another import may have put Google's messages into the default one."""
    pool = DescriptorPool()
    for module in _SERVED:
        _add(pool, module.DESCRIPTOR)
    pool.AddSerializedFile(_error_details().SerializeToString())
    return pool


def _add(pool: DescriptorPool, file: Any) -> None:
    for dependency in file.dependencies:
        _add(pool, dependency)
    pool.AddSerializedFile(file.serialized_pb)


def _error_details() -> FileDescriptorProto:
    file = FileDescriptorProto(name="google/rpc/error_details.proto", package="google.rpc", syntax="proto3")
    for message in (status_pb2.ErrorInfo, status_pb2.BadRequest):
        schema = file.message_type.add()
        message.DESCRIPTOR.CopyToProto(schema)
        for field in filter(lambda field: field.type_name, schema.field):
            field.type_name = field.type_name.replace(".chatenv.v1.", ".google.rpc.")
    return file
