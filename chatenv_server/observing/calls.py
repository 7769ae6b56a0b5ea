"""What is done around every call of our own: timing it, and what others put there."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import wraps
from typing import Any

import grpc

from chatenv_server.observing.telemetry import Telemetry

Around = Callable[[grpc.ServicerContext], AbstractContextManager[None]]
"""What is done around one call, opened by the thread that takes it up."""


class CallTimer(grpc.ServerInterceptor):
    """Measures every call of ours: how long it waited for a thread, and how long it took from then on."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry

    def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Any], handler_call_details: grpc.HandlerCallDetails
    ) -> Any:
        """The method with a clock around it. gRPC asks for it when the call arrives."""
        arrived = time.perf_counter()
        handler = continuation(handler_call_details)
        if not is_ours(handler_call_details.method):
            return handler
        method = handler_call_details.method.rpartition("/")[2]
        return surrounded(handler, lambda context: self._timed(method, arrived, context))

    @contextmanager
    def _timed(self, method: str, arrived: float, context: grpc.ServicerContext) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            took_s = time.perf_counter() - began
            self._telemetry.call_ended(method, code_of(context).name, began - arrived, took_s)


def is_ours(path: str) -> bool:
    """Whether a method is one of chatenv's, by its path."""
    return path.startswith("/chatenv.")


def surrounded(handler: Any, around: Around) -> Any:
    """A method behind `CallGuard` with something done around each call; None, an unknown method, stays None.

    Behind the guard all methods read their requests from an iterator.
    """
    if handler is None:
        return None

    if handler.response_streaming:
        streaming = handler.stream_stream

        @wraps(streaming)  # which also keeps the threads that the method asks for
        def stream(requests: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            with around(context):
                yield from streaming(requests, context)

        return grpc.stream_stream_rpc_method_handler(stream, handler.request_deserializer, handler.response_serializer)

    answering = handler.stream_unary

    @wraps(answering)
    def call(requests: Any, context: grpc.ServicerContext) -> Any:
        with around(context):
            return answering(requests, context)

    return grpc.stream_unary_rpc_method_handler(call, handler.request_deserializer, handler.response_serializer)


def code_of(context: Any) -> grpc.StatusCode:
    """How a call ended, once it has; CANCELLED where nobody waited for the answer any more."""
    code: grpc.StatusCode | None = context.code()
    if code is not None:
        return code
    return grpc.StatusCode.OK if context.is_active() else grpc.StatusCode.CANCELLED
