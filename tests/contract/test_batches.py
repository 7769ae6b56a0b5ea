"""BatchReset, BatchStep and StreamSteps through the bare stubs: one bad item spoils no other, and order holds."""

from __future__ import annotations

import itertools
import queue
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest

from chatenv_client import channel_options, errors
from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client._generated.chatenv_pb2_grpc import ChatEnvServiceStub
from chatenv_client.calls import error_from_rpc
from chatenv_client.wire import error_from_item
from tests.contract.conftest import Sampler, Serving

HELLO = pb.Message(role="user", content="Hello!")


def opened(stub: ChatEnvServiceStub, count: int) -> list[str]:
    """Ids of new episodes with one message each."""
    resets = [pb.ResetRequest(episode_id=uuid.uuid4().hex, messages=[HELLO]) for _ in range(count)]
    results = stub.BatchReset(pb.BatchResetRequest(resets=resets)).results
    return [result.response.observation.episode_id for result in results]


def says(episode_id: str, text: str, **fields: Any) -> pb.StepRequest:
    return pb.StepRequest(episode_id=episode_id, messages=[pb.Message(role="user", content=text)], **fields)


def reason_of(result: Any) -> str:
    """The reason of an item's error; empty when it succeeded."""
    return error_from_item(result.error).reason if result.HasField("error") else ""


def contents(stub: ChatEnvServiceStub, episode_id: str) -> list[str]:
    return [message.content for message in stub.GetState(pb.GetStateRequest(episode_id=episode_id)).messages]


# Batches.


def test_one_bad_item_spoils_no_other(stub: ChatEnvServiceStub) -> None:
    first, second, third = opened(stub, 3)
    steps = [
        says(first, "good"),
        says("never-was", "unknown"),
        says(second, "stale", step_index=7),
        pb.StepRequest(episode_id=second, tokens=[-1]),
        pb.StepRequest(episode_id=second),
        says(third, "good"),
    ]
    results = stub.BatchStep(pb.BatchStepRequest(steps=steps)).results
    assert [reason_of(result) for result in results] == [
        "",
        "EPISODE_UNKNOWN",
        "STEP_INDEX_MISMATCH",
        "TOKEN_OUT_OF_RANGE",
        "EMPTY_ACTION",
        "",
    ]
    assert [contents(stub, episode) for episode in (first, second, third)] == [
        ["Hello!", "good"],
        ["Hello!"],
        ["Hello!", "good"],
    ]


def test_one_bad_reset_spoils_no_other(stub: ChatEnvServiceStub) -> None:
    resets = [
        pb.ResetRequest(messages=[HELLO]),
        pb.ResetRequest(episode_id="no spaces"),
        pb.ResetRequest(max_steps=0),
        pb.ResetRequest(messages=[HELLO]),
    ]
    results = stub.BatchReset(pb.BatchResetRequest(resets=resets)).results
    assert [reason_of(result) for result in results] == ["", "BAD_EPISODE_ID", "BAD_LIMIT", ""]
    opened_ids = [result.response.observation.episode_id for result in results if result.HasField("response")]
    assert len(set(opened_ids)) == 2
    assert all(contents(stub, episode_id) == ["Hello!"] for episode_id in opened_ids)


def test_an_items_answer_is_what_the_same_call_alone_answers(stub: ChatEnvServiceStub, sample: Sampler) -> None:
    alone, batched = opened(stub, 2)
    action = sample(20)
    for fields in ({"tokens": action.tokens, "logprobs": action.logprobs}, {"messages": [HELLO]}):
        expected = stub.Step(pb.StepRequest(episode_id=alone, known_tokens=9, **fields))
        batch = pb.BatchStepRequest(steps=[pb.StepRequest(episode_id=batched, known_tokens=9, **fields)])
        answer = stub.BatchStep(batch).results[0].response
        expected.observation.episode_id = batched
        assert answer == expected


def test_items_of_one_episode_apply_in_order(stub: ChatEnvServiceStub) -> None:
    one, other = opened(stub, 2)
    steps = [says(episode_id, str(index), step_index=index) for index in range(20) for episode_id in (one, other)]
    results = stub.BatchStep(pb.BatchStepRequest(steps=steps)).results
    assert [result.response.observation.step_count for result in results] == [i + 1 for i in range(20) for _ in "ab"]
    assert contents(stub, one) == contents(stub, other) == ["Hello!", *map(str, range(20))]


def test_a_batch_that_is_sent_again_answers_the_same_and_changes_nothing(stub: ChatEnvServiceStub) -> None:
    batch = pb.BatchStepRequest(steps=[says(episode_id, "once", step_index=0) for episode_id in opened(stub, 3)])
    assert stub.BatchStep(batch) == stub.BatchStep(batch)
    assert all(contents(stub, step.episode_id) == ["Hello!", "once"] for step in batch.steps)


def test_too_many_items_are_refused_whole(serving: Serving) -> None:
    with serving({"max_batch_items": 3}) as target, grpc.insecure_channel(target) as channel:
        stub = ChatEnvServiceStub(channel)
        episode_ids = opened(stub, 3)
        steps = [says(episode_id, "a") for episode_id in (*episode_ids, episode_ids[0])]
        with pytest.raises(grpc.RpcError) as caught:
            stub.BatchStep(pb.BatchStepRequest(steps=steps))
        error = error_from_rpc(caught.value)
        assert (error.code, error.reason, error.field) == ("INVALID_ARGUMENT", "BATCH_SIZE", "steps")
        assert "3" in error.message
        assert all(contents(stub, episode_id) == ["Hello!"] for episode_id in episode_ids)
        assert len(stub.BatchStep(pb.BatchStepRequest(steps=steps[:3])).results) == 3


def test_too_many_bytes_are_refused_whole_and_said_to_be_too_many(serving: Serving) -> None:
    with serving({"max_message_bytes": 4096}) as target, grpc.insecure_channel(target) as channel:
        stub = ChatEnvServiceStub(channel)
        episode_ids = opened(stub, 5)
        with pytest.raises(grpc.RpcError) as caught:
            stub.BatchStep(pb.BatchStepRequest(steps=[says(episode_id, "a" * 1000) for episode_id in episode_ids]))
        error = error_from_rpc(caught.value)
        assert type(error) is errors.MessageTooLargeError
        assert "send less at once" in error.message
        assert all(contents(stub, episode_id) == ["Hello!"] for episode_id in episode_ids)


# Streams.


class Steps:
    """A stream of Steps whose requests are sent one by one."""

    def __init__(self, stub: ChatEnvServiceStub) -> None:
        self._requests: queue.SimpleQueue[pb.StreamStepsRequest | None] = queue.SimpleQueue()
        self.answers = stub.StreamSteps(iter(self._requests.get, None), timeout=30)
        self._ids = itertools.count(1)

    def send(self, step: pb.StepRequest) -> int:
        request = pb.StreamStepsRequest(request_id=next(self._ids), step=step)
        self._requests.put(request)
        return request.request_id

    def end(self) -> None:
        self._requests.put(None)


@contextmanager
def streaming(stub: ChatEnvServiceStub) -> Iterator[Steps]:
    steps = Steps(stub)
    try:
        yield steps
    finally:
        steps.end()
        steps.answers.cancel()


@pytest.mark.served
def test_an_items_error_does_not_end_the_stream(stub: ChatEnvServiceStub) -> None:
    (episode_id,) = opened(stub, 1)
    with streaming(stub) as steps:
        for step in (says("never-was", "a"), pb.StepRequest(episode_id=episode_id), says(episode_id, "good")):
            steps.send(step)
        by_id = {answer.request_id: answer for answer in itertools.islice(steps.answers, 3)}
    assert [reason_of(by_id[request_id]) for request_id in (1, 2, 3)] == ["EPISODE_UNKNOWN", "EMPTY_ACTION", ""]
    assert contents(stub, episode_id) == ["Hello!", "good"]


@pytest.mark.served
def test_answers_say_whose_they_are(stub: ChatEnvServiceStub) -> None:
    first, second = opened(stub, 2)
    with streaming(stub) as steps:
        sent = {
            steps.send(says(first, "a", step_index=0)): (first, 0),
            steps.send(says(second, "a", step_index=5)): (second, 5),
            steps.send(says("never-was", "a")): ("never-was", None),
        }
        answers = list(itertools.islice(steps.answers, 3))
    seen = {
        answer.request_id: (answer.episode_id, answer.step_index if answer.HasField("step_index") else None)
        for answer in answers
    }
    assert seen == sent
    assert sum(answer.HasField("response") for answer in answers) == 1


@pytest.mark.served
def test_a_stream_that_the_caller_ends_answers_everything_and_ends(stub: ChatEnvServiceStub) -> None:
    (episode_id,) = opened(stub, 1)
    with streaming(stub) as steps:
        for index in range(50):
            steps.send(says(episode_id, str(index), step_index=index))
        steps.end()
        answers = list(steps.answers)
    assert [answer.response.observation.step_count for answer in answers] == list(range(1, 51))
    assert contents(stub, episode_id) == ["Hello!", *map(str, range(50))]


def test_steps_that_wait_for_nobody_stay_in_order_where_transforms_run_side_by_side(serving: Serving) -> None:
    with (
        serving(open_transform=lambda: lambda observation: observation) as target,
        grpc.insecure_channel(target) as channel,
    ):
        stub = ChatEnvServiceStub(channel)
        episode_ids = opened(stub, 3)
        with streaming(stub) as steps:
            for index in range(30):
                for episode_id in episode_ids:
                    steps.send(says(episode_id, str(index), step_index=index))
            steps.end()
            answers = list(steps.answers)
        assert not any(answer.HasField("error") for answer in answers)
        for episode_id in episode_ids:
            counts = [a.response.observation.step_count for a in answers if a.episode_id == episode_id]
            assert counts == list(range(1, 31))


def test_what_was_sent_before_the_line_is_cut_is_applied_or_not_and_never_twice(serving: Serving) -> None:
    with serving() as target:
        with grpc.insecure_channel(target, channel_options()) as channel:
            stub = ChatEnvServiceStub(channel)
            (episode_id,) = opened(stub, 1)
            with streaming(stub) as steps:
                for index in range(20):
                    steps.send(says(episode_id, str(index), step_index=index))
                next(steps.answers)
        with grpc.insecure_channel(target, channel_options()) as channel:
            stub = ChatEnvServiceStub(channel)
            said = contents(stub, episode_id)[1:]
            assert said == [str(index) for index in range(len(said))]
            assert len(said) >= 1
            following = says(episode_id, str(len(said)), step_index=len(said))
            assert stub.Step(following).observation.step_count == len(said) + 1
