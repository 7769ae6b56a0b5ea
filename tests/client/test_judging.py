"""What a client sends to set rewards, to fail episodes and to list rows, and what it makes of the answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.message import Message as ProtoMessage

from chatenv_client import (
    AsyncChatEnv,
    BatchError,
    ChatAction,
    ChatEnv,
    ChatEnvError,
    Failure,
    FailureKind,
    InvalidRequestError,
    Row,
    StepReward,
    TaskAnswerError,
    TaskError,
    TaskTimeoutError,
    VectorChatEnv,
)
from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client.tokens import fingerprint_of
from chatenv_client.wire import error_to_status
from tests.client.strange_server import StrangeServer, constant, failing, failing_once, open_all

BROKEN = pb.Failure(kind=pb.FAILURE_KIND_TOOL, reason="the search was down")


class Noted:
    """Answers a method, and notes what was asked."""

    def __init__(self, kind: type[ProtoMessage], answer: Callable[[Any], ProtoMessage]) -> None:
        self._kind, self._answer = kind, answer
        self.asked: list[Any] = []

    def __call__(self, request: bytes, _context: Any) -> bytes:
        self.asked.append(self._kind.FromString(request))
        return self._answer(self.asked[-1]).SerializeToString()


@pytest.fixture
def setting(server: StrangeServer) -> Noted:
    noted = Noted(pb.SetRewardRequest, lambda asked: pb.SetRewardResponse(step=asked.step or 7, reward=0.5))
    server.answers["SetReward"] = noted
    return noted


@pytest.fixture
def failing_episodes(server: StrangeServer) -> Noted:
    noted = Noted(pb.FailEpisodeRequest, lambda _: pb.FailEpisodeResponse(failure=BROKEN))
    server.answers["FailEpisode"] = noted
    return noted


def called(server: StrangeServer, call: str, *given: Any, **keywords: Any) -> list[Any]:
    """What a call gives, from the blocking client and from the asynchronous one."""
    env = ChatEnv(server.address)
    env.reset(episode_id="e")

    async def ask() -> Any:
        async with AsyncChatEnv(server.address) as env:
            await env.reset(episode_id="e")
            return await getattr(env, call)(*given, **keywords)

    return [getattr(env, call)(*given, **keywords), asyncio.run(ask())]


# Rewards.


@pytest.mark.parametrize(
    ("given", "keywords", "request_"),
    [
        (0.5, {"step": 3}, pb.SetRewardRequest(step=3, reward=0.5)),
        (1, {"turn": 0}, pb.SetRewardRequest(turn=0, reward=1.0)),
        (np.float32(0.5), {"step": np.int64(3)}, pb.SetRewardRequest(step=3, reward=0.5)),
        (
            {"found": True, "short": np.float64(0.25)},
            {"step": 1, "weights": {"short": 2}},
            pb.SetRewardRequest(
                step=1,
                rewards=[
                    pb.NamedReward(name="found", value=1.0),
                    pb.NamedReward(name="short", value=0.25, weight=2.0),
                ],
            ),
        ),
    ],
)
def test_a_reward_is_sent_by_name_or_without_one(
    server: StrangeServer, setting: Noted, given: Any, keywords: dict[str, Any], request_: pb.SetRewardRequest
) -> None:
    request_.episode_id = "e"
    told = called(server, "set_reward", given, **keywords)
    assert setting.asked == [request_] * 2
    assert told == [StepReward(request_.step or 7, 0.5, {})] * 2


def test_a_reward_is_of_the_last_step_unless_one_is_named(server: StrangeServer, setting: Noted) -> None:
    sampled = ChatAction(tokens=[1, 2])
    env = ChatEnv(server.address)
    env.reset(episode_id="e")
    stepped = pb.Observation(
        episode_id="e",
        step_count=1,
        tokens=sampled.tokens.tolist(),
        prompt_fingerprint=fingerprint_of(sampled.tokens),
    )
    server.answers["Step"] = constant(pb.StepResponse(observation=stepped))
    env.step(sampled)
    env.set_reward(0.5)
    assert setting.asked == [pb.SetRewardRequest(episode_id="e", step=1, reward=0.5)]


@pytest.mark.parametrize("rewards", [float("nan"), {"a": float("inf")}, {}, {"": 1.0}, {"a\n": 1.0}], ids=repr)
def test_what_is_no_reward_is_not_sent(server: StrangeServer, setting: Noted, rewards: Any) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        called(server, "set_reward", rewards, step=1)
    assert (caught.value.reason, setting.asked) == ("BAD_REWARD", [])


def test_a_reward_is_of_a_step_or_of_a_turn(server: StrangeServer, setting: Noted) -> None:
    with pytest.raises(InvalidRequestError, match="one of the two"):
        called(server, "set_reward", 1.0, step=1, turn=0)
    assert setting.asked == []


def test_a_reward_needs_an_episode(server: StrangeServer) -> None:
    with pytest.raises(RuntimeError, match="no episode"):
        ChatEnv(server.address).set_reward(1.0)


# Failures.


def test_a_failure_is_sent_with_its_kind_and_the_one_on_record_is_told(
    server: StrangeServer, failing_episodes: Noted
) -> None:
    told = called(server, "fail", "the judge timed out", "judge")
    sent = pb.Failure(kind=pb.FAILURE_KIND_JUDGE, reason="the judge timed out")
    assert failing_episodes.asked == [pb.FailEpisodeRequest(episode_id="e", failure=sent)] * 2
    assert told == [Failure(FailureKind.TOOL, "the search was down")] * 2


def test_an_episode_that_failed_is_over(server: StrangeServer, failing_episodes: Noted) -> None:
    env = ChatEnv(server.address)
    opening = env.reset(episode_id="e").observation
    env.fail("it broke")
    assert failing_episodes.asked[0].failure.kind == pb.FAILURE_KIND_OTHER
    assert env.observation.done
    assert env.observation.failure == Failure(FailureKind.TOOL, "the search was down")
    assert (opening.done, opening.failure) == (False, None)


def test_what_is_no_failure_is_not_sent(server: StrangeServer, failing_episodes: Noted) -> None:
    for reason, kind in (("it broke", "crash"), ("x" * 4097, "other")):
        with pytest.raises(InvalidRequestError) as caught:
            called(server, "fail", reason, kind)
        assert caught.value.reason == "BAD_FAILURE"
    with pytest.raises(TypeError):
        called(server, "fail", ValueError("the exception itself"))
    assert failing_episodes.asked == []


# Many episodes.


@pytest.fixture
def many(server: StrangeServer) -> VectorChatEnv:
    env = VectorChatEnv(server.address, 3, autoreset=True)
    env.reset([{"episode_id": name} for name in "abc"])
    return env


def test_rewards_are_set_of_the_episodes_that_have_some(many: VectorChatEnv, setting: Noted) -> None:
    told = many.set_reward([1.0, None, {"found": 0.5}], turn=[0, None, 2])
    assert sorted(setting.asked, key=lambda asked: str(asked.episode_id)) == [
        pb.SetRewardRequest(episode_id="a", turn=0, reward=1.0),
        pb.SetRewardRequest(episode_id="c", turn=2, rewards=[pb.NamedReward(name="found", value=0.5)]),
    ]
    assert told == [StepReward(7, 0.5, {}), None, StepReward(7, 0.5, {})]


def test_an_array_holds_a_reward_for_each_episode(many: VectorChatEnv, setting: Noted) -> None:
    many.set_reward(np.array([0.25, 0.5, 0.75], np.float32), step=[1, 2, 3])  # type: ignore[arg-type]
    assert {(asked.episode_id, asked.step, asked.reward) for asked in setting.asked} == {
        ("a", 1, 0.25),
        ("b", 2, 0.5),
        ("c", 3, 0.75),
    }


def test_one_bad_reward_spoils_no_other(many: VectorChatEnv, setting: Noted) -> None:
    with pytest.raises(BatchError) as caught:
        many.set_reward([1.0, float("nan"), 0.5], step=[1, 1, 1])
    assert list(caught.value.errors) == [1]
    assert caught.value.errors[1].reason == "BAD_REWARD"
    assert len(setting.asked) == 2


@pytest.mark.parametrize("wrong", [{"rewards": [1.0]}, {"rewards": [1.0] * 3, "step": []}, {"rewards": ["1"] * 3}])
def test_nothing_is_sent_of_what_does_not_fit_the_episodes(
    many: VectorChatEnv, setting: Noted, wrong: dict[str, Any]
) -> None:
    with pytest.raises((ValueError, TypeError)):
        many.set_reward(**wrong)
    assert setting.asked == []


def test_an_episode_of_many_that_failed_starts_anew(
    server: StrangeServer, many: VectorChatEnv, failing_episodes: Noted
) -> None:
    told = many.fail([None, "it broke", None], FailureKind.SAMPLER)
    assert [asked.episode_id for asked in failing_episodes.asked] == ["b"]
    assert told == [None, Failure(FailureKind.TOOL, "the search was down"), None]
    assert [observation.done for observation in many.observations] == [False, True, False]
    started: list[str] = []

    def note(request: bytes, context: Any) -> bytes:
        started.extend(reset.episode_id for reset in pb.BatchResetRequest.FromString(request).resets)
        return open_all(request, context)

    server.answers["BatchReset"] = note
    results = many.step([None, {"role": "user", "content": "Go on."}, None])
    assert started == ["b"]
    assert [result.done for result in results] == [False] * 3


# Rows.


def test_rows_are_read_page_by_page(server: StrangeServer) -> None:
    pages = {
        "": pb.ListRowsResponse(rows=[pb.Row(index=0, id="a", public_json='{"q": 1}')], next_page_token="two"),
        "two": pb.ListRowsResponse(rows=[pb.Row(index=1, id="b")]),
    }
    noted = Noted(pb.ListRowsRequest, lambda asked: pages[asked.page_token])
    server.answers["ListRows"] = noted
    expected = [Row(0, "a", {"q": 1}), Row(1, "b", {})]
    assert list(ChatEnv(server.address).list_rows("gsm", "train", page_size=1)) == expected

    async def read() -> list[Row]:
        async with AsyncChatEnv(server.address) as env:
            return [row async for row in env.list_rows("gsm", "train", page_size=1)]

    assert asyncio.run(read()) == expected
    first, second = (
        pb.ListRowsRequest(task="gsm", split="train", page_size=1, page_token=token) for token in ("", "two")
    )
    assert noted.asked == [first, second] * 2


# What is tried again by itself, and what is not.


@pytest.mark.parametrize(
    ("method", "answer", "call"),
    [
        ("SetReward", pb.SetRewardResponse(step=1, reward=0.5), lambda env: env.set_reward(0.5, step=1)),
        ("FailEpisode", pb.FailEpisodeResponse(failure=BROKEN), lambda env: env.fail("it broke")),
        ("ListRows", pb.ListRowsResponse(), lambda env: list(env.list_rows())),
    ],
)
def test_a_call_that_may_be_repeated_is_retried_where_no_server_answers(
    server: StrangeServer, method: str, answer: ProtoMessage, call: Callable[[ChatEnv], Any]
) -> None:
    server.answers[method] = failing_once(constant(answer))
    env = ChatEnv(server.address)
    env.reset(episode_id="e")
    call(env)


@pytest.mark.parametrize("kind", [TaskError, TaskTimeoutError, TaskAnswerError])
def test_what_a_task_failed_at_is_not_tried_again_by_itself(server: StrangeServer, kind: type[ChatEnvError]) -> None:
    sent, asked = kind("the task broke", details={"task": "gsm"}), []

    def fail(request: bytes, context: Any) -> bytes:
        asked.append(request)
        details = error_to_status(sent).SerializeToString()
        return failing(grpc.StatusCode[sent.code], details)(request, context)

    server.answers |= {"Step": fail, "Reset": fail}
    env = ChatEnv(server.address)
    with pytest.raises(kind) as caught:
        env.reset(episode_id="e")
    assert (type(caught.value), caught.value.reason, len(asked)) == (kind, sent.reason, 1)
    assert isinstance(caught.value, TaskError)
