"""Whatever a server sends ends in a typed error and leaves the client as it was: real servers that answer raw bytes."""

from __future__ import annotations

import asyncio
import math
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.message import Message as ProtoMessage
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chatenv_client import (
    AsyncChatEnv,
    ChatAction,
    ChatEnv,
    ChatEnvError,
    ProtocolError,
    UnavailableError,
    VectorChatEnv,
    channel_options,
    wire,
)
from chatenv_client._connection import FAREWELL_S
from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client._generated import status_pb2
from chatenv_client.tokens import EMPTY_TOKENS, fingerprint_of
from tests.client.strange_server import JUNK, StrangeServer, constant, failing, failing_once, hang, open_one, opened

HELLO = {"role": "user", "content": "Hello!"}
CHECKOUT = Path(__file__).resolve().parents[2]
SNAPSHOT = pb.EpisodeSnapshot(format=1, episode_id="e", entries=[pb.EpisodeEntry()] * 3)

CALLS: dict[str, Callable[[ChatEnv], Any]] = {
    "Reset": lambda env: env.reset(episode_id="e"),
    "Step": lambda env: env.step(ChatAction(tokens=[1, 2])),
    "GetState": lambda env: env.state(),
    "GetTrajectory": lambda env: env.trajectory(),
    "AuditEpisode": lambda env: env.audit(),
    "RenderMessage": lambda env: env.message_to_action(HELLO),
    "GetServerInfo": lambda env: env.server_info(),
    "ForkEpisode": lambda env: env.fork(episode_ids=["f", "g"]),
    "ExportEpisode": lambda env: env.export(),
    "ImportEpisode": lambda env: env.import_episode(SNAPSHOT),
    "ListEpisodes": lambda env: list(env.episodes("e")),
    "SetReward": lambda env: env.set_reward({"a": 1.0}, step=1),
    "FailEpisode": lambda env: env.fail("it broke"),
    "ListRows": lambda env: list(env.list_rows()),
    "DescribeTokens": lambda env: env.describe_tokens([1, 2]),
    "FinishEpisode": lambda env: env.finish(),
    "CloseEpisode": lambda env: env.close(),
}
"""A call of each unary method."""

REWARDS = [pb.NamedReward(name="a", value=1.0, weight=0.5)]
TOKEN = pb.DescribeTokensResponse.TokenText(text=b"a")
FAILURE = pb.Failure(kind=pb.FAILURE_KIND_JUDGE, reason="it was down")
TURNS = [
    pb.Turn(origin=pb.ORIGIN_TEMPLATE, length=1),
    pb.Turn(
        origin=pb.ORIGIN_SAMPLED, start=1, length=2, has_logprobs=True, stop_reason=pb.STOP_REASON_STOP, rewards=REWARDS
    ),
]
CALLING = pb.Message(role="assistant", extra_json='{"a": [1]}', tool_calls=[pb.ToolCall(name="f", arguments_json="{}")])
REPORTS = [pb.FidelityReport(kind=pb.FIDELITY_KIND_BOUNDARY_MERGE, token_index=1)]


def whole(**fields: Any) -> pb.Observation:
    """What an episode shows whole, as forks and imports do."""
    encoded = pb.Observation(messages=[CALLING], metadata_json='{"a": [1]}', fidelity=REPORTS, **fields)
    encoded.prompt_fingerprint = encoded.prompt_fingerprint or fingerprint_of(np.array(encoded.tokens, np.int32))
    return encoded


TRAJECTORY = pb.GetTrajectoryResponse(
    episode_id="e",
    segments=[
        pb.Segment(tokens=[1, 2, 3], loss_mask_runs=[1, 2], logprobs=[0.5, 0.5], turns=TURNS, fidelity=REPORTS),
        pb.Segment(shared_tokens=1, tokens=[2, 3], loss_mask_runs=[1, 2], logprobs=[0.5, 0.5], turns=TURNS),
    ],
    failure=FAILURE,
)

ANSWERS: dict[str, ProtoMessage] = {
    "Reset": opened(pb.ResetRequest(episode_id="e")),
    "Step": pb.StepResponse(
        observation=pb.Observation(
            episode_id="e",
            step_count=1,
            tokens=[1, 2],
            messages=[CALLING],
            metadata_json='{"a": [1]}',
            fidelity=REPORTS,
            reward=0.5,
            rewards=REWARDS,
            turns_left=1,
            failure=FAILURE,
            prompt_fingerprint=fingerprint_of(ChatAction(tokens=[1, 2]).tokens),
        )
    ),
    "GetState": pb.GetStateResponse(
        episode_id="e",
        tokens=[1, 2, 3],
        turns=TURNS,
        messages=[CALLING],
        message_spans=[pb.MessageSpan(start=0, length=3)],
        metadata_json='{"a": [1]}',
        fidelity=REPORTS,
        failure=FAILURE,
    ),
    "GetTrajectory": TRAJECTORY,
    "AuditEpisode": pb.AuditEpisodeResponse(verdict=1, index=3, detail="x"),  # type: ignore[arg-type]
    "RenderMessage": pb.RenderMessageResponse(tokens_offset=1, tokens=[1, 2], fidelity=REPORTS),
    "GetServerInfo": pb.GetServerInfoResponse(version="1", features=["a"], limits=pb.Limits(max_steps=1)),
    "ForkEpisode": pb.ForkEpisodeResponse(fork_ids=["f", "g"], observation=whole()),
    "ExportEpisode": pb.ExportEpisodeResponse(snapshot=SNAPSHOT),
    "ImportEpisode": pb.ImportEpisodeResponse(observation=whole(episode_id="e", step_count=2, tokens=[1, 2])),
    "ListEpisodes": pb.ListEpisodesResponse(episodes=[pb.EpisodeSummary(episode_id="e", metadata_json='{"a": [1]}')]),
    "SetReward": pb.SetRewardResponse(step=1, reward=0.5, rewards=REWARDS),
    "FailEpisode": pb.FailEpisodeResponse(failure=FAILURE),
    "ListRows": pb.ListRowsResponse(rows=[pb.Row(index=1, id="r", public_json='{"a": [1]}')], count=2),
    "DescribeTokens": pb.DescribeTokensResponse(tokens=[TOKEN, TOKEN]),
    "FinishEpisode": pb.FinishEpisodeResponse(trajectory=TRAJECTORY, assistants=True),
    "CloseEpisode": pb.CloseEpisodeResponse(was_live=True),
}
"""A right answer to each of them."""


@st.composite
def mutated(draw: st.DrawFn, message: ProtoMessage) -> bytes:
    """The bytes of a message, a few of them changed, or cut off."""
    encoded = bytearray(message.SerializeToString())
    for _ in range(draw(st.integers(0, 3))):
        encoded[draw(st.integers(0, len(encoded) - 1))] = draw(st.integers(0, 255))
    return bytes(encoded[: draw(st.just(len(encoded)) | st.integers(0, len(encoded)))])


@pytest.mark.parametrize("method", CALLS)
def test_a_right_answer_is_taken(server: StrangeServer, method: str) -> None:
    server.answers[method] = constant(ANSWERS[method])
    env = ChatEnv(server.address)
    env.reset(episode_id="e")
    CALLS[method](env)


@pytest.mark.parametrize("method", CALLS)
def test_an_answer_that_is_no_message_is_a_protocol_error(server: StrangeServer, method: str) -> None:
    env = ChatEnv(server.address)
    env.reset(episode_id="e")
    server.answers[method] = constant(JUNK)
    with pytest.raises(ProtocolError, match="update"):
        CALLS[method](env)


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("ForkEpisode", pb.ForkEpisodeResponse(fork_ids=["f"], observation=whole())),
        ("ForkEpisode", pb.ForkEpisodeResponse(fork_ids=["g", "f"], observation=whole())),
        ("ForkEpisode", pb.ForkEpisodeResponse(fork_ids=["f", "g"], observation=whole(step_count=1))),
        ("ForkEpisode", pb.ForkEpisodeResponse(fork_ids=["f", "g"], observation=whole(episode_id="e"))),
        ("ForkEpisode", pb.ForkEpisodeResponse(fork_ids=["f", "g"], observation=whole(tokens=[1]))),
        ("ForkEpisode", pb.ForkEpisodeResponse(fork_ids=["f", "g"], observation=whole(tokens_offset=1))),
        ("ForkEpisode", pb.ForkEpisodeResponse(fork_ids=["f", "g"], observation=whole(messages_offset=1))),
        ("ForkEpisode", pb.ForkEpisodeResponse(fork_ids=["f", "g"], observation=whole(prompt_fingerprint="0"))),
        ("ExportEpisode", pb.ExportEpisodeResponse(snapshot=pb.EpisodeSnapshot(episode_id="other"))),
        ("ExportEpisode", pb.ExportEpisodeResponse()),
        ("ImportEpisode", pb.ImportEpisodeResponse(observation=whole(episode_id="other", step_count=2))),
        ("ImportEpisode", pb.ImportEpisodeResponse(observation=whole(episode_id="e", step_count=3))),
        ("ImportEpisode", pb.ImportEpisodeResponse(observation=whole(episode_id="e", step_count=2, tokens_offset=1))),
        ("ListEpisodes", pb.ListEpisodesResponse(episodes=[pb.EpisodeSummary(episode_id="other")])),
        ("ListEpisodes", pb.ListEpisodesResponse(next_page_token="again")),
        ("SetReward", pb.SetRewardResponse(step=2, reward=0.5)),
        ("SetReward", pb.SetRewardResponse(step=1, reward=math.nan)),
        ("SetReward", pb.SetRewardResponse(step=1, rewards=REWARDS * 2)),
        ("FailEpisode", pb.FailEpisodeResponse()),
        ("FailEpisode", pb.FailEpisodeResponse(failure=pb.Failure(kind=99))),  # type: ignore[arg-type]
        ("DescribeTokens", pb.DescribeTokensResponse(tokens=[TOKEN])),
        ("ListRows", pb.ListRowsResponse(next_page_token="again")),
        ("ListRows", pb.ListRowsResponse(rows=[pb.Row(public_json="[]")])),
    ],
)
def test_an_answer_that_does_not_fit_what_was_asked_for_is_none(
    server: StrangeServer, method: str, answer: ProtoMessage
) -> None:
    env = ChatEnv(server.address)
    env.reset(episode_id="e")
    server.answers[method] = constant(answer)
    with pytest.raises(ProtocolError):
        CALLS[method](env)
    server.answers["Step"] = constant(ANSWERS["Step"])
    assert env.step(ChatAction(tokens=[1, 2])).observation.token_ids.tolist() == [1, 2]


def test_the_asynchronous_client_says_the_same(server: StrangeServer) -> None:
    server.answers["Reset"] = constant(JUNK)

    async def ask() -> None:
        async with AsyncChatEnv(server.address) as env:
            with pytest.raises(ProtocolError, match="update"):
                await env.reset()

    asyncio.run(ask())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_comes_ends_in_a_result_or_a_typed_error(server: StrangeServer, data: st.DataObject) -> None:
    method = data.draw(st.sampled_from([name for name in CALLS if name != "CloseEpisode"]))
    server.answers.clear()
    with ChatEnv(server.address) as env:
        env.reset(episode_id="e")
        server.answers[method] = constant(data.draw(st.binary(max_size=32) | mutated(ANSWERS[method])))
        try:
            CALLS[method](env)
        except ChatEnvError:
            server.answers["Step"] = constant(ANSWERS["Step"])
            assert env.step(ChatAction(tokens=[1, 2])).observation.token_ids.tolist() == [1, 2]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_comes_for_a_batch_ends_in_results_or_a_typed_error(
    server: StrangeServer, data: st.DataObject
) -> None:
    server.answers.clear()
    env = VectorChatEnv(server.address, 2)
    env.reset([{"episode_id": "e"}, {"episode_id": "e2"}])
    right = pb.BatchStepResponse(results=[pb.BatchStepResult(response=ANSWERS["Step"])] * 2)  # type: ignore[arg-type]
    server.answers["BatchStep"] = constant(data.draw(st.binary(max_size=32) | mutated(right)))
    sampled = ChatAction(tokens=[1, 2])
    try:
        env.step([sampled, sampled])
    except ChatEnvError:
        for session in env._session.sessions:
            assert (session._live().step_count, session._live().token_count) in {(0, 0), (1, 2)}
        assert env._session.sessions[1]._live().step_count == 0


@given(st.binary(max_size=40), st.binary(max_size=40), st.integers(-5, 50))
def test_whatever_stands_in_an_errors_details_it_is_told(first: bytes, second: bytes, code: int) -> None:
    urls = ("type.googleapis.com/google.rpc.ErrorInfo", "type.googleapis.com/google.rpc.BadRequest")
    status = status_pb2.RpcStatus(code=code, message="what the server says")
    for url, value in zip(urls, (first, second), strict=True):
        status.details.add(type_url=url, value=value)
    assert "what the server says" in str(wire.error_from_item(status))
    assert wire.error_from_item(status).code != "OK"


def test_junk_in_the_details_of_a_failed_call_hides_no_failure(server: StrangeServer) -> None:
    status = status_pb2.RpcStatus(code=3)
    status.details.add(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=JUNK)
    for details in (JUNK, status.SerializeToString()):
        server.answers["Reset"] = failing(grpc.StatusCode.NOT_FOUND, details)
        with pytest.raises(ChatEnvError, match="what the server says") as caught:
            ChatEnv(server.address).reset()
        assert caught.value.code == "NOT_FOUND"


def test_a_server_without_the_method_is_to_be_updated(server: StrangeServer) -> None:
    env = ChatEnv(server.address)
    env.reset()
    with pytest.raises(ProtocolError, match="update the server") as caught:
        env.audit()
    assert caught.value.code == "UNIMPLEMENTED"


@pytest.mark.parametrize("results", [0, 1, 3])
def test_another_number_of_results_than_of_items_is_a_protocol_error(server: StrangeServer, results: int) -> None:
    failed = pb.BatchStepResponse(results=[pb.BatchStepResult()] * results)
    env = VectorChatEnv(server.address, 2)
    env.reset()
    for answer in (failed, JUNK):
        server.answers["BatchStep"] = constant(answer)
        with pytest.raises(ProtocolError, match="update"):
            env.step([HELLO, HELLO])


def huge_turns(episode_id: str) -> pb.GetTrajectoryResponse:
    turns = [pb.Turn(origin=pb.ORIGIN_TEMPLATE, length=2**32 - 1)]
    return pb.GetTrajectoryResponse(episode_id=episode_id, segments=[pb.Segment(turns=turns)])


def huge_runs(episode_id: str) -> pb.GetTrajectoryResponse:
    return pb.GetTrajectoryResponse(episode_id=episode_id, segments=[pb.Segment(loss_mask_runs=[2**32 - 1] * 3)])


def huge_sharing(episode_id: str) -> pb.GetTrajectoryResponse:
    long = pb.Segment(tokens=[0] * 2**16, turns=[pb.Turn(origin=pb.ORIGIN_TEMPLATE, length=2**16)])
    sharing = pb.Segment(shared_tokens=2**16, turns=long.turns, loss_mask_runs=[2**16])
    return pb.GetTrajectoryResponse(episode_id=episode_id, segments=[long] + [sharing] * 2**12)


@pytest.mark.parametrize("huge", [huge_turns, huge_runs, huge_sharing])
def test_lengths_are_checked_before_anything_is_allocated(
    server: StrangeServer, huge: Callable[[str], pb.GetTrajectoryResponse]
) -> None:
    tracemalloc = pytest.importorskip("tracemalloc")
    server.answers["GetTrajectory"] = constant(huge("e"))
    env = ChatEnv(server.address)
    env.reset(episode_id="e")
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError, match=r"cover|more than a client takes"):
            env.trajectory()
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "turns",
    [
        [pb.Turn(origin=pb.ORIGIN_TEMPLATE, start=1, length=2)],
        [pb.Turn(origin=pb.ORIGIN_TEMPLATE, length=2), pb.Turn(origin=pb.ORIGIN_TEMPLATE, length=1)],
        [pb.Turn(origin=pb.ORIGIN_TEMPLATE, length=2)],
    ],
    ids=["begins late", "overlaps", "ends early"],
)
def test_turns_that_do_not_cover_the_stream_are_a_protocol_error(turns: list[pb.Turn]) -> None:
    with pytest.raises(ProtocolError, match="cover"):
        wire.turns_from_proto(turns, 3)


@pytest.mark.parametrize("method", ["GetState", "GetTrajectory"])
def test_no_answer_is_taken_about_another_episode(server: StrangeServer, method: str) -> None:
    server.answers[method] = constant(ANSWERS[method])
    env = ChatEnv(server.address)
    env.reset(episode_id="mine")
    with pytest.raises(ProtocolError, match="'e', not 'mine'"):
        CALLS[method](env)


def test_resume_takes_no_answer_for_another_id(server: StrangeServer) -> None:
    state = pb.GetStateResponse(episode_id="y", prompt_fingerprint=fingerprint_of(EMPTY_TOKENS))
    server.answers["GetState"] = constant(state)
    env = ChatEnv(server.address)
    with pytest.raises(ProtocolError, match="'y', not 'x'"):
        env.resume("x")
    assert env.episode_id is None
    assert env.resume("y").observation.episode_id == "y"


# A server that hangs, or that is gone.


@pytest.mark.parametrize("connect", [ChatEnv, lambda address: VectorChatEnv(address, 64)], ids=["one", "many"])
def test_ctrl_c_on_a_hung_server_ends_the_block_soon(server: StrangeServer, connect: Callable[[str], Any]) -> None:
    began = 0.0
    with pytest.raises(KeyboardInterrupt), connect(server.address) as env:  # noqa: PT012
        env.reset()
        server.answers["CloseEpisode"] = hang
        began = time.monotonic()
        raise KeyboardInterrupt
    assert time.monotonic() - began < FAREWELL_S + 3


PROGRAM = """
import os, sys
from chatenv_client import ChatEnv, VectorChatEnv
from tests.client.strange_server import StrangeServer, hang

HELLO = {"role": "user", "content": "Hello!"}

server = StrangeServer()
try:
    with ChatEnv(server.address) if sys.argv[1] == "one" else VectorChatEnv(server.address, 300) as env:
        env.reset()
        server.answers |= dict.fromkeys(["Step", "BatchStep", "CloseEpisode"], hang)
        print("asks", flush=True)
        env.step(HELLO if sys.argv[1] == "one" else [HELLO] * 300)
except KeyboardInterrupt:
    print("left", flush=True)
os._exit(0)
"""


@pytest.mark.parametrize("clients", ["one", "many"])
def test_ctrl_c_in_a_call_that_hangs_ends_the_block_soon(clients: str) -> None:
    command = [sys.executable, "-c", PROGRAM, clients]
    with subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "asks\n"
        time.sleep(0.5)
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "left\n"
        assert time.monotonic() - began < FAREWELL_S + 3


def test_cancelling_a_task_on_a_hung_server_ends_the_block_soon(server: StrangeServer) -> None:
    server.answers |= {"Step": hang, "CloseEpisode": hang}

    async def play() -> None:
        async with AsyncChatEnv(server.address) as env:
            await env.reset()
            await env.step(HELLO)

    async def cancel() -> float:
        task = asyncio.create_task(play())
        await asyncio.sleep(0.3)
        began = time.monotonic()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        return time.monotonic() - began

    assert asyncio.run(cancel()) < FAREWELL_S + 3


def test_a_reset_is_retried_only_where_it_surely_names_its_episode(server: StrangeServer) -> None:
    server.answers["Reset"] = failing_once(open_one)
    with ChatEnv(server.address) as env:
        env.reset()
    server.answers["Reset"] = failing_once(open_one)
    with grpc.insecure_channel(server.address, channel_options()) as channel, pytest.raises(UnavailableError):
        ChatEnv(channel).reset()


def test_a_reset_whose_answer_is_lost_leaves_no_episode_behind(server: StrangeServer) -> None:
    asked = []

    def note(request: bytes, context: Any) -> bytes:
        asked.append(pb.ResetRequest.FromString(request).episode_id)
        return open_one(request, context) if len(asked) > 1 else JUNK

    server.answers["Reset"] = note
    with ChatEnv(server.address) as env:
        with pytest.raises(ProtocolError):
            env.reset()
        env.reset()
        env.reset()
    assert asked[0] == asked[1] != asked[2]


def test_a_server_that_is_there_again_is_noticed_soon() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with ChatEnv(f"127.0.0.1:{port}") as env:
        gone = time.monotonic()
        while time.monotonic() - gone < 7:  # by gRPC's own pauses it would next try in two seconds or more
            with pytest.raises(ChatEnvError):
                env.server_info(timeout_s=0.5)
            time.sleep(0.05)
        server = StrangeServer(port)
        back = time.monotonic()
        while True:
            with suppress(ChatEnvError):
                env.server_info(timeout_s=0.5)
                break
        assert time.monotonic() - back < 2
        server.stop()
