"""BatchReset, BatchStep and StreamSteps, as far as a caller with bare stubs can tell them from many calls."""

from __future__ import annotations

import time
from queue import SimpleQueue
from typing import Any

import grpc
import pytest

from chatenv_client import ChatAction
from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client._generated import status_pb2
from chatenv_client.wire import error_from_item
from chatenv_server import ChatEnvironment
from chatenv_server.engine import TokenEngine
from tests.engine.small_tokenizers import byte_level
from tests.server.conftest import Serve
from tests.server.test_service import StuckWhenAsked, a_step, connected, reason_of

WITH_AND_WITHOUT_THREADS = pytest.mark.parametrize("transform", [None, lambda observation: observation])


def reason(error: status_pb2.RpcStatus) -> str:
    return error_from_item(error).reason


@WITH_AND_WITHOUT_THREADS
def test_one_bad_item_spoils_no_other(serve: Serve, transform: Any) -> None:
    with connected(serve(transform=transform)) as stub:
        resets = [pb.ResetRequest(episode_id=name) for name in ("a", "b c", "d")]
        answers = stub.BatchReset(pb.BatchResetRequest(resets=resets)).results
        assert [answer.WhichOneof("result") for answer in answers] == ["response", "error", "response"]
        assert reason(answers[1].error) == "BAD_EPISODE_ID"
        steps = [a_step("a"), a_step("nobody"), pb.StepRequest(episode_id="d", tokens=[999]), a_step("d")]
        results = stub.BatchStep(pb.BatchStepRequest(steps=steps)).results
        assert [result.response.observation.step_count for result in results] == [1, 0, 0, 1]
        assert reason(results[1].error) == "EPISODE_UNKNOWN"
        assert reason(results[2].error) == "TOKEN_OUT_OF_RANGE"


@WITH_AND_WITHOUT_THREADS
def test_items_of_one_episode_apply_in_order(serve: Serve, transform: Any) -> None:
    with connected(serve(transform=transform)) as stub:
        for name in ("a", "b"):
            stub.Reset(pb.ResetRequest(episode_id=name))
        steps = [a_step(name, step_index=index) for index in range(20) for name in ("a", "b")]
        results = stub.BatchStep(pb.BatchStepRequest(steps=steps)).results
        assert [result.response.observation.step_count for result in results] == [i for i in range(1, 21) for _ in "ab"]


@pytest.mark.parametrize("count", [0, 4])
def test_a_batch_of_a_wrong_size_is_refused_as_a_whole(serve: Serve, count: int) -> None:
    with connected(serve(max_batch_items=3)) as stub:
        for call in (
            stub.BatchReset.future(pb.BatchResetRequest(resets=[pb.ResetRequest()] * count)),
            stub.BatchStep.future(pb.BatchStepRequest(steps=[a_step("a")] * count)),
        ):
            assert call.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert reason_of(call) == "BATCH_SIZE"
        assert stub.GetServerInfo(pb.GetServerInfoRequest()).live_episodes == 0


def test_resets_without_an_id_in_one_batch_are_episodes_of_their_own(serve: Serve) -> None:
    with connected(serve(transform=lambda observation: observation)) as stub:
        results = stub.BatchReset(pb.BatchResetRequest(resets=[pb.ResetRequest()] * 5)).results
    assert len({result.response.observation.episode_id for result in results}) == 5


@WITH_AND_WITHOUT_THREADS
def test_a_stream_answers_each_step_by_its_request_id_and_those_of_an_episode_in_order(
    serve: Serve, transform: Any
) -> None:
    with connected(serve(transform=transform)) as stub:
        names = ("a", "b", "c")
        for name in names:
            stub.Reset(pb.ResetRequest(episode_id=name))
        asked = [
            pb.StreamStepsRequest(request_id=1000 * which + index, step=a_step(name, step_index=index))
            for index in range(100)
            for which, name in enumerate(names)
        ]
        answers = list(stub.StreamSteps(iter(asked)))
    assert sorted(answer.request_id for answer in answers) == sorted(request.request_id for request in asked)
    for which, name in enumerate(names):
        own = [answer for answer in answers if answer.episode_id == name]
        assert [answer.request_id - 1000 * which for answer in own] == list(range(100))
        assert [answer.step_index for answer in own] == list(range(100))
        assert [answer.response.observation.step_count for answer in own] == list(range(1, 101))


def test_an_items_error_does_not_end_the_stream(serve: Serve) -> None:
    with connected(serve()) as stub:
        stub.Reset(pb.ResetRequest(episode_id="a"))
        asked = [a_step("nobody"), a_step("a", step_index=7), a_step("a")]
        answers = list(stub.StreamSteps(pb.StreamStepsRequest(step=step) for step in asked))
    assert [answer.WhichOneof("result") for answer in answers] == ["error", "error", "response"]
    assert [reason(answer.error) for answer in answers[:2]] == ["EPISODE_UNKNOWN", "STEP_INDEX_MISMATCH"]
    assert [answer.HasField("step_index") for answer in answers] == [False, True, False]


def test_in_a_stream_a_slow_episode_does_not_hold_up_another(serve: Serve) -> None:
    gatekeeper = StuckWhenAsked()
    requests: SimpleQueue[pb.StreamStepsRequest | None] = SimpleQueue()
    with connected(serve(transform=gatekeeper)) as stub:
        for name in ("slow", "quick"):
            stub.Reset(pb.ResetRequest(episode_id=name))
        answers = stub.StreamSteps(iter(requests.get, None))
        requests.put(pb.StreamStepsRequest(step=a_step("slow")))
        requests.put(pb.StreamStepsRequest(step=a_step("quick")))
        assert next(answers).episode_id == "quick"
        gatekeeper.let_go.set()
        assert next(answers).episode_id == "slow"
        requests.put(None)
        assert list(answers) == []


def test_a_stream_ends_with_unavailable_when_the_server_drains_and_what_was_read_is_answered(serve: Serve) -> None:
    server = serve()
    requests: SimpleQueue[pb.StreamStepsRequest | None] = SimpleQueue()
    with connected(server) as stub:
        stub.Reset(pb.ResetRequest(episode_id="a"))
        answers = stub.StreamSteps(iter(requests.get, None))
        requests.put(pb.StreamStepsRequest(step=a_step("a")))
        assert next(answers).response.observation.step_count == 1
        assert server.stop(10)
        with pytest.raises(grpc.RpcError) as refusal:
            next(answers)
        requests.put(None)
    assert refusal.value.code() is grpc.StatusCode.UNAVAILABLE


def test_a_stream_that_is_cancelled_gives_its_place_back(serve: Serve) -> None:
    server = serve(max_concurrent_calls=1)
    requests: SimpleQueue[pb.StreamStepsRequest | None] = SimpleQueue()
    with connected(server) as stub:
        answers = stub.StreamSteps(iter(requests.get, None))
        requests.put(pb.StreamStepsRequest(step=a_step("nobody")))
        next(answers)
        answers.cancel()
        requests.put(None)
        while stub.GetServerInfo.future(pb.GetServerInfoRequest()).code() is not grpc.StatusCode.OK:
            pass


@pytest.mark.parametrize("kind", ["batch", "stream"])
def test_of_many_steps_none_is_begun_once_the_caller_has_hung_up(serve: Serve, kind: str) -> None:
    gatekeeper = StuckWhenAsked()
    steps = [a_step("slow")] * 3
    with connected(serve(transform=gatekeeper)) as stub:
        stub.Reset(pb.ResetRequest(episode_id="slow"))
        call: Any = (
            stub.BatchStep.future(pb.BatchStepRequest(steps=steps))
            if kind == "batch"
            else stub.StreamSteps(pb.StreamStepsRequest(step=step) for step in steps)
        )
        assert gatekeeper.entered.acquire(timeout=30)
        call.cancel()
        while not call.done():
            time.sleep(0.01)
        time.sleep(0.2)  # until the server has heard of it
        gatekeeper.let_go.set()
        time.sleep(0.2)  # in which the others would be begun
        assert stub.GetState(pb.GetStateRequest(episode_id="slow")).step_count == 1


def test_texts_of_a_batch_give_the_streams_that_they_give_alone(serve: Serve) -> None:
    engine = TokenEngine.load(byte_level(merges=[("Ċ", "Ċ"), ("o", "w")]))
    texts = ["How do you do?", "\n\nHow now, then?", "a <|im_end|> in words", "How do you do?", "é", "How now?" * 600]
    names = [f"episode-{index}" for index in range(len(texts))]
    with connected(serve(engine=engine)) as stub:
        stub.BatchReset(pb.BatchResetRequest(resets=[pb.ResetRequest(episode_id=name) for name in names]))
        for _ in range(3):
            stub.BatchStep(pb.BatchStepRequest(steps=[sampled(name) for name in names]))
            asked = [
                pb.StepRequest(episode_id=name, messages=[said(text)]) for name, text in zip(names, texts, strict=True)
            ]
            results = stub.BatchStep(pb.BatchStepRequest(steps=asked)).results
            assert all(result.HasField("response") for result in results)
        streams = [list(stub.GetState(pb.GetStateRequest(episode_id=name)).tokens) for name in names]
    for text, stream in zip(texts, streams, strict=True):
        alone = ChatEnvironment(TokenEngine.load(byte_level(merges=[("Ċ", "Ċ"), ("o", "w")])))
        alone.reset()
        for _ in range(3):
            alone.step(ChatAction(tokens=ANSWER))
            alone.step({"role": "user", "content": text})
        assert stream == alone.state.token_ids.tolist()


ANSWER = (*range(20), 259)
"""Letters of some sort, and <|im_end|>, which stands after the alphabet, two merges and <|im_start|>."""


def sampled(name: str) -> pb.StepRequest:
    return pb.StepRequest(episode_id=name, tokens=ANSWER)


def said(text: str) -> pb.Message:
    return pb.Message(role="user", content=text)
