"""The health of the server, in gRPC's own protocol. Open to all callers, so none of them can hold up another."""
# ruff: noqa: N802 - gRPC names the methods

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

SERVICE: Final = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name

_Answer = health_pb2.HealthCheckResponse


class Health(health_pb2_grpc.HealthServicer):
    """Says whether the server serves.

    Args:
        services: names that it is asked for.
    """

    def __init__(self, services: Sequence[str]) -> None:
        self._services = frozenset(services)
        self._serves = False
        self._changed = threading.Condition()

    def set_serving(self, serves: bool) -> None:
        """Answer so from now on, and tell those who watch."""
        with self._changed:
            self._serves = serves
            self._changed.notify_all()

    @property
    def serves(self) -> bool:
        """What it answers now."""
        return self._serves

    def Check(self, request: health_pb2.HealthCheckRequest, context: grpc.ServicerContext) -> _Answer:
        """Whether it serves now."""
        if request.service not in self._services:
            context.set_code(grpc.StatusCode.NOT_FOUND)
            return _Answer()
        return _status(self._serves)

    def Watch(self, request: health_pb2.HealthCheckRequest, context: grpc.ServicerContext) -> Iterator[_Answer]:
        """Whether it serves, now and whenever that changes."""
        context.add_callback(self._wake)
        if request.service not in self._services:
            yield _Answer(status=_Answer.SERVICE_UNKNOWN)
        told: bool | None = None
        while context.is_active():
            if request.service in self._services:
                told = self._serves
                yield _status(told)
            with self._changed:
                while context.is_active() and told in {None, self._serves}:
                    self._changed.wait()

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()


def _status(serves: bool) -> _Answer:
    return _Answer(status=_Answer.SERVING if serves else _Answer.NOT_SERVING)
