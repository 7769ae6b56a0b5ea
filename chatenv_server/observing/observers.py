"""Who watches a server from outside, as its settings ask: Prometheus, OpenTelemetry, or nobody."""

from __future__ import annotations

from contextlib import ExitStack

import grpc

from chatenv_client.distribution import to_install
from chatenv_server.observing.calls import CallTimer
from chatenv_server.observing.telemetry import Telemetry
from chatenv_server.settings.errors import BindError
from chatenv_server.settings.settings import Settings, wrong_setting


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
            raise wrong_setting("metrics_listen", f"needs `{to_install('metrics')}`") from error
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
            raise wrong_setting("tracing", f"needs `{to_install('tracing')}`") from error
        provider = open_provider()
        self._opened.callback(provider.shutdown)
        self.interceptors.append(CallTracer(provider))
