"""Stands before every method: who may call, how many at once, and what becomes of a failure."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError

from chatenv_client.errors import InvalidRequestError
from chatenv_server.access import BearerToken
from chatenv_server.failures import status_of
from chatenv_server.gate import Gate
from chatenv_server.telemetry import Telemetry

DETAILS_KEY: Final = "grpc-status-details-bin"

_HEALTH: Final = "/grpc.health.v1.Health/"
_OURS: Final = "/chatenv."

_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}


class CallGuard(grpc.ServerInterceptor):
    """Guards the methods of a server: health is open to all, ours pass the gate, everything else needs the token."""

    def __init__(self, gate: Gate, telemetry: Telemetry, token: BearerToken | None = None) -> None:
        self._gate = gate
        self._telemetry = telemetry
        self._token = token
        self._guarded: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler[Any, Any] | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """The guarded method. gRPC calls this in its one polling thread, so it only looks up."""
        method = handler_call_details.method
        guarded = self._guarded.get(method)
        if guarded is None:
            handler = continuation(handler_call_details)
            if handler is None or method.startswith(_HEALTH):
                return handler
            guarded = self._guarded[method] = self._guard(method, handler)
        return guarded

    def _guard(self, method: str, handler: Any) -> grpc.RpcMethodHandler[Any, Any]:
        admitting = method.startswith(_OURS)
        if handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(
                self._guarded_stream(method, handler.stream_stream, admitting),
                _tolerant(handler.request_deserializer),
                handler.response_serializer,
            )
        return grpc.unary_unary_rpc_method_handler(
            self._guarded_call(method, handler.unary_unary, admitting),
            _tolerant(handler.request_deserializer),
            handler.response_serializer,
        )

    def _guarded_call(self, method: str, answer: Callable[..., Any], admitting: bool) -> Callable[..., Any]:
        def call(request: Any, context: grpc.ServicerContext) -> Any:
            began = time.perf_counter()
            try:
                self._admit(context, admitting)
                try:
                    return answer(_decoded(request), context)
                finally:
                    self._leave(admitting)
            except Exception as error:  # noqa: BLE001 - none may reach gRPC, which would send its text
                failure = error
            # Outside the `except`: abort raises a bare Exception, which is gRPC's to catch.
            return self._abort(context, method, failure, began)

        return call

    def _guarded_stream(self, method: str, answer: Callable[..., Any], admitting: bool) -> Callable[..., Any]:
        def stream(requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
            began = time.perf_counter()
            try:
                self._admit(context, admitting)
                try:
                    yield from answer(map(_decoded, requests), context)
                finally:
                    self._leave(admitting)
            except Exception as error:  # noqa: BLE001 - none may reach gRPC, which would send its text
                failure = error
            else:
                return
            self._abort(context, method, failure, began)

        return stream

    def _admit(self, context: grpc.ServicerContext, admitting: bool) -> None:
        if self._token is not None:
            self._token.check(context.invocation_metadata())
        if admitting:
            self._gate.enter()

    def _leave(self, admitting: bool) -> None:
        if admitting:
            self._gate.leave()

    def _abort(self, context: grpc.ServicerContext, method: str, failure: Exception, began: float) -> None:
        seconds = time.perf_counter() - began
        status = status_of(failure, method=method, seconds=seconds, telemetry=self._telemetry)
        context.set_trailing_metadata(((DETAILS_KEY, status.SerializeToString()),))
        context.abort(_CODES[status.code], status.message)


def _tolerant(deserialize: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """Bytes that are no message, as an error to raise later. From gRPC itself they would get INTERNAL."""

    def decode(encoded: bytes) -> Any:
        try:
            return deserialize(encoded)
        except DecodeError as error:
            return error

    return decode


def _decoded(request: Any) -> Any:
    if isinstance(request, DecodeError):
        raise InvalidRequestError(
            "the request is not a protobuf message of this method; make it with the stubs of this version",
            reason="MALFORMED_REQUEST",
        ) from request
    return request
