"""Guards every method: checks the token, takes a place at the gate, and makes a status of a failure."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError

from chatenv_client.errors import InvalidRequestError
from chatenv_client.reasons import Reason
from chatenv_server.observing.calls import is_ours
from chatenv_server.observing.telemetry import Telemetry
from chatenv_server.rpc.access import BearerToken
from chatenv_server.rpc.failures import log_and_count, status_of
from chatenv_server.rpc.gate import Gate
from chatenv_server.rpc.workers import UnaryWorkers, refuse_busy

DETAILS_KEY: Final = "grpc-status-details-bin"

_HEALTH: Final = "/grpc.health.v1.Health/"
_BATCHES: Final = "/chatenv.v1.ChatEnvService/Batch"

MAX_OTHER_CALLS: Final = 8
"""Calls at once to reflection, the one service that is neither ours nor health. Its idle streams could otherwise take
every thread."""

_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}


class CallGuard(grpc.ServerInterceptor):
    """Guards the methods of a server. Health is open to all, our methods pass the gate, all others a small gate apart.

    Args:
        gate: lets our calls in.
        telemetry: told of failures.
        token: what callers must carry; None: nothing.
        workers: threads for our unary calls; None: the server's own, and the gate alone refuses.
        batch_workers: threads for our batches, in the place of those.
    """

    def __init__(
        self,
        gate: Gate,
        telemetry: Telemetry,
        token: BearerToken | None = None,
        workers: UnaryWorkers | None = None,
        batch_workers: UnaryWorkers | None = None,
    ) -> None:
        self._gate = gate
        self._others = Gate(MAX_OTHER_CALLS)
        self._others.open()
        self._workers = workers
        self._batch_workers = batch_workers
        self._when_full: dict[str, Any] = {}
        self._telemetry = telemetry
        self._token = token
        self._guarded: dict[str, Any] = {}

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler[Any, Any] | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """The guarded method. gRPC asks for it in its one polling thread, so each is made once and then looked up."""
        method = handler_call_details.method
        guarded = self._guarded.get(method)
        if guarded is None:
            handler: Any = continuation(handler_call_details)
            if handler is None or method.startswith(_HEALTH):
                return handler
            guarded = self._guarded[method] = self._guard(method, handler)
        workers = self._workers_for(method)
        is_full = workers is not None and workers.is_full
        return self._when_full.get(method, guarded) if is_full else guarded

    def _guard(self, method: str, handler: Any) -> Any:
        ours = is_ours(method)
        gate = self._gate if ours else self._others
        if handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(
                self._guarded_stream(method, handler.stream_stream, gate),
                _tolerant(handler.request_deserializer),
                handler.response_serializer,
            )
        call: Any = self._guarded_call(method, handler.unary_unary, gate)
        if (workers := self._workers_for(method)) is not None:
            # gRPC reads here which threads serve a method. If it ever stops to, the server's own take these calls.
            call.experimental_thread_pool = workers
            self._when_full[method] = grpc.unary_unary_rpc_method_handler(self._guarded_call(method, refuse_busy, None))
        return grpc.unary_unary_rpc_method_handler(
            call,
            _tolerant(handler.request_deserializer),
            handler.response_serializer,
        )

    def _workers_for(self, method: str) -> UnaryWorkers | None:
        if method.startswith(_BATCHES):
            return self._batch_workers
        return self._workers if is_ours(method) else None

    def _guarded_call(self, method: str, answer: Callable[..., Any], gate: Gate | None) -> Callable[..., Any]:
        def call(request: Any, context: grpc.ServicerContext) -> Any:
            began = time.perf_counter()
            try:
                self._admit(context, gate)
                try:
                    return answer(_decoded(request), context)
                finally:
                    self._leave(gate)
            except Exception as error:  # noqa: BLE001 - none may reach gRPC, which would send its text
                failure = error
            # Outside the `except`: abort raises a bare Exception, which is gRPC's to catch.
            return self._abort(context, method, failure, began)

        return call

    def _guarded_stream(self, method: str, answer: Callable[..., Any], gate: Gate) -> Callable[..., Any]:
        def stream(requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
            began = time.perf_counter()
            try:
                self._admit(context, gate)
                try:
                    yield from answer(map(_decoded, requests), context)
                finally:
                    self._leave(gate)
            except Exception as error:  # noqa: BLE001 - none may reach gRPC, which would send its text
                failure = error
            else:
                return
            self._abort(context, method, failure, began)

        return stream

    def _admit(self, context: grpc.ServicerContext, gate: Gate | None) -> None:
        if self._token is not None:
            self._token.check(context.invocation_metadata())
        if gate is not None:
            gate.enter()

    def _leave(self, gate: Gate | None) -> None:
        if gate is not None:
            gate.leave()

    def _abort(self, context: grpc.ServicerContext, method: str, failure: Exception, began: float) -> None:
        seconds = time.perf_counter() - began
        log_and_count(failure, method=method, seconds=seconds, telemetry=self._telemetry)
        status = status_of(failure)
        context.set_trailing_metadata(((DETAILS_KEY, status.SerializeToString()),))
        context.abort(_CODES[status.code], status.message)


def _tolerant(deserialize: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """A deserializer that returns its error, which the guarded call then raises. gRPC itself would answer INTERNAL."""

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
            reason=Reason.MALFORMED_REQUEST,
        ) from request
    return request
