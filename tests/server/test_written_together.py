"""What single Resets and Steps do is written together where many are in flight, and each gets its own answer."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client._generated.chatenv_pb2_grpc import ChatEnvServiceStub
from chatenv_client.calls import error_from_rpc
from chatenv_server.rpc.together import MOST_TOGETHER
from chatenv_server.running.process import RunningServer
from tests.server.conftest import Serve
from tests.server.test_observation import value

END = 257
IDS = [f"e{number}" for number in range(6 * MOST_TOGETHER)]

Ask = Callable[[pb.StepRequest], Any]


def sampled(episode_id: str, step_index: int, *, token: int = 97) -> pb.StepRequest:
    return pb.StepRequest(episode_id=episode_id, tokens=[token, END], step_index=step_index)


@contextmanager
def asking(server: RunningServer) -> Iterator[Ask]:
    """Sends Steps without waiting for answers."""
    with grpc.insecure_channel(server.addresses[0]) as channel:
        stub: Any = ChatEnvServiceStub(channel)
        yield stub.Step.future


def reset(server: RunningServer, ids: list[str]) -> None:
    with grpc.insecure_channel(server.addresses[0]) as channel:
        resets = [pb.ResetRequest(episode_id=one, messages=[pb.Message(role="user", content="Hi")]) for one in ids]
        for future in [ChatEnvServiceStub(channel).Reset.future(one) for one in resets]:
            future.result(timeout=20)


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Nobody writes to the file meanwhile."""
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


def test_steps_that_wait_are_written_in_few_transactions_and_each_has_its_own_answer(
    serve: Serve, tmp_path: Path
) -> None:
    pytest.importorskip("prometheus_client", reason="the extra `metrics` is not installed")
    file = tmp_path / "e.db"
    server = serve(store=f"sqlite://{file}", metrics_listen="127.0.0.1:0")
    reset(server, IDS)
    before = value(server, "chatenv_store_write_seconds_count")
    with asking(server) as ask:
        with locked(file):
            refused = [ask(sampled(one, 5)) for one in IDS[::8]]
            waiting = {one: ask(sampled(one, 0, token=97 + at % 26)) for at, one in enumerate(IDS)}
        for at, (one, future) in enumerate(waiting.items()):
            observation = future.result(timeout=20).observation
            assert (observation.episode_id, observation.step_count) == (one, 1)
            assert observation.messages[-1].content == chr(97 + at % 26)
        assert {error_from_rpc(future.exception(timeout=20)).reason for future in refused} == {"STEP_INDEX_MISMATCH"}
    assert value(server, "chatenv_store_write_seconds_count") - before < len(IDS) / 4


def test_steps_of_a_stream_are_written_in_few_transactions_and_answered_in_order(serve: Serve, tmp_path: Path) -> None:
    pytest.importorskip("prometheus_client", reason="the extra `metrics` is not installed")
    file = tmp_path / "e.db"
    server = serve(store=f"sqlite://{file}", metrics_listen="127.0.0.1:0")
    reset(server, IDS[:32])
    before = value(server, "chatenv_store_write_seconds_count")
    asked = [sampled(one, index) for index in range(3) for one in IDS[:32]]
    asked.insert(40, sampled(IDS[0], 7))
    requests = [pb.StreamStepsRequest(request_id=number, step=step) for number, step in enumerate(asked)]
    with grpc.insecure_channel(server.addresses[0]) as channel:
        with locked(file):
            answers = ChatEnvServiceStub(channel).StreamSteps(iter(requests))
            time.sleep(0.2)
        answered = list(answers)
    assert [answer.request_id for answer in answered] == list(range(len(asked)))
    assert [answer.error.code for answer in answered if answer.HasField("error")] == [grpc.StatusCode.ABORTED.value[0]]
    assert answered.pop(40).HasField("error")
    assert [one.response.observation.step_count for one in answered] == [
        index for index in (1, 2, 3) for _ in range(32)
    ]
    assert value(server, "chatenv_store_write_seconds_count") - before < len(asked) / 4


def test_retries_in_flight_are_one_step(serve: Serve, tmp_path: Path) -> None:
    server = serve(store=f"sqlite://{tmp_path}/e.db")
    reset(server, IDS[:4])
    with asking(server) as ask:
        for index in range(5):
            answers = {one: [ask(sampled(one, index)) for _ in range(12)] for one in IDS[:4]}
            for futures in answers.values():
                observations = [future.result(timeout=20).observation for future in futures]
                assert observations == observations[:1] * 12
                assert observations[0].step_count == index + 1


def test_of_two_servers_that_get_different_steps_at_once_one_takes_each(serve: Serve, tmp_path: Path) -> None:
    first, second = (serve(store=f"sqlite://{tmp_path}/e.db") for _ in range(2))
    reset(first, IDS[:32])
    with asking(first) as ask_first, asking(second) as ask_second:
        for index in range(10):
            pairs = [(ask_first(sampled(one, index)), ask_second(sampled(one, index, token=98))) for one in IDS[:32]]
            for futures in pairs:
                errors = [future.exception(timeout=20) for future in futures]
                assert [error_from_rpc(error).reason for error in errors if error] == ["STEP_INDEX_MISMATCH"]


def test_steps_that_were_to_be_written_together_fail_together_and_are_as_before(serve: Serve, tmp_path: Path) -> None:
    file, aside = tmp_path / "e.db", tmp_path / "aside.db"
    server = serve(store=f"sqlite://{file}")
    reset(server, IDS)
    with asking(server) as ask:
        file.rename(aside)
        for future in [ask(sampled(one, 0)) for one in IDS]:
            assert error_from_rpc(future.exception(timeout=20)).reason == "STORE_UNAVAILABLE"
        aside.rename(file)
        for future in [ask(sampled(one, 0)) for one in IDS]:
            assert future.result(timeout=20).observation.step_count == 1
