"""The RPCs of a chatenv server, to be called on a channel of either kind.

The two kinds differ in what they do with an answer that cannot be read. Here it arrives as the error of reading it, for
`calls.taken` to raise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from chatenv_client._generated.chatenv_pb2_grpc import ChatEnvServiceStub


def stub_of(channel: grpc.Channel | grpc.aio.Channel) -> Any:
    """The RPCs by name. The answer to a unary one is a protobuf message, or the DecodeError in place of one."""
    tolerant: Any = _Tolerant(channel)
    return ChatEnvServiceStub(tolerant)


class _Tolerant:
    """A channel as the stub uses it, whose answers may be anything."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel
        self.stream_stream = channel.stream_stream

    def unary_unary(self, method: str, *, response_deserializer: Callable[[bytes], Any], **keywords: Any) -> Any:
        """As a channel's own."""

        def read(encoded: bytes) -> Any:
            try:
                return response_deserializer(encoded)
            except DecodeError as error:
                return error

        return self._channel.unary_unary(method, response_deserializer=read, **keywords)
