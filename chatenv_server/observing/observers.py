"""Who watches a server from outside, as its settings ask: Prometheus, OpenTelemetry, or nobody."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import wraps
from typing import Any

import grpc

from chatenv_server.observing.telemetry import Telemetry
from chatenv_server.settings.errors import BindError
from chatenv_server.settings.settings import Settings, wrong_setting

Around = Callable[[grpc.ServicerContext], AbstractContextManager[None]]
"""What is done around one call, opened by the thread that takes it up."""


class Observers:
    """Everything that watches one server. With the default settings no call passes through any of it.

    Raises:
        SettingError: what a setting asks for is not installed.
        BindError: the address for metrics cannot be listened at.
    """

    def __init__(self, settings: Settings) -> None:
        self.telemetry = Telemetry()
        self.interceptors: list[grpc.ServerInterceptor] = []
        """They come before all other interceptors."""
        self.metrics_address = ""
        """Where Prometheus may read, with the real port; empty: nowhere."""
        self._opened = ExitStack()
        if settings.tracing:
            self._trace()
        if settings.metrics_listen:
            self._measure(settings.metrics_listen)

    def close(self) -> None:
        """Send what is still to be sent, and listen no more."""
        self._opened.close()

    def _measure(self, address: str) -> None:
        try:
            from chatenv_server.observing.metrics import Metrics, MetricsListener
        except ImportError as error:
            raise wrong_setting("metrics_listen", "needs `pip install 'chatenv[metrics]'`") from error
        metrics = Metrics()
        try:
            listener = MetricsListener(metrics, address)
        except OSError as error:
            raise BindError(f"cannot listen for Prometheus on {address}: {error.strerror}") from error
        self._opened.callback(listener.close)
        self.telemetry, self.metrics_address = metrics, listener.address
        self.interceptors.append(CallTimer(metrics))

    def _trace(self) -> None:
        try:
            from chatenv_server.observing.tracing import CallTracer, open_provider
        except ImportError as error:
            raise wrong_setting("tracing", "needs `pip install 'chatenv[tracing]'`") from error
        provider = open_provider()
        self._opened.callback(provider.shutdown)
        self.interceptors.append(CallTracer(provider))


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
    """A method with something done around each call; None, an unknown method, stays None."""
    if handler is None:
        return None

    @wraps(handler.unary_unary)  # which also keeps the threads that the method asks for
    def call(request: Any, context: grpc.ServicerContext) -> Any:
        with around(context):
            return handler.unary_unary(request, context)

    def stream(requests: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        with around(context):
            yield from handler.stream_stream(requests, context)

    if handler.response_streaming:
        return grpc.stream_stream_rpc_method_handler(stream, handler.request_deserializer, handler.response_serializer)
    return grpc.unary_unary_rpc_method_handler(call, handler.request_deserializer, handler.response_serializer)


def code_of(context: Any) -> grpc.StatusCode:
    """How a call ended, once it has; CANCELLED where nobody waited for the answer any more."""
    code: grpc.StatusCode | None = context.code()
    if code is not None:
        return code
    return grpc.StatusCode.OK if context.is_active() else grpc.StatusCode.CANCELLED
