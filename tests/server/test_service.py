"""The guarded service over a real channel: admission, isolation, what leaks and what does not."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from queue import SimpleQueue
from typing import Any, cast

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client._generated.chatenv_pb2_grpc import ChatEnvServiceStub
from chatenv_client.channel import channel_options
from chatenv_client.errors import InvalidRequestError
from chatenv_client.health import SERVICE
from chatenv_client.models import ChatObservation
from chatenv_client.wire import error_from_status, parse_status
from chatenv_server.engine import TokenEngine
from chatenv_server.rpc.crew import MAX_OTHER_CALLS
from chatenv_server.rpc.failures import MAX_MESSAGE_BYTES, status_of
from chatenv_server.running import healthcheck
from chatenv_server.running.process import RunningServer, start
from chatenv_server.settings.settings import Settings
from tests.server.conftest import Serve

SECRET = "hunter2-correct-horse"


class Gatekeeper:
    """A transform whose calls wait until they are let go."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self.let_go = threading.Event()

    def __call__(self, observation: ChatObservation) -> ChatObservation:
        self.entered.release()
        assert self.let_go.wait(30)
        return observation


class StuckWhenAsked(Gatekeeper):
    """Waits only in steps whose episode is called `slow...`."""

    def __call__(self, observation: ChatObservation) -> ChatObservation:
        return super().__call__(observation) if observation.episode_id.startswith("slow") else observation


@contextmanager
def connected(server: RunningServer, **options: Any) -> Iterator[ChatEnvServiceStub]:
    without_retries = [option for option in channel_options(**options) if option[0] != "grpc.service_config"]
    with grpc.insecure_channel(server.addresses[0], without_retries) as channel:
        yield ChatEnvServiceStub(channel)


def raw_channel(server: RunningServer) -> Any:
    """A channel to call with bytes."""
    return grpc.insecure_channel(server.addresses[0])


def a_step(episode_id: str, **fields: Any) -> pb.StepRequest:
    return pb.StepRequest(episode_id=episode_id, messages=[pb.Message(role="user", content="hi")], **fields)


def reason_of(call: Any) -> str:
    """The reason of a failed call, from its details."""
    trailing = dict(call.trailing_metadata())
    status = parse_status(trailing["grpc-status-details-bin"])
    return error_from_status(call.code().name, call.details(), status).reason


@contextmanager
def slow_steps(stub: ChatEnvServiceStub, gatekeeper: Gatekeeper, count: int) -> Iterator[list[Any]]:
    """Steps of as many episodes, all in the middle of their transforms."""
    for number in range(count):
        stub.Reset(pb.ResetRequest(episode_id=f"slow-{number}"))
    calls = [stub.Step.future(a_step(f"slow-{number}")) for number in range(count)]
    try:
        for _ in calls:
            assert gatekeeper.entered.acquire(timeout=30)
        yield calls
    finally:
        gatekeeper.let_go.set()


def test_beyond_its_places_a_server_is_busy_at_once_and_unharmed(serve: Serve) -> None:
    gatekeeper = StuckWhenAsked()
    server = serve(transform=gatekeeper, max_concurrent_calls=2)
    with connected(server) as stub:
        with slow_steps(stub, gatekeeper, 2) as calls:
            for _ in range(50):
                with pytest.raises(grpc.RpcError) as refusal:
                    stub.GetServerInfo(pb.GetServerInfoRequest())
                assert refusal.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
                assert reason_of(refusal.value) == "BUSY"
        assert [call.result().observation.step_count for call in calls] == [1, 1]
        assert stub.GetServerInfo(pb.GetServerInfoRequest()).live_episodes == 2


def test_health_is_answered_while_all_places_are_taken(serve: Serve) -> None:
    gatekeeper = StuckWhenAsked()
    server = serve(transform=gatekeeper, max_concurrent_calls=1)
    with connected(server) as stub, grpc.insecure_channel(server.addresses[0]) as channel:
        health = cast("Any", health_pb2_grpc.HealthStub(channel))
        with slow_steps(stub, gatekeeper, 1):
            for name in ("", SERVICE):
                answer = health.Check(health_pb2.HealthCheckRequest(service=name), timeout=10)
                assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_health_is_answered_while_callers_hold_on_to_reflection(serve: Serve) -> None:
    server = serve(max_concurrent_calls=1)
    for_ever: SimpleQueue[Any] = SimpleQueue()
    with connected(server) as stub, grpc.insecure_channel(server.addresses[0]) as channel:
        ask = cast("Any", reflection_pb2_grpc.ServerReflectionStub(channel)).ServerReflectionInfo
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        streams = [ask(chain([asked], iter(for_ever.get, None))) for _ in range(2 * MAX_OTHER_CALLS)]
        held = [stream for stream in streams if is_answered(stream)]
        assert len(held) == MAX_OTHER_CALLS
        assert healthcheck.main(["--address", server.addresses[0], "--timeout", "10"]) == 0
        assert stub.GetServerInfo(pb.GetServerInfoRequest(), timeout=10).version
        for stream in held:
            stream.cancel()


def is_answered(stream: Any) -> bool:
    """Whether a stream gets its first answer; if not, then because there are too many."""
    try:
        next(stream)
    except grpc.RpcError:
        assert stream.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        return False
    return True


def test_thirty_slow_transforms_do_not_hold_up_another_episode(serve: Serve) -> None:
    gatekeeper = StuckWhenAsked()
    server = serve(transform=gatekeeper)
    with connected(server) as stub:
        stub.Reset(pb.ResetRequest(episode_id="quick"))
        with slow_steps(stub, gatekeeper, 30) as calls:
            assert stub.Step(a_step("quick"), timeout=10).observation.step_count == 1
            assert stub.GetState(pb.GetStateRequest(episode_id="quick"), timeout=10).step_count == 1
            assert not any(call.done() for call in calls)


def test_a_call_on_a_slow_episode_gives_up_at_its_own_deadline(serve: Serve) -> None:
    gatekeeper = StuckWhenAsked()
    server = serve(transform=gatekeeper)
    with connected(server) as stub, slow_steps(stub, gatekeeper, 1) as calls:
        with pytest.raises(grpc.RpcError) as refusal:
            stub.GetState(pb.GetStateRequest(episode_id="slow-0"), timeout=0.2)
        assert refusal.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        gatekeeper.let_go.set()
        assert calls[0].result().observation.step_count == 1


def test_a_step_whose_caller_hung_up_may_be_asked_for_again(serve: Serve) -> None:
    gatekeeper = StuckWhenAsked()
    server = serve(transform=gatekeeper)
    with connected(server) as stub:
        stub.Reset(pb.ResetRequest(episode_id="slow"))
        with pytest.raises(grpc.RpcError):
            stub.Step(a_step("slow", step_index=0), timeout=0.2)
        assert gatekeeper.entered.acquire(timeout=30)
        gatekeeper.let_go.set()
        assert stub.Step(a_step("slow", step_index=0), timeout=10).observation.step_count == 1


def test_who_asks_again_may_hold_more_or_less_than_before(serve: Serve) -> None:
    with connected(serve()) as stub:
        stub.Reset(pb.ResetRequest(episode_id="e"))
        first = stub.Step(a_step("e", step_index=0, known_messages=1)).observation
        again = stub.Step(a_step("e", step_index=0)).observation
        assert (first.messages_offset, again.messages_offset) == (1, 0)
        assert again.tokens == first.tokens
        with pytest.raises(grpc.RpcError) as refusal:
            stub.Step(pb.StepRequest(episode_id="e", step_index=0, tokens=[65]))
        assert reason_of(refusal.value) == "STEP_INDEX_MISMATCH"


def raises_secret(_observation: ChatObservation) -> ChatObservation:
    raise RuntimeError(f"password {SECRET}")


def test_what_a_transform_raised_is_told_to_its_author_and_stays_in_the_process(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve(transform=raises_secret)
    with connected(server) as stub, caplog.at_level(logging.INFO):
        stub.Reset(pb.ResetRequest(episode_id="e"))
        with pytest.raises(grpc.RpcError) as refusal:
            stub.Step(a_step("e"))
        state = stub.GetState(pb.GetStateRequest(episode_id="e"))
    assert refusal.value.code() is grpc.StatusCode.INTERNAL
    assert reason_of(refusal.value) == "TRANSFORM_FAILED"
    assert SECRET not in f"{refusal.value.details()}{refusal.value.trailing_metadata()}"
    assert state.step_count == 0
    (line,) = [record for record in caplog.records if record.getMessage() == "call failed"]
    assert (line.levelname, vars(line)["exception"]) == ("WARNING", "RuntimeError")
    assert vars(line)["where"].startswith(f"raises_secret ({__file__}:")
    assert f"password {SECRET}" in vars(line)["problem"]


def test_the_place_is_in_the_code_of_the_transforms_author(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    def parses(observation: ChatObservation) -> ChatObservation:
        observation.reward = json.loads("5, roughly")
        return observation

    with connected(serve(transform=parses)) as stub, caplog.at_level(logging.INFO):
        stub.Reset(pb.ResetRequest(episode_id="e"))
        with pytest.raises(grpc.RpcError):
            stub.Step(a_step("e"))
    (line,) = [record for record in caplog.records if record.getMessage() == "call failed"]
    assert vars(line)["where"].startswith(f"parses ({__file__}:")
    assert "Extra data" in vars(line)["problem"]


def test_a_transform_that_cannot_be_made_is_to_blame_and_nothing_is_opened(
    engine: TokenEngine, caplog: pytest.LogCaptureFixture
) -> None:
    def make() -> Any:
        raise FileNotFoundError("no answers.json")

    server = start(Settings(listen=("127.0.0.1:0",)), engine=engine, open_transform=make)
    try:
        with connected(server) as stub, caplog.at_level(logging.INFO):
            with pytest.raises(grpc.RpcError) as refusal:
                stub.Reset(pb.ResetRequest(episode_id="e"))
            assert reason_of(refusal.value) == "TRANSFORM_FAILED"
            assert stub.GetServerInfo(pb.GetServerInfoRequest()).live_episodes == 0
    finally:
        server.stop(0)
    (line,) = [record for record in caplog.records if record.getMessage() == "call failed"]
    assert "no answers.json" in vars(line)["problem"]


def test_an_error_of_our_own_making_tells_nothing_but_that_it_was_ours(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve()

    def fail() -> None:
        raise KeyError(SECRET)

    monkeypatch.setattr(server._servicer, "_describe", fail)
    with connected(server) as stub, pytest.raises(grpc.RpcError) as refusal:
        stub.GetServerInfo(pb.GetServerInfoRequest())
    assert refusal.value.code() is grpc.StatusCode.INTERNAL
    assert reason_of(refusal.value) == "INTERNAL"
    assert SECRET not in f"{refusal.value.details()}{refusal.value.trailing_metadata()}"


def test_asking_for_a_status_logs_nothing_and_leaves_the_error_as_it_was(caplog: pytest.LogCaptureFixture) -> None:
    error = InvalidRequestError("m" * 5000, field="f" * 500, details={"longest": "d" * 500})
    before = dict(vars(error))
    with caplog.at_level(logging.DEBUG):
        status = status_of(error)
    assert (len(status.message), vars(error), caplog.records) == (MAX_MESSAGE_BYTES + 3, before, [])


def test_a_copy_answers_again_for_its_own_last_step_alone(serve: Serve) -> None:
    with connected(serve()) as stub:
        stub.Reset(pb.ResetRequest(episode_id="a"))
        first = stub.Step(a_step("a", step_index=0))
        stub.ForkEpisode(pb.ForkEpisodeRequest(episode_id="a", fork_ids=["b"]))
        with pytest.raises(grpc.RpcError) as refusal:
            stub.Step(a_step("b", step_index=0))
        assert reason_of(refusal.value) == "STEP_INDEX_MISMATCH"
        snapshot = stub.ExportEpisode(pb.ExportEpisodeRequest(episode_id="a")).snapshot
        stub.CloseEpisode(pb.CloseEpisodeRequest(episode_id="a"))
        stub.ImportEpisode(pb.ImportEpisodeRequest(snapshot=snapshot))
        assert stub.Step(a_step("a", step_index=0)) == first
        assert stub.GetState(pb.GetStateRequest(episode_id="a")).step_count == 1


def test_each_failed_call_is_one_line_without_its_prompt(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    with connected(serve()) as stub, caplog.at_level(logging.INFO):
        bad = pb.Message(role="", content="a private prompt")
        with pytest.raises(grpc.RpcError):
            stub.Reset(pb.ResetRequest(messages=[bad]))
    (line,) = caplog.records
    fields = vars(line)
    assert fields["method"] == "Reset"
    assert (fields["code"], fields["reason"]) == ("INVALID_ARGUMENT", "BAD_ROLE")
    assert fields["field"] == "messages[0].role"
    assert "private" not in str(fields)


def test_bytes_that_are_no_message_are_the_callers_fault(serve: Serve) -> None:
    server = serve()
    with raw_channel(server) as channel:
        for call in (
            channel.unary_unary(f"/{SERVICE}/Step").future(b"\xff\xff"),
            channel.stream_stream(f"/{SERVICE}/StreamSteps")(iter([b"\xff\xff"])),
        ):
            assert call.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert reason_of(call) == "MALFORMED_REQUEST"


def test_a_method_that_is_none_is_unimplemented(serve: Serve) -> None:
    with raw_channel(serve()) as channel:
        assert channel.unary_unary(f"/{SERVICE}/Nothing").future(b"").code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_long_message_of_a_template_still_fits_into_the_trailers(serve: Serve) -> None:
    with connected(serve()) as stub, pytest.raises(grpc.RpcError) as refusal:
        stub.Step(a_step("é" * 100_000))
    assert refusal.value.code() is grpc.StatusCode.NOT_FOUND
    long_name = '{"' + "漢" * 50_000 + '-": 1}'
    with connected(serve()) as stub, pytest.raises(grpc.RpcError) as refusal:
        stub.Reset(pb.ResetRequest(chat_template_kwargs_json=long_name))
    assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert reason_of(refusal.value) == "BAD_TEMPLATE_KWARGS"


def tokens_of_size(size: int) -> pb.StepRequest:
    """A Step of sampled tokens, of exactly `size` bytes; its answer is small."""
    request = pb.StepRequest(episode_id="e", tokens=[65] * (size // 4 - 20), known_tokens=2**31, known_messages=1)
    request.model_version = "v"
    request.model_version = "v" * (size - request.ByteSize() + 1)
    assert request.ByteSize() == size
    return request


def test_a_message_of_exactly_the_limit_is_taken_and_one_byte_more_is_not(serve: Serve) -> None:
    limit = 20_000
    with connected(serve(max_message_bytes=limit), max_message_bytes=10 * limit) as stub:
        stub.Reset(pb.ResetRequest(episode_id="e"))
        too_large = stub.Step.future(tokens_of_size(limit + 1))
        assert too_large.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "grpc-status-details-bin" not in dict(too_large.trailing_metadata())
        assert stub.Step(tokens_of_size(limit)).observation.step_count == 1


def test_an_answer_beyond_the_limit_is_refused_and_the_server_goes_on(serve: Serve) -> None:
    with connected(serve(max_message_bytes=2000)) as stub:
        stub.Reset(pb.ResetRequest(episode_id="e"))
        for index in range(2):
            stub.Step(a_step("e", step_index=index, known_tokens=2**31 - 1, known_messages=99))
        stub.Step(pb.StepRequest(episode_id="e", tokens=[65] * 450, known_tokens=2**31, known_messages=99))
        assert stub.GetState.future(pb.GetStateRequest(episode_id="e")).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert stub.CloseEpisode(pb.CloseEpisodeRequest(episode_id="e")).was_live


def test_reflection_tells_the_services_and_can_be_switched_off(serve: Serve) -> None:
    for switched_on in (True, False):
        with grpc.insecure_channel(serve(reflection=switched_on).addresses[0]) as channel:
            stub = reflection_pb2_grpc.ServerReflectionStub(channel)
            asked = reflection_pb2.ServerReflectionRequest(list_services="")
            answers = cast("Any", stub).ServerReflectionInfo(iter([asked]))
            if switched_on:
                names = {service.name for service in next(answers).list_services_response.service}
                assert {SERVICE, "grpc.health.v1.Health"} <= names
            else:
                assert answers.code() is grpc.StatusCode.UNIMPLEMENTED


def test_an_idle_episode_expires_and_the_log_says_so(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    server = serve(idle_timeout=10.0, clock=lambda: now[0])
    with connected(server) as stub, caplog.at_level(logging.INFO):
        stub.Reset(pb.ResetRequest(episode_id="e"))
        now[0] = 11.0
        with pytest.raises(grpc.RpcError) as refusal:
            stub.GetState(pb.GetStateRequest(episode_id="e"))
        assert reason_of(refusal.value) == "EPISODE_EXPIRED"
    assert [vars(r)["episode_id"] for r in caplog.records if r.getMessage() == "episode expired"] == ["e"]


def test_idle_episodes_are_swept_away_without_any_call(serve: Serve) -> None:
    server = serve(idle_timeout=0.05)
    with connected(server) as stub:
        stub.Reset(pb.ResetRequest(episode_id="e"))
        while stub.GetServerInfo(pb.GetServerInfoRequest()).live_episodes:
            pass


def test_what_the_server_is_and_holds(serve: Serve) -> None:
    server = serve(max_steps=3, idle_timeout=0.0, max_live_tokens=2**40)
    with connected(server) as stub:
        stub.Reset(pb.ResetRequest(messages=[pb.Message(role="user", content="hi")]))
        info = stub.GetServerInfo(pb.GetServerInfoRequest())
    assert info.tokenizer_name == "bytes"
    assert info.vocabulary_size == info.token_id_limit == 259
    assert [(token.id, token.text, token.stops) for token in info.special_tokens] == [
        (256, "<|im_start|>", False),
        (257, "<|im_end|>", True),
        (258, "<|endoftext|>", info.special_tokens[2].stops),
    ]
    assert info.limits.max_steps == 3
    assert info.limits.idle_timeout_seconds == 0
    assert info.limits.max_live_tokens == 2**40
    assert info.live_episodes == 1
    assert info.live_tokens > 0
    assert info.uptime_seconds > 0


def test_after_stop_the_port_is_free_again(serve: Serve) -> None:
    server = serve()
    assert server.stop(5)
    serve(listen=(server.addresses[0],))
