"""Tasks that wait: episodes wait side by side, each in its own order, and no lock is held for ever."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest

from chatenv_client import ChatEnv, VectorChatEnv, channel_options
from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client._generated.chatenv_pb2_grpc import ChatEnvServiceStub
from chatenv_server import Answer, ModelTurn, Settings, Task, serve
from chatenv_server.engine import TokenEngine
from chatenv_server.running.process import RunningServer
from tests.tasks.ways import said

HI = {"role": "user", "content": "Hi"}
MANY = 300


class Meeting(Task):
    """Answers once all have come."""

    come: asyncio.Semaphore
    all_came: asyncio.Event
    count = 0
    expected = MANY

    async def answer(self, turn: ModelTurn) -> Answer:
        """Waits for all others."""
        kind = type(self)
        if kind.count == 0:
            kind.all_came = asyncio.Event()
        kind.count += 1
        if kind.count == kind.expected:
            kind.all_came.set()
        await asyncio.wait_for(kind.all_came.wait(), 20)
        return Answer(messages=[{"role": "user", "content": f"{turn.text}!"}], reward=1.0)


@pytest.fixture
def served(engine: TokenEngine, tmp_path: Any) -> Iterator[Callable[..., RunningServer]]:
    servers: list[RunningServer] = []

    def served(task: Any, *, store: str = "memory", **settings: Any) -> RunningServer:
        if store == "sqlite":
            store = f"sqlite://{tmp_path}/episodes.db"
        made = Settings(listen=("127.0.0.1:0",), store=store, **settings)
        servers.append(serve(made, engine=engine, task=task))
        return servers[-1]

    yield served
    for server in servers:
        server.stop(0)


@pytest.mark.parametrize("store", ["memory", "sqlite"])
def test_the_tasks_of_a_batch_all_wait_at_once(served: Callable[..., RunningServer], store: str) -> None:
    task = type("Meeting", (Meeting,), {})
    server = served(task, store=store, max_batch_items=MANY)
    before = threading.active_count()
    with VectorChatEnv(server.target, MANY) as env:
        env.reset(messages=[HI])
        results = env.step([said(str(number)) for number in range(MANY)])
        assert [result.observation.messages[-1]["content"] for result in results] == [f"{n}!" for n in range(MANY)]
        assert threading.active_count() - before < 50


def test_the_tasks_of_a_stream_all_wait_at_once_and_each_episode_keeps_its_order(
    served: Callable[..., RunningServer],
) -> None:
    task = type("Meeting", (Meeting,), {"expected": 50})
    server = served(task)
    with grpc.insecure_channel(server.target, channel_options()) as channel:
        stub = ChatEnvServiceStub(channel)
        for number in range(50):
            messages = [pb.Message(role="user", content="Hi")]
            stub.Reset(pb.ResetRequest(episode_id=str(number), messages=messages))
        asked = [
            pb.StreamStepsRequest(
                request_id=number + 100 * turn,
                step=pb.StepRequest(episode_id=str(number), tokens=[65 + turn, 257], step_index=turn),
            )
            for turn in range(2)
            for number in range(50)
        ]
        answers = list(stub.StreamSteps(iter(asked)))
    assert len(answers) == 100
    for number in range(50):
        own = [answer for answer in answers if answer.episode_id == str(number)]
        assert [answer.request_id for answer in own] == [number, number + 100]
        assert [answer.response.observation.messages[-1].content for answer in own] == ["A!", "B!"]


class Slow(Task):
    """Answers when it is told to."""

    goes_on: threading.Event
    asked: threading.Semaphore

    async def answer(self, turn: ModelTurn) -> Answer:  # noqa: ARG002
        """Waits in the loop."""
        type(self).asked.release()
        await asyncio.to_thread(type(self).goes_on.wait, 20)
        return Answer(reward=1.0)


@pytest.mark.parametrize("store", ["memory", "sqlite"])
def test_a_stream_that_is_given_up_lets_its_episodes_go(served: Callable[..., RunningServer], store: str) -> None:
    task: Any = type("Slow", (Slow,), {"goes_on": threading.Event(), "asked": threading.Semaphore(0)})
    server = served(task, store=store)
    with ChatEnv(server.target) as env, grpc.insecure_channel(server.target, channel_options()) as channel:
        env.reset(messages=[HI], episode_id="e")
        never = threading.Event()

        def requests() -> Iterator[pb.StreamStepsRequest]:
            yield pb.StreamStepsRequest(step=pb.StepRequest(episode_id="e", tokens=[65, 257], step_index=0))
            never.wait(20)

        call = ChatEnvServiceStub(channel).StreamSteps(requests())
        assert task.asked.acquire(timeout=10)
        call.cancel()
        task.goes_on.set()
        never.set()
        env.resume("e")
        until = time.monotonic() + 10
        while env.state().step_count == 0 and time.monotonic() < until:
            time.sleep(0.01)
        assert env.state().step_count == 1


@pytest.mark.parametrize("store", ["memory", "sqlite"])
def test_batches_that_want_each_others_episodes_never_wait_for_ever(
    served: Callable[..., RunningServer], store: str
) -> None:
    class Short(Task):
        async def answer(self, turn: ModelTurn) -> Answer:  # noqa: ARG002
            await asyncio.sleep(0.005)
            return Answer(reward=1.0)

    server = served(Short, store=store)
    names = [str(number) for number in range(6)]
    with grpc.insecure_channel(server.target, channel_options()) as channel:
        stub = ChatEnvServiceStub(channel)
        for name in names:
            stub.Reset(pb.ResetRequest(episode_id=name, messages=[pb.Message(role="user", content="Hi")]))

        def work(order: list[str]) -> None:
            for _ in range(10):
                steps = [pb.StepRequest(episode_id=name, tokens=[65, 257]) for name in order]
                for result in stub.BatchStep(pb.BatchStepRequest(steps=steps), timeout=30).results:
                    assert result.HasField("response"), result.error

        threads = [threading.Thread(target=work, args=[order]) for order in (names, names[::-1], names[3:] + names[:3])]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
        assert [stub.GetState(pb.GetStateRequest(episode_id=name)).step_count for name in names] == [30] * 6


def test_a_batch_holds_no_episode_longer_than_its_own_task_takes(served: Callable[..., RunningServer]) -> None:
    goes_on = threading.Event()

    class OneWaits(Task):
        async def answer(self, turn: ModelTurn) -> Answer:
            if turn.text == "slow":
                await asyncio.to_thread(goes_on.wait, 20)
            return Answer(reward=1.0)

    server = served(OneWaits, store="sqlite")
    with grpc.insecure_channel(server.target, channel_options()) as channel:
        stub = ChatEnvServiceStub(channel)
        for name in ("slow", "fast"):
            stub.Reset(pb.ResetRequest(episode_id=name, messages=[pb.Message(role="user", content="Hi")]))
        steps = [pb.StepRequest(episode_id=name, tokens=[*name.encode(), 257]) for name in ("slow", "fast")]
        both = stub.BatchStep.future(pb.BatchStepRequest(steps=steps))
        until = time.monotonic() + 10
        while stub.GetState(pb.GetStateRequest(episode_id="fast"), timeout=5).step_count == 0:
            assert time.monotonic() < until
        assert not both.done()
        goes_on.set()
        assert all(result.HasField("response") for result in both.result(timeout=10).results)
