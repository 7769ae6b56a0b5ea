"""OpenTelemetry: one span per call, as a child of the caller's. Needs the extra `tracing`.

OpenTelemetry's own variables say where the spans go, `OTEL_EXPORTER_OTLP_ENDPOINT` among them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import grpc
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from chatenv_client._version import __version__
from chatenv_server.observing.calls import code_of, is_ours, surrounded

_OUR_FAULT: Final = frozenset(
    {
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)
"""Codes with which a server's span is an error, by OpenTelemetry's conventions for gRPC."""


def open_provider() -> TracerProvider:
    """Spans that are sent by OTLP over HTTP, in batches, from a thread of their own."""
    named = Resource.create({"service.name": "chatenv-server", "service.version": __version__})
    provider = TracerProvider(resource=named.merge(OTELResourceDetector().detect()))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


class CallTracer(grpc.ServerInterceptor):
    """Makes a span of every call of ours. It holds the method and the status, and nothing of what was said."""

    def __init__(self, provider: TracerProvider) -> None:
        self._tracer = provider.get_tracer("chatenv_server", __version__)
        self._propagator = TraceContextTextMapPropagator()

    def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Any], handler_call_details: grpc.HandlerCallDetails
    ) -> Any:
        """The method with a span around it."""
        handler = continuation(handler_call_details)
        path = handler_call_details.method
        if not is_ours(path):
            return handler
        metadata: Any = handler_call_details.invocation_metadata or ()
        parent = self._propagator.extract(dict(metadata))
        return surrounded(handler, lambda context: self._span(path.lstrip("/"), parent, context))

    @contextmanager
    def _span(self, name: str, parent: Context, context: grpc.ServicerContext) -> Iterator[None]:
        service, _, method = name.rpartition("/")
        attributes = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method}
        span = self._tracer.start_span(name, parent, SpanKind.SERVER, attributes)
        try:
            yield
        finally:
            code = code_of(context)
            span.set_attribute("rpc.grpc.status_code", code.value[0])
            if code in _OUR_FAULT:
                span.set_status(Status(StatusCode.ERROR))
            span.end()
