"""The metrics of a server for Prometheus, and the address where they are read. Needs the extra `metrics`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, start_http_server
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric

from chatenv_client._version import __version__
from chatenv_server.observing.telemetry import Levels, Telemetry

SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
"""Buckets from half a millisecond, a short Step, to a minute, the default deadline."""


class Metrics(Telemetry):
    """Counts in a registry of its own, so that servers in one process do not mix."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self._waited = Histogram(
            "chatenv_call_wait_seconds",
            "Time between a call's arrival and the moment when a thread took it up",
            ["method"],
            buckets=SECONDS,
            registry=registry,
        )
        self._took = Histogram(
            "chatenv_call_seconds",
            "Time that a call was worked on, without the wait before; its count is the number of calls",
            ["method", "code"],
            buckets=SECONDS,
            registry=registry,
        )
        self._failures = Counter(
            "chatenv_failures",
            "Calls, and items of batches and streams, that were refused or failed; BUSY is a reason",
            ["method", "reason"],
            registry=registry,
        )
        self._tokens = Counter(
            "chatenv_tokens",
            "Tokens that Resets and Steps brought (received) and were answered with (sent)",
            ["direction"],
            registry=registry,
        )
        self._received, self._sent = self._tokens.labels("received"), self._tokens.labels("sent")
        self._reports = Counter(
            "chatenv_fidelity_reports", "Reports that a stream is not exact", ["kind"], registry=registry
        )
        self._started = Counter("chatenv_episodes_started", "Episodes opened, or opened anew", registry=registry)
        self._segments = Counter(
            "chatenv_segments_begun", "Segments that Steps began because history changed", registry=registry
        )
        self._ended = Counter(
            "chatenv_episodes_ended", "Episodes gone; expired ones were evicted", ["cause"], registry=registry
        )
        for cause in ("closed", "expired"):
            self._ended.labels(cause)
        self._measure_store(registry)
        self._archived = Histogram(
            "chatenv_archive_write_seconds",
            "Time to write the record of an ended episode into the archive",
            buckets=SECONDS,
            registry=registry,
        )
        self._archive_errors = Counter(
            "chatenv_archive_errors", "Ended episodes that are not in the archive", registry=registry
        )
        ProcessCollector(registry=registry)

    def _measure_store(self, registry: CollectorRegistry) -> None:
        self._written = Histogram(
            "chatenv_store_write_seconds",
            "Time that the store took to write what calls did, those of a batch together",
            buckets=SECONDS,
            registry=registry,
        )
        self._changes = Counter("chatenv_store_changes", "Changes written to the store", registry=registry)
        self._conflicts = Counter(
            "chatenv_store_conflicts", "Changes refused because another process was quicker", registry=registry
        )
        self._store_errors = Counter("chatenv_store_errors", "Writes that the store did not take", registry=registry)
        lookups = Counter("chatenv_episode_lookups", "Calls on episodes of a store", ["result"], registry=registry)
        self._held, self._loaded = lookups.labels("held"), lookups.labels("loaded")
        self._load = Histogram(
            "chatenv_episode_load_seconds",
            "Time to read an episode from the store and make it anew",
            buckets=SECONDS,
            registry=registry,
        )

    def call_ended(self, method: str, code: str, waited_s: float, took_s: float) -> None:
        """See `Telemetry`."""
        self._waited.labels(method).observe(waited_s)
        self._took.labels(method, code).observe(took_s)

    def failed(self, method: str, reason: str) -> None:
        """See `Telemetry`."""
        self._failures.labels(method, reason).inc()

    def answered(self, received_tokens: int, sent_tokens: int) -> None:
        """See `Telemetry`."""
        self._received.inc(received_tokens)
        self._sent.inc(sent_tokens)

    def inexact(self, kind: str) -> None:
        """See `Telemetry`."""
        self._reports.labels(kind).inc()

    def episode_started(self) -> None:
        """See `Telemetry`."""
        self._started.inc()

    def segment_began(self) -> None:
        """Count it."""
        self._segments.inc()

    def episode_ended(self, cause: str) -> None:
        """See `Telemetry`."""
        self._ended.labels(cause).inc()

    def episode_held(self) -> None:
        """See `Telemetry`."""
        self._held.inc()

    def episode_loaded(self, seconds: float) -> None:
        """See `Telemetry`."""
        self._loaded.inc()
        self._load.observe(seconds)

    def store_wrote(self, changes: int, seconds: float) -> None:
        """See `Telemetry`."""
        self._written.observe(seconds)
        self._changes.inc(changes)

    def store_conflicted(self) -> None:
        """See `Telemetry`."""
        self._conflicts.inc()

    def store_failed(self) -> None:
        """See `Telemetry`."""
        self._store_errors.inc()

    def archived(self, seconds: float) -> None:
        """See `Telemetry`."""
        self._archived.observe(seconds)

    def archive_failed(self) -> None:
        """See `Telemetry`."""
        self._archive_errors.inc()

    def watch(self, read: Callable[[], Levels]) -> None:
        """See `Telemetry`."""
        self.registry.register(_Levels(read))


class _Levels:
    """Reads levels when somebody looks, and at no other time."""

    def __init__(self, read: Callable[[], Levels]) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        """Collect, in the manner of prometheus_client."""
        levels = self._read()
        yield GaugeMetricFamily("chatenv_calls", "Calls that are being worked on", levels.calls)
        yield GaugeMetricFamily("chatenv_live_episodes", "Live episodes", levels.episodes)
        yield GaugeMetricFamily("chatenv_live_tokens", "Tokens of all live episodes", levels.tokens)
        yield GaugeMetricFamily("chatenv_held_episodes", "Episodes held in memory", levels.held_episodes)
        yield GaugeMetricFamily("chatenv_held_tokens", "Tokens of episodes held in memory", levels.held_tokens)
        yield InfoMetricFamily("chatenv_server", "What serves", {"version": __version__})


class MetricsListener:
    """Answers Prometheus at an address, until it is closed.

    Raises:
        OSError: the address cannot be listened at.
    """

    def __init__(self, metrics: Metrics, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._server, self._thread = start_http_server(int(port), host.strip("[]"), metrics.registry)
        self.address = f"{host}:{self._server.server_port}"
        """Where it listens, with the real port."""

    def close(self) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
