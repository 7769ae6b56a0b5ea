"""Segments over the wire are what they are in-process: unary, in batches, in streams; and repeats change none."""

from __future__ import annotations

import contextlib
import queue
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from hypothesis import given, settings

from chatenv_client import (
    BatchError,
    ChatAction,
    ChatEnv,
    ChatEnvError,
    ChatObservation,
    VectorChatEnv,
    channel_options,
)
from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client._generated.chatenv_pb2_grpc import ChatEnvServiceStub
from chatenv_client.session import Session
from chatenv_client.wire import error_from_item, trajectory_to_proto
from chatenv_server.running.process import start as start_server
from chatenv_server.settings.settings import Settings
from tests.engine.episodes import CLOCK, Plan, Span
from tests.engine.episodes import start as start_in_process
from tests.engine.subjects import EMBEDDED, Subject, subject
from tests.engine.test_segments import Rewrite, edited, take
from tests.untimed import untimed


@pytest.fixture(scope="module", params=[EMBEDDED, "own_thoughts_stripped"])
def served(request: pytest.FixtureRequest) -> Iterator[tuple[Subject, grpc.Channel]]:
    tested = subject(request.param)
    server = start_server(Settings(listen=("127.0.0.1:0",)), engine=tested.engine)
    with grpc.insecure_channel(server.addresses[0], channel_options()) as channel:
        yield tested, channel
    server.stop(0)


class Unary:
    """A way to take steps: here one call a step, after an answer was lost as often as a call was made."""

    def __init__(self, channel: grpc.Channel, options: dict[str, Any]) -> None:
        self.client = ChatEnv(channel)
        self.stub = ChatEnvServiceStub(channel)
        self.client.reset(**options)

    def step(self, action: ChatAction) -> ChatObservation:
        self.answer(self.client._session.step(action).request)  # lost on the way
        return self.client.step(action).observation

    def answer(self, request: pb.StepRequest) -> None:
        with contextlib.suppress(grpc.RpcError):
            self.stub.Step(request)


class Batch:
    def __init__(self, channel: grpc.Channel, options: dict[str, Any]) -> None:
        self.client = VectorChatEnv(channel, 1)
        self.client.reset([options])  # type: ignore[list-item]

    def step(self, action: ChatAction) -> ChatObservation:
        try:
            return self.client.step([action])[0].observation
        except BatchError as error:
            raise error.errors[0] from None


class Stream:
    """One stream; the client's own session builds the Steps and reads the answers."""

    def __init__(self, channel: grpc.Channel, options: dict[str, Any]) -> None:
        self.session = Session()
        call = self.session.reset(options)  # type: ignore[arg-type]
        stub = ChatEnvServiceStub(channel)
        call.receive(stub.Reset(call.request))
        self.requests: queue.SimpleQueue[pb.StreamStepsRequest | None] = queue.SimpleQueue()
        self.answers = stub.StreamSteps(iter(self.requests.get, None), timeout=60)

    def step(self, action: ChatAction) -> ChatObservation:
        call = self.session.step(action)
        self.requests.put(pb.StreamStepsRequest(request_id=1, step=call.request))
        answer = next(self.answers)
        if answer.HasField("error"):
            raise error_from_item(answer.error)
        return call.receive(answer.response).observation

    def close(self) -> None:
        self.requests.put(None)
        assert list(self.answers) == []


def _action(step: Any, subject: Subject, index: int | None) -> ChatAction:
    if isinstance(step, Rewrite):
        return ChatAction(messages=tuple(step.messages), replace_from=index)  # type: ignore[arg-type]
    return step.action(subject) if isinstance(step, Span) else ChatAction(messages=tuple(step))


@pytest.mark.law(20)
@pytest.mark.law(21)
def test_every_way_gives_the_same_segments_also_where_answers_are_lost(served: tuple[Subject, grpc.Channel]) -> None:
    tested, channel = served

    @settings(max_examples=max(5, settings().max_examples // 4))
    @given(edited)
    def holds(plan: Plan) -> None:
        env = start_in_process(tested, plan)
        if env is None:
            return
        ways = [
            way(channel, {**plan.options, "messages": plan.opening, "episode_id": name, "clock": CLOCK})
            for name, way in (("u", Unary), ("b", Batch), ("s", Stream))
        ]
        for step in plan.steps:
            index = step.index(env) if isinstance(step, Rewrite) else None
            try:
                expected = take(env, tested, step)
            except ChatEnvError as error:
                for way in ways:
                    with pytest.raises(type(error)):
                        way.step(_action(step, tested, index))
                continue
            for way in ways:
                shown = way.step(_action(step, tested, index))
                assert shown.token_ids.tolist() == expected.token_ids.tolist()
                assert shown.messages == expected.messages
                assert (shown.segment, shown.fidelity) == (expected.segment, expected.fidelity)
                assert shown.fingerprint() == expected.fingerprint()
        theirs = [ChatEnv(channel) for _ in ways]
        for reader, name in zip(theirs, "ubs", strict=True):
            resumed = reader.resume(name).observation
            assert (resumed.token_ids.tolist(), resumed.segment) == (env.state.token_ids.tolist(), env.state.segment)
            assert reader.state().sealed == env.state.sealed
            read, own = reader.trajectory(), env.trajectory()
            assert untimed(trajectory_to_proto(read)).segments == untimed(trajectory_to_proto(own)).segments
            assert [segment.tokens.tolist() for segment in read.segments] == [
                segment.tokens.tolist() for segment in own.segments
            ]
        ways[2].close()  # type: ignore[union-attr]

    holds()


HELLO = {"role": "user", "content": "Hello!"}


def test_an_answer_says_from_where_on_the_stream_is_another_one(served: tuple[Subject, grpc.Channel]) -> None:
    tested, channel = served
    with ChatEnv(channel) as env:
        first = env.reset(messages=[HELLO]).observation.token_ids.tolist()
        env.step(Span(("One",)).action(tested))
        long_ago = env.step({"role": "user", "content": "Again? " * 200}).observation
        env.step(Span(("Two",)).action(tested))
        call = env._session.step({"role": "user", "content": "Hello?"}, replace_from=0)
        answer = ChatEnvServiceStub(channel).Step(call.request).observation
        assert answer.segment == 1
        assert 0 < answer.tokens_offset < len(first)
        assert answer.ByteSize() < 40 * 8 + len(answer.SerializeToString()) // 8 + 4 * len(first)
        result = env.step({"role": "user", "content": "Hello?"}, replace_from=0).observation
        assert result.messages == [{"role": "user", "content": "Hello?"}]
        assert long_ago.messages[-1]["content"] == "Again? " * 200
        assert len(long_ago.token_ids) > 200
