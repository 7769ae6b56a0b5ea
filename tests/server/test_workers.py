"""Where no transform waits, few threads answer unary calls: who finds them all taken waits, up to a limit."""

from __future__ import annotations

import threading
import time
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from chatenv_client import ChatEnv, ServerBusyError
from chatenv_server.process import RunningServer
from chatenv_server.workers import UNARY_WORKERS, UnaryWorkers
from tests.server.conftest import Serve

HI = {"role": "user", "content": "hi"}


def workers_of(server: RunningServer) -> UnaryWorkers:
    assert server._workers is not None
    return server._workers


def test_calls_beyond_those_that_may_wait_are_refused_at_once_and_health_is_answered(serve: Serve) -> None:
    server = serve(max_concurrent_calls=2)
    workers, release = workers_of(server), threading.Event()
    for _ in range(UNARY_WORKERS):
        workers.submit(release.wait)
    while workers._work_queue.qsize():
        time.sleep(0.001)
    waiting = [workers.submit(release.wait) for _ in range(2)]
    assert workers.is_full
    with ChatEnv(server.addresses[0]) as env, grpc.insecure_channel(server.addresses[0]) as channel:
        with pytest.raises(ServerBusyError):
            env.reset(messages=[HI])
        stub: Any = health_pb2_grpc.HealthStub(channel)
        health = stub.Check(health_pb2.HealthCheckRequest(), timeout=5)
        assert health.status == health_pb2.HealthCheckResponse.SERVING
        release.set()
        for future in waiting:
            future.result(timeout=5)
        assert env.reset(messages=[HI]).observation.step_count == 0


def test_unary_calls_run_in_the_few_threads(serve: Serve) -> None:
    server = serve()
    with ChatEnv(server.addresses[0]) as env:
        env.reset(messages=[HI])
    assert any(thread.name.startswith("unary") for thread in threading.enumerate())


def test_a_server_with_a_transform_has_a_thread_for_every_call(serve: Serve) -> None:
    assert serve(transform=lambda observation: observation)._workers is None
