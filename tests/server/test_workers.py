"""Where no transform waits, few threads answer; who finds them all held up gets another one, up to a bound."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from chatenv_client import ChatEnv, ServerBusyError, VectorChatEnv
from chatenv_server import workers
from chatenv_server.rpc.waiting import Sweeper, Waiting
from chatenv_server.running.process import RunningServer
from chatenv_server.workers import BATCH_WORKERS, UNARY_WORKERS, Workers
from tests.server.conftest import Serve

HI = {"role": "user", "content": "hi"}


@pytest.fixture
def pool() -> Iterator[Callable[[int], Workers]]:
    """Makes pools, ended at the end."""
    made: list[Workers] = []

    def pool(most_waiting: int) -> Workers:
        made.append(Workers(most_waiting))
        return made[-1]

    yield pool
    for each in made:
        each.shutdown(wait=False)


def workers_of(server: RunningServer) -> Workers:
    return server._crew.unary.workers


def settled(holds: Callable[[], bool]) -> bool:
    """Whether something comes true."""
    until = time.monotonic() + 10
    while time.monotonic() < until and not holds():
        time.sleep(0.005)
    return holds()


def threads_of(pool: Workers) -> list[threading.Thread]:
    """Those that answer its calls; other servers of this process have their own."""
    answering = [thread for thread in threading.enumerate() if thread.name == "worker"]
    return [thread for thread in answering if getattr(getattr(thread, "_target", None), "__self__", None) is pool]


def test_calls_that_are_held_up_hold_up_no_other(pool: Callable[[int], Workers]) -> None:
    few, release = pool(100), threading.Event()
    stuck = [few.submit(release.wait) for _ in range(4 * UNARY_WORKERS)]
    assert few.submit(lambda: "answered").result(timeout=10) == "answered"
    release.set()
    assert all(future.result(timeout=10) for future in stuck)


def test_no_two_calls_count_on_the_same_thread() -> None:
    few, together = Workers(100, 100, at_once=True), threading.Barrier(2, timeout=5)
    calls: list[Future[int]] = []

    def submit_two() -> None:
        for _ in range(together.parties):
            calls.append(few.submit(together.wait))
            time.sleep(0.1)

    submitting = threading.Thread(target=submit_two)
    with few._lock:  # so that the thread that takes the first call up cannot note it before the second comes
        submitting.start()
        time.sleep(0.3)
    submitting.join()
    assert {call.result(timeout=10) for call in calls} == {0, 1}
    few.shutdown(wait=False)


def test_threads_that_were_added_end_when_nobody_is_held_up(pool: Callable[[int], Workers]) -> None:
    few, release = pool(100), threading.Event()
    stuck = [few.submit(release.wait) for _ in range(4 * UNARY_WORKERS)]
    assert settled(lambda: len(threads_of(few)) >= 4 * UNARY_WORKERS)
    release.set()
    assert all(future.result(timeout=10) for future in stuck)
    assert settled(lambda: len(threads_of(few)) <= UNARY_WORKERS)
    few.shutdown(wait=False)
    assert settled(lambda: not threads_of(few))


def test_what_a_call_raises_is_its_callers(pool: Callable[[int], Workers]) -> None:
    few = pool(100)
    failures = [few.submit(int, "x") for _ in range(2 * UNARY_WORKERS)]
    assert all(isinstance(future.exception(timeout=10), ValueError) for future in failures)
    assert few.submit(int, "7").result(timeout=10) == 7


def test_calls_beyond_those_that_may_wait_are_refused_at_once_and_health_is_answered(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "STUCK_S", 3600.0)  # or threads would come to the help of those that wait
    server = serve(max_concurrent_calls=2)
    few, release = workers_of(server), threading.Event()
    begun = threading.Semaphore(0)

    def hold() -> None:
        begun.release()
        release.wait()

    for _ in range(UNARY_WORKERS):
        few.submit(hold)
    assert all(begun.acquire(timeout=10) for _ in range(UNARY_WORKERS))
    waiting = [few.submit(release.wait) for _ in range(2)]
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
    few = workers_of(serve_and_reset(serve))
    assert few._taken > 0


def serve_and_reset(serve: Serve) -> RunningServer:
    server = serve()
    with ChatEnv(server.addresses[0]) as env:
        env.reset(messages=[HI])
    return server


def test_callers_who_send_their_requests_slowly_take_no_thread(serve: Serve) -> None:
    server = serve()
    before = threading.active_count()
    with grpc.insecure_channel(server.addresses[0]) as channel:
        never: threading.Event = threading.Event()

        def nothing() -> Iterator[bytes]:
            never.wait(30)
            yield from ()

        method: Any = channel.stream_unary("/chatenv.v1.ChatEnvService/Step")
        slow = [method.future(nothing()) for _ in range(20)]
        arrivals = server._crew.unary.arrivals
        assert arrivals is not None
        assert settled(lambda: len(arrivals.waiting) == 20)
        with ChatEnv(server.addresses[0]) as env:
            assert env.reset(messages=[HI], timeout_s=10).observation.step_count == 0
        assert len(threads_of(workers_of(server))) == UNARY_WORKERS
        assert threading.active_count() <= before + 2 * len(slow) + 4  # the caller's own
        never.set()
        for call in slow:
            call.cancel()


def test_a_server_with_a_transform_has_a_thread_for_every_call(serve: Serve) -> None:
    together = threading.Barrier(2 * UNARY_WORKERS, timeout=10)

    def meet(observation: Any) -> Any:
        together.wait()
        return observation

    server = serve(transform=meet)
    envs = [ChatEnv(server.addresses[0]) for _ in range(together.parties)]
    with ThreadPoolExecutor(len(envs)) as pool:
        for env in envs:
            env.reset(messages=[HI])
        assert [step.observation.step_count for step in pool.map(lambda env: env.step(HI), envs)] == [1] * len(envs)
    for env in envs:
        env.__exit__(None, None, None)


def test_batches_have_threads_of_their_own_and_fewer(serve: Serve) -> None:
    with serve() as server, VectorChatEnv(server.target, 2) as env:
        env.reset()
        batches = server._crew.batches.workers
        assert batches is not workers_of(server)
        taken = batches._taken
        env.step([HI, HI])
        assert batches._taken == taken + 1
        assert len(threads_of(batches)) == BATCH_WORKERS < UNARY_WORKERS


def test_threads_are_bounded_and_calls_beyond_wait(pool: Callable[[int], Workers]) -> None:
    few, release = pool(5), threading.Event()
    held = [few.submit(release.wait) for _ in range(9)]
    assert settled(lambda: few._taken == 5)
    time.sleep(5 * workers.STUCK_S)
    assert len(threads_of(few)) == 5
    release.set()
    assert all(future.result(timeout=10) for future in held)


@pytest.mark.parametrize("at_once", [False, True])
def test_a_machine_without_further_threads_slows_calls_down_and_loses_none(
    monkeypatch: pytest.MonkeyPatch, at_once: bool
) -> None:
    few = Workers(100, 2, at_once=at_once)

    def fail(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as limited:
        limited.setattr(threading.Thread, "start", fail)
        calls = [few.submit(time.sleep, 2 * workers.STUCK_S) for _ in range(8)]
        assert all(call.result(timeout=10) is None for call in calls)
        with pytest.raises(RuntimeError, match="no threads"):
            Workers(100, 2, at_once=at_once)
    release = threading.Event()
    held = [few.submit(release.wait) for _ in range(8)]  # once there are threads again, they come
    assert settled(lambda: len(threads_of(few)) >= 8)
    release.set()
    assert all(call.result(timeout=10) for call in held)
    few.shutdown(wait=False)


def test_whatever_a_call_raises_ends_no_thread(pool: Callable[[int], Workers]) -> None:
    few = pool(3)

    def leave() -> None:
        raise SystemExit

    for _ in range(2 * UNARY_WORKERS):
        few.start(leave)
    assert few.submit(int, "7").result(timeout=10) == 7
    assert len(threads_of(few)) == UNARY_WORKERS


def test_a_task_that_fails_ends_none_of_the_others() -> None:
    done = threading.Event()

    def fail() -> None:
        raise ValueError

    sweeper = Sweeper([fail, done.set])
    assert done.wait(10)
    done.clear()
    assert done.wait(10)
    sweeper.close()


def test_the_oldest_of_too_many_that_wait_is_cut_off_and_nobody_twice() -> None:
    cut: list[int] = []
    waiting: Waiting[int] = Waiting(3, 3600.0, cut.append)
    for item in range(5):
        waiting.add(item)
    assert cut == [0, 1]
    assert [waiting.remove(item) for item in range(5)] == [False, False, True, True, True]
    waiting.add(5)
    waiting.cut_overdue()
    assert cut == [0, 1]
    waiting.cut_older_than(-1.0)
    assert cut == [0, 1, 5]
    assert len(waiting) == 0
