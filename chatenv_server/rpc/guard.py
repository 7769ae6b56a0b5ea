"""Guards every method: who may call is asked before a request is read, and whatever is raised becomes a status."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final, NoReturn

import grpc

from chatenv_client._generated import status_pb2
from chatenv_client.calls import DETAILS_KEY
from chatenv_client.errors import ChatEnvError
from chatenv_server.rpc import access
from chatenv_server.rpc.access import BearerToken
from chatenv_server.rpc.arrivals import Arrival
from chatenv_server.rpc.crew import Crew
from chatenv_server.rpc.failures import Failed, FailureLog, status_of
from chatenv_server.rpc.traffic import Load
from chatenv_server.workers import INLINE

_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}

Handler = Any
"""A `grpc.RpcMethodHandler`, whose type names none of its fields."""


class CallGuard(grpc.ServerInterceptor):
    """Guards the methods of a server. Health is open to all; others ask for the token, and have room for so many calls.

    Args:
        crew: takes calls in and works on them.
        failures: told of those that fail.
        token: what callers must carry; None: nothing.
    """

    def __init__(self, crew: Crew, failures: FailureLog, token: BearerToken | None = None) -> None:
        self._crew = crew
        self._failures = failures
        self._token = token
        self._methods: dict[str, GuardedMethod] = {}

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Handler | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """How one call is to be answered. gRPC asks in its one polling thread, before it reads the request."""
        path = handler_call_details.method
        method = self._methods.get(path)
        if method is None:
            handler = continuation(handler_call_details)
            if handler is None:
                return None
            method = self._methods[path] = GuardedMethod(path, handler, self._crew, self._failures)
        if not (method.is_open_to_all or self._admits(handler_call_details.invocation_metadata or ())):
            return method.refused(access.refusal)
        if method.gate is not None and (refusal := method.gate.refusal()) is not None:
            return method.refused(refusal)
        return method.next_call()

    def _admits(self, metadata: Any) -> bool:
        return self._token is None or self._token.opens(metadata)


class GuardedMethod:
    """One method behind the guard.

    Args:
        path: of the method.
        handler: the method itself.
        crew: takes calls in and works on them.
        failures: told of those that fail.
    """

    def __init__(self, path: str, handler: Handler, crew: Crew, failures: FailureLog) -> None:
        self._path = path
        self._handler = handler
        self._failures = failures
        part = crew.part_for(path)
        self.is_open_to_all = part.is_open_to_all
        self.gate = part.gate
        self._place: AbstractContextManager[None] = nullcontext() if part.gate is None else part.gate
        self._traffic = part.traffic
        self._arrivals = part.arrivals
        self._workers = part.workers
        self._parser = part.parser(path, handler.request_deserializer)

    def next_call(self) -> Handler:
        """How the next call is answered.

        All methods are made to read their requests from an iterator. On the wire that is the same, and it is gRPC's one
        way to answer a call whose request has not been read.
        """
        if self._arrivals is None:
            return self._streaming(self._stream, self._workers)
        arrival = Arrival(self._arrivals)
        if self._handler.response_streaming:
            return self._streaming(lambda _, context: self._answers(arrival, context), arrival)
        return self._unary(lambda context: self._answer(arrival, context), arrival)

    def refused(self, refusal: Callable[[], ChatEnvError]) -> Handler:
        """A handler that answers with an error, on the spot and without reading."""

        def refuse(_context: grpc.ServicerContext) -> bytes:
            raise refusal()

        return self._unary(refuse, INLINE)

    # -- the work of a call -----------------------------------------------------------------------

    def _answer(self, arrival: Arrival, context: grpc.ServicerContext) -> bytes:
        encoded = arrival.request()
        load = Load(self._traffic, len(encoded))
        try:
            load.add(0)  # refused if answers have filled the room while this call waited
            with self._place:
                request = self._parser.message(encoded, load)
                del encoded
                arrival.episode_id = getattr(request, "episode_id", "")
                answer: bytes = self._handler.response_serializer(self._handler.unary_unary(request, context))
        finally:
            load.end()
        self._traffic.answer(context, len(answer))
        return answer

    def _answers(self, arrival: Arrival, context: grpc.ServicerContext) -> Iterator[Any]:
        encoded = arrival.request()
        load = Load(self._traffic, len(encoded))
        try:
            request = self._parser.message(encoded, load)
            del encoded
        finally:
            load.end()
        yield from self._handler.unary_stream(request, context)

    def _stream(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[Any]:
        with self._place:
            yield from self._handler.stream_stream(map(self._stream_request, requests), context)

    def _stream_request(self, encoded: bytes) -> Any:
        load = Load(self._traffic, 0)
        try:
            return self._parser.message(encoded, load)
        finally:
            load.end()

    # -- handlers around it -----------------------------------------------------------------------

    def _unary(self, answer: Callable[[grpc.ServicerContext], bytes], threads: ThreadPoolExecutor) -> Handler:
        def call(_requests: Any, context: grpc.ServicerContext) -> bytes:
            began = time.perf_counter()
            try:
                return answer(context)
            except BaseException as error:  # noqa: BLE001 - whatever it is, the caller gets an answer
                episode_id = threads.episode_id if isinstance(threads, Arrival) else ""
                status = self._status(error, context, began, episode_id)
            # Outside the `except`: abort raises a bare Exception, which is gRPC's to catch. The failure is gone by
            # then: a variable that held it would be in a cycle with this frame, and keep the request.
            return _abort(context, status)

        call.experimental_thread_pool = threads  # type: ignore[attr-defined] # where gRPC looks for them
        return grpc.stream_unary_rpc_method_handler(call, _arrived(threads), None)

    def _streaming(
        self, answers: Callable[[Any, grpc.ServicerContext], Iterator[Any]], threads: ThreadPoolExecutor
    ) -> Handler:
        def stream(requests: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            began = time.perf_counter()
            try:
                yield from answers(requests, context)
            except GeneratorExit:  # nobody takes the answers any more
                raise
            except grpc.RpcError as error:  # the caller hung up, which is no failure
                # gRPC keeps the error for as long as the call, and it would keep the call and its requests.
                error.with_traceback(None)
                return
            except BaseException as error:  # noqa: BLE001 - whatever it is, the caller gets an answer
                status = self._status(error, context, began)
            else:
                return
            _abort(context, status)

        stream.experimental_thread_pool = threads  # type: ignore[attr-defined] # where gRPC looks for them
        return grpc.stream_stream_rpc_method_handler(stream, _arrived(threads), self._handler.response_serializer)

    def _status(
        self, failure: BaseException, context: grpc.ServicerContext, began: float, episode_id: str = ""
    ) -> status_pb2.RpcStatus:
        seconds = time.perf_counter() - began
        method = self._path.rpartition("/")[2]
        self._failures.write(failure, Failed(method, context.peer(), episode_id, seconds))
        return status_of(failure)


def _arrived(threads: ThreadPoolExecutor) -> Callable[[bytes], Any] | None:
    """What gRPC is to do with the bytes of a request: an arrival takes them, and nobody parses them here."""
    return threads.arrived if isinstance(threads, Arrival) else None


def _abort(context: grpc.ServicerContext, status: status_pb2.RpcStatus) -> NoReturn:
    context.set_trailing_metadata(((DETAILS_KEY, status.SerializeToString()),))
    context.abort(_CODES[status.code], status.message)
    raise AssertionError("abort returned")
