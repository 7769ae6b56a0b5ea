"""The table of errors, each row through a real channel: status, reason, bad field, and the client's exception."""

from __future__ import annotations

import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from chatenv_client import ChatAction, ChatEnv, ChatObservation, channel_options, errors
from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client._generated import status_pb2
from chatenv_client._generated.chatenv_pb2_grpc import ChatEnvServiceStub
from chatenv_client.calls import error_from_rpc
from chatenv_client.errors import ChatEnvError
from chatenv_client.wire import parse_status
from tests.contract.conftest import Serving

HELLO = pb.Message(role="user", content="Hello!")
SECRET = "hunter2 in /etc/secret"


@dataclass(frozen=True)
class Row:
    """One thing that a caller may do wrong, and what it gets."""

    rpc: str
    request: Any
    """The request. Its empty episode_id is filled in with a live episode's, with one message and one step taken."""
    reason: str
    field: str = ""
    kind: type[ChatEnvError] = errors.InvalidRequestError


def step(**fields: Any) -> pb.StepRequest:
    return pb.StepRequest(**fields)


def step_of(**message: Any) -> pb.StepRequest:
    return pb.StepRequest(messages=[HELLO, pb.Message(**message)])


def reset(**fields: Any) -> pb.ResetRequest:
    return pb.ResetRequest(**fields)


CALL_WITHOUT_NAME = pb.ToolCall(arguments_json="{}")
CALL_WITH_BAD_ARGUMENTS = pb.ToolCall(name="f", arguments_json="{")
VERSION_OF_TWO = pb.ModelVersionRun(model_version="a", length=2)
VERSION_WITHOUT_NAME = pb.ModelVersionRun(length=1)
BROKE = pb.Failure(kind=pb.FailureKind.FAILURE_KIND_TOOL, reason="gone")
SNAPSHOT_OF_LATER = pb.EpisodeSnapshot(
    format=2, episode_id="later", entries=[pb.EpisodeEntry(opened=pb.ResetRequest())]
)
CALL_WITH_NUMBER = pb.ToolCall(name="f", arguments_json="3")

ROWS = [
    Row("Step", step(), "EMPTY_ACTION", "tokens"),
    Row("Step", step(tokens=[1], messages=[HELLO]), "BAD_ACTION", "tokens"),
    Row("Step", step(messages=[HELLO], logprobs=[0.5]), "BAD_ACTION", "messages"),
    Row("Step", step(messages=[HELLO], model_version="v"), "BAD_ACTION", "messages"),
    Row("Step", step(messages=[HELLO], stop_reason=pb.STOP_REASON_STOP), "BAD_ACTION", "messages"),
    Row("Step", step(messages=[HELLO], prompt_fingerprint="f"), "BAD_ACTION", "prompt_fingerprint"),
    Row("Step", step(tokens=[1, -1]), "TOKEN_OUT_OF_RANGE", "tokens[1]"),
    Row("Step", step(tokens=[1, 1, 2**31 - 1]), "TOKEN_OUT_OF_RANGE", "tokens[2]"),
    Row("Step", step(tokens=[1, 2], logprobs=[0.5]), "LOGPROBS_LENGTH", "logprobs"),
    Row("Step", step(tokens=[1], model_version="v" * 257), "BAD_ACTION", "model_version"),
    Row("Step", step(tokens=[1], stop_reason=77), "BAD_ENUM", "stop_reason"),
    Row("Step", step_of(content="a"), "BAD_ROLE", "messages[1].role"),
    Row("Step", step(tokens=[1, 2], sampled_runs=[1]), "SAMPLED_RUNS", "sampled_runs"),
    Row("Step", step(tokens=[1, 2], sampled_runs=[2**32 - 1, 3]), "SAMPLED_RUNS", "sampled_runs"),
    Row("Step", step(messages=[HELLO], sampled_runs=[0, 1]), "SAMPLED_RUNS", "sampled_runs"),
    Row("Step", step(tokens=[1], model_version_runs=[VERSION_OF_TWO]), "BAD_ACTION", "model_version_runs"),
    Row("Step", step(tokens=[1], model_version_runs=[VERSION_WITHOUT_NAME]), "BAD_ACTION", "model_version_runs"),
    Row("Step", step(replace_from=3), "BAD_REPLACE_FROM", "replace_from"),
    Row("Step", step(tokens=[1], replace_from=0), "BAD_ACTION", "tokens"),
    Row("Step", step_of(role="r" * 65, content="a"), "BAD_ROLE", "messages[1].role"),
    Row("Step", step_of(role="user"), "CONTENT_MISSING", "messages[1].content"),
    Row(
        "Step",
        step_of(role="a", content="", content_parts=[pb.ContentPart()]),
        "BAD_MESSAGE",
        "messages[1].content_parts",
    ),
    Row("Step", step_of(role="a", content_parts=[pb.ContentPart(type="image")]), "BAD_MESSAGE", "messages[1].content"),
    Row("Step", step_of(role="a", content="", extra_json="{"), "BAD_MESSAGE", "messages[1].extra_json"),
    Row(
        "Step",
        step_of(role="a", content="", tool_calls=[CALL_WITHOUT_NAME]),
        "BAD_MESSAGE",
        "messages[1].tool_calls[0].name",
    ),
    Row(
        "Step",
        step_of(role="a", content="", tool_calls=[CALL_WITH_BAD_ARGUMENTS]),
        "BAD_MESSAGE",
        "messages[1].tool_calls[0].arguments_json",
    ),
    Row(
        "Step",
        step_of(role="a", content="", tool_calls=[CALL_WITH_NUMBER]),
        "BAD_MESSAGE",
        "messages[1].tool_calls[0].arguments_json",
    ),
    Row("Step", step(messages=[HELLO], step_index=0), "STEP_INDEX_MISMATCH", "", errors.StepIndexMismatchError),
    Row("Step", step(messages=[HELLO], step_index=7), "STEP_INDEX_MISMATCH", "", errors.StepIndexMismatchError),
    Row("Step", step(tokens=[1], prompt_fingerprint="0" * 32), "PROMPT_MISMATCH", "", errors.PromptMismatchError),
    Row("Reset", reset(episode_id="no spaces"), "BAD_EPISODE_ID", "episode_id"),
    Row("Reset", reset(episode_id="x" * 129), "BAD_EPISODE_ID", "episode_id"),
    Row("Reset", reset(tools_json="{"), "BAD_TOOLS", "tools_json"),
    Row("Reset", reset(tools_json="[1]"), "BAD_TOOLS", "tools_json"),
    Row("Reset", reset(tools_json="[" * 10**5), "BAD_TOOLS", "tools_json"),
    Row("Reset", reset(metadata_json="[]"), "BAD_METADATA", "metadata_json"),
    Row("Reset", reset(chat_template_kwargs_json="1"), "BAD_TEMPLATE_KWARGS", "chat_template_kwargs_json"),
    Row(
        "Reset", reset(chat_template_kwargs_json='{"messages": []}'), "BAD_TEMPLATE_KWARGS", "chat_template_kwargs_json"
    ),
    Row("Reset", reset(max_steps=0), "BAD_LIMIT", "max_steps"),
    Row("Reset", reset(max_tokens=0), "BAD_LIMIT", "max_tokens"),
    Row("Reset", reset(history_policy=9), "BAD_ENUM", "history_policy"),
    Row("Reset", reset(control_token_policy=9), "BAD_ENUM", "control_token_policy"),
    Row("Reset", reset(clock={"seconds": 10**15}), "BAD_CLOCK", "clock"),
    Row("Reset", reset(messages=[pb.Message(content="a")]), "BAD_ROLE", "messages[0].role"),
    Row("Reset", reset(system_prompt="a", system_role="r" * 65), "BAD_ROLE", "system_role"),
    Row(
        "Reset",
        reset(system_prompt="a", messages=[pb.Message(role="system", content="b")]),
        "SYSTEM_PROMPT_TWICE",
        "system_prompt",
    ),
    Row("RenderMessage", pb.RenderMessageRequest(), "EMPTY_ACTION", "messages"),
    Row("RenderMessage", pb.RenderMessageRequest(messages=[pb.Message(content="a")]), "BAD_ROLE", "messages[0].role"),
    *(
        Row(rpc, request, "EPISODE_UNKNOWN", "", errors.EpisodeUnknownError)
        for rpc, request in [
            ("Step", step(episode_id="never-was", messages=[HELLO])),
            ("GetState", pb.GetStateRequest(episode_id="never-was")),
            ("GetTrajectory", pb.GetTrajectoryRequest(episode_id="never-was")),
            ("RenderMessage", pb.RenderMessageRequest(episode_id="never-was", messages=[HELLO])),
            ("AuditEpisode", pb.AuditEpisodeRequest(episode_id="never-was")),
            ("ForkEpisode", pb.ForkEpisodeRequest(episode_id="never-was")),
            ("ExportEpisode", pb.ExportEpisodeRequest(episode_id="never-was")),
            ("SetReward", pb.SetRewardRequest(episode_id="never-was", step=1, reward=1.0)),
            ("FailEpisode", pb.FailEpisodeRequest(episode_id="never-was", failure=BROKE)),
            ("FinishEpisode", pb.FinishEpisodeRequest(episode_id="never-was")),
        ]
    ),
    Row("ForkEpisode", pb.ForkEpisodeRequest(at_step=2), "BAD_AT_STEP", "at_step"),
    Row("ForkEpisode", pb.ForkEpisodeRequest(count=2**20), "BAD_COUNT", "count"),
    Row("ForkEpisode", pb.ForkEpisodeRequest(count=1, fork_ids=["a", "b"]), "BAD_COUNT", "count"),
    Row("ForkEpisode", pb.ForkEpisodeRequest(fork_ids=["twice", "twice"]), "BAD_COUNT", "fork_ids"),
    Row("ForkEpisode", pb.ForkEpisodeRequest(fork_ids=["a", "no id"]), "BAD_EPISODE_ID", "fork_ids[1]"),
    Row("ImportEpisode", pb.ImportEpisodeRequest(), "BAD_SNAPSHOT", "snapshot"),
    Row("ImportEpisode", pb.ImportEpisodeRequest(snapshot=SNAPSHOT_OF_LATER), "BAD_SNAPSHOT", "snapshot"),
    Row("ImportEpisode", pb.ImportEpisodeRequest(episode_id="no id"), "BAD_EPISODE_ID", "episode_id"),
    Row("ListEpisodes", pb.ListEpisodesRequest(page_size=1001), "BAD_PAGE", "page_size"),
    Row("ListEpisodes", pb.ListEpisodesRequest(page_token="none"), "BAD_PAGE", "page_token"),
    Row("SetReward", pb.SetRewardRequest(reward=1.0), "BAD_REWARD", "step"),
    Row("SetReward", pb.SetRewardRequest(step=1), "BAD_REWARD", "rewards"),
    Row("SetReward", pb.SetRewardRequest(step=0, reward=1.0), "BAD_REWARD", "step"),
    Row("SetReward", pb.SetRewardRequest(step=2, reward=1.0), "BAD_REWARD", "step"),
    Row("SetReward", pb.SetRewardRequest(turn=0, reward=1.0), "BAD_REWARD", "turn"),
    Row("SetReward", pb.SetRewardRequest(step=1, reward=float("nan")), "BAD_REWARD", "reward"),
    Row(
        "SetReward",
        pb.SetRewardRequest(step=1, rewards=[pb.NamedReward(value=1.0)]),
        "BAD_REWARD",
        "rewards[0].name",
    ),
    Row(
        "SetReward",
        pb.SetRewardRequest(step=1, rewards=[pb.NamedReward(name=n, value=1e308) for n in "ab"]),
        "BAD_REWARD",
        "rewards",
    ),
    Row("FailEpisode", pb.FailEpisodeRequest(), "BAD_FAILURE", "failure.kind"),
    Row("FailEpisode", pb.FailEpisodeRequest(failure=pb.Failure(kind=99)), "BAD_ENUM", "failure.kind"),  # type: ignore[arg-type]
    Row(
        "FailEpisode",
        pb.FailEpisodeRequest(failure=pb.Failure(kind=BROKE.kind, reason="x" * 4097)),
        "BAD_FAILURE",
        "failure.reason",
    ),
    Row("Reset", reset(task="none"), "BAD_TASK", "task"),
    Row("Reset", reset(task_args_json='{"a":1}'), "BAD_TASK", "task_args_json"),
    Row("Reset", reset(task_args_json="[]"), "BAD_TASK", "task_args_json"),
    Row("Reset", reset(row=0), "BAD_TASK", "row"),
    Row("Reset", reset(max_turns=0), "BAD_LIMIT", "max_turns"),
    Row("Reset", reset(max_sampled_tokens=0), "BAD_LIMIT", "max_sampled_tokens"),
    Row("DescribeTokens", pb.DescribeTokensRequest(tokens=[0] * 16_385), "BATCH_SIZE", "tokens"),
    Row("ListRows", pb.ListRowsRequest(), "BAD_ROW", "row"),
    Row("ListRows", pb.ListRowsRequest(task="none"), "BAD_TASK", "task"),
    Row("BatchStep", pb.BatchStepRequest(), "BATCH_SIZE", "steps"),
    Row("BatchReset", pb.BatchResetRequest(), "BATCH_SIZE", "resets"),
    Row("BatchFinishEpisode", pb.BatchFinishEpisodeRequest(), "BATCH_SIZE", "finishes"),
]


def assert_failed(call: grpc.RpcError, reason: str, field: str, kind: type[ChatEnvError]) -> None:
    """The failed call carries ErrorInfo, BadRequest where a field is to blame, and becomes the right exception."""
    trailing: Any = call.trailing_metadata()
    status = parse_status(dict(trailing)["grpc-status-details-bin"])
    assert status is not None
    info, *rest = status.details
    assert info.type_url == "type.googleapis.com/google.rpc.ErrorInfo"
    assert status_pb2.ErrorInfo.FromString(info.value).domain == "chatenv"
    assert status_pb2.ErrorInfo.FromString(info.value).reason == reason
    violations = [v for item in rest for v in status_pb2.BadRequest.FromString(item.value).field_violations]
    assert [violation.field for violation in violations] == [field] * bool(field)
    assert call.code().value[0] == status.code
    assert call.details() == status.message
    error = error_from_rpc(call)
    assert type(error) is kind
    assert (error.code, error.reason, bool(error.field)) == (kind.code, reason, bool(field))
    assert SECRET not in str(status)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.rpc} {row.reason} {row.field}")
def test_what_a_caller_does_wrong_gets_its_row_of_the_table(stub: ChatEnvServiceStub, row: Row) -> None:
    live = stub.Reset(pb.ResetRequest(episode_id=uuid.uuid4().hex, messages=[HELLO])).observation.episode_id
    stub.Step(pb.StepRequest(episode_id=live, messages=[pb.Message(role="user", content="the step on record")]))
    request = type(row.request)()
    request.CopyFrom(row.request)
    if "episode_id" in request.DESCRIPTOR.fields_by_name and not request.episode_id:
        request.episode_id = live
    before = stub.GetState(pb.GetStateRequest(episode_id=live))
    with pytest.raises(grpc.RpcError) as caught:
        getattr(stub, row.rpc)(request)
    assert_failed(caught.value, row.reason, row.field, row.kind)
    assert stub.GetState(pb.GetStateRequest(episode_id=live)) == before


def test_a_closed_episode_is_said_to_be_closed(stub: ChatEnvServiceStub) -> None:
    closed = stub.Reset(pb.ResetRequest()).observation.episode_id
    stub.CloseEpisode(pb.CloseEpisodeRequest(episode_id=closed))
    with pytest.raises(grpc.RpcError) as caught:
        stub.Step(pb.StepRequest(episode_id=closed, messages=[HELLO]))
    assert_failed(caught.value, "EPISODE_CLOSED", "", errors.EpisodeClosedError)


def test_a_step_behind_the_end_is_refused(stub: ChatEnvServiceStub) -> None:
    done = stub.Reset(pb.ResetRequest(max_steps=1)).observation.episode_id
    stub.Step(pb.StepRequest(episode_id=done, messages=[HELLO]))
    with pytest.raises(grpc.RpcError) as caught:
        stub.Step(pb.StepRequest(episode_id=done, messages=[HELLO]))
    assert_failed(caught.value, "EPISODE_DONE", "", errors.EpisodeDoneError)


def test_a_fork_and_an_import_take_no_other_episodes_id(stub: ChatEnvServiceStub) -> None:
    one, other = (stub.Reset(pb.ResetRequest(messages=[HELLO])).observation.episode_id for _ in range(2))
    stub.Step(pb.StepRequest(episode_id=other, messages=[HELLO]))
    before = stub.GetState(pb.GetStateRequest(episode_id=other))
    snapshot = stub.ExportEpisode(pb.ExportEpisodeRequest(episode_id=one)).snapshot
    wrong: list[tuple[Any, Any]] = [
        (stub.ForkEpisode, pb.ForkEpisodeRequest(episode_id=one, fork_ids=[other])),
        (stub.ForkEpisode, pb.ForkEpisodeRequest(episode_id=one, fork_ids=[one])),
        (stub.ImportEpisode, pb.ImportEpisodeRequest(snapshot=snapshot, episode_id=other)),
    ]
    for call, request in wrong:
        with pytest.raises(grpc.RpcError) as caught:
            call(request)
        assert_failed(caught.value, "EPISODE_EXISTS", "", errors.EpisodeExistsError)
    assert stub.GetState(pb.GetStateRequest(episode_id=other)) == before


def test_bytes_that_are_no_request_are_the_callers_fault(channel: grpc.Channel) -> None:
    send_bytes: Any = channel.unary_unary("/chatenv.v1.ChatEnvService/Step")
    with pytest.raises(grpc.RpcError) as caught:
        send_bytes(b"\xff\xff\xff")
    assert_failed(caught.value, "MALFORMED_REQUEST", "", errors.InvalidRequestError)


# Rows that need a server of their own.


@contextmanager
def refused(reason: str, kind: type[ChatEnvError], field: str = "") -> Iterator[None]:
    with pytest.raises(kind) as caught:
        yield
    assert isinstance(caught.value.__cause__, grpc.RpcError)
    assert_failed(caught.value.__cause__, reason, field, kind)


def test_a_template_that_rejects_the_messages_says_so_in_its_own_words(serving: Serving, tmp_path: Path) -> None:
    template = tmp_path / "template.jinja"
    template.write_text(
        "{% for message in messages %}"
        "{% if message.role == 'tool' %}{{ raise_exception('No tools here, sorry!') }}{% endif %}"
        "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    with serving({"chat_template": str(template)}) as target, ChatEnv(target) as env:
        env.reset()
        with refused("TEMPLATE_REJECTED", errors.TemplateRejectedError, "messages"):
            env.step({"role": "tool", "content": "42"})
        assert env.step({"role": "user", "content": "a"}).observation.step_count == 1
        with pytest.raises(errors.TemplateRejectedError, match="No tools here, sorry!"):
            env.step({"role": "tool", "content": "42"})


def test_an_episode_that_other_settings_wrote_is_refused_and_kept(serving: Serving, tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/episodes.db"
    with serving({"store": store}) as target:
        ChatEnv(target).reset(episode_id="e", messages=[{"role": "user", "content": SECRET}])
        (snapshot,) = (fork.export() for fork in resumed(target, "e").fork())
    with serving({"store": store, "token_id_limit": 300}) as target, ChatEnv(target) as env:
        with refused("TOKENIZER_MISMATCH", errors.TokenizerMismatchError):
            env.resume("e")
        with refused("TOKENIZER_MISMATCH", errors.TokenizerMismatchError):
            env.import_episode(snapshot, "imported")
    with serving({"store": store}) as target:
        assert resumed(target, "e").step({"role": "user", "content": "a"}).observation.step_count == 1


def resumed(target: str, episode_id: str) -> ChatEnv:
    env = ChatEnv(target)
    env.resume(episode_id)
    return env


def test_an_episode_whose_record_was_altered_is_refused_and_others_go_on(serving: Serving, tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/episodes.db"
    with serving({"store": store}) as target:
        for name in ("damaged", "whole"):
            ChatEnv(target).reset(episode_id=name, messages=[{"role": "user", "content": SECRET}])
    with closing(sqlite3.connect(tmp_path / "episodes.db")) as file, file:
        file.execute("UPDATE entries SET entry = substr(entry, 1, 9) WHERE number = 1")
    with serving({"store": store}) as target, ChatEnv(target) as env:
        for _ in range(2):
            with refused("EPISODE_DAMAGED", errors.EpisodeDamagedError):
                env.resume("damaged")
        env.resume("whole")
        assert env.step({"role": "user", "content": "a"}).observation.step_count == 1


def test_a_store_that_does_not_answer_changes_nothing_and_recovers(serving: Serving, tmp_path: Path) -> None:
    with (
        serving({"store": f"sqlite:///{tmp_path}/episodes.db"}) as target,
        grpc.insecure_channel(target) as channel,  # without the client's retries
        ChatEnv(channel) as env,
        closing(sqlite3.connect(tmp_path / "episodes.db", isolation_level=None)) as other,
    ):
        env.reset(episode_id="e", messages=[{"role": "user", "content": SECRET}])
        other.execute("BEGIN IMMEDIATE")
        with refused("STORE_UNAVAILABLE", errors.StoreUnavailableError):
            env.step({"role": "user", "content": "a"})
        other.execute("ROLLBACK")
        assert env.step({"role": "user", "content": "a"}).observation.step_count == 1


def test_an_episode_that_was_idle_for_too_long_is_expired(serving: Serving) -> None:
    now = [0.0]
    with serving({"idle_timeout": 10.0}, clock=lambda: now[0]) as target, ChatEnv(target) as env:
        env.reset()
        now[0] = 9.0
        env.step({"role": "user", "content": "a"})
        now[0] = 20.0
        with refused("EPISODE_EXPIRED", errors.EpisodeExpiredError):
            env.step({"role": "user", "content": "a"})


def test_too_many_episodes_are_refused(serving: Serving) -> None:
    with serving({"max_episodes": 1}) as target, ChatEnv(target) as env:
        env.reset()
        with refused("EPISODE_LIMIT", errors.EpisodeLimitError):
            ChatEnv(target).reset()
        assert env.step({"role": "user", "content": "a"}).observation.step_count == 1


def test_a_step_for_whose_tokens_there_is_no_room_is_refused_and_the_episode_is_as_it_was(serving: Serving) -> None:
    with serving({"max_live_tokens": 100}) as target, ChatEnv(target) as env:
        before = env.reset(messages=[{"role": "user", "content": "a"}]).observation
        with refused("TOKEN_LIMIT", errors.TokenLimitError):
            env.step(ChatAction(tokens=[1] * 90))
        assert env.state().token_ids.tolist() == before.token_ids.tolist()
        env.step({"role": "user", "content": "a" * 90})
        with refused("TOKEN_LIMIT", errors.TokenLimitError):
            env.step({"role": "user", "content": "a"})


def raising(_observation: ChatObservation) -> ChatObservation:
    raise ValueError(SECRET)


def sleeping(observation: ChatObservation) -> ChatObservation:
    time.sleep(0.5)
    return observation


def unsendable(observation: ChatObservation) -> ChatObservation:
    observation.metadata["secret"] = {SECRET}
    return observation


@pytest.mark.parametrize("transform", [raising, unsendable])
def test_a_transform_that_raises_takes_the_step_back_and_keeps_its_secrets(
    serving: Serving, transform: Callable[[ChatObservation], ChatObservation]
) -> None:
    with serving(open_transform=lambda: transform) as target, ChatEnv(target) as env:
        env.reset()
        with refused("TRANSFORM_FAILED", errors.TransformError):
            env.step({"role": "user", "content": "a"})
        assert env.state().step_count == 0


def test_a_transform_that_overruns_its_deadline_takes_the_step_back(serving: Serving) -> None:
    with serving({"transform_timeout": 0.05}, open_transform=lambda: sleeping) as target, ChatEnv(target) as env:
        env.reset()
        with refused("TRANSFORM_TIMEOUT", errors.TransformTimeoutError):
            env.step({"role": "user", "content": "a"})
        assert env.state().step_count == 0


def test_a_call_beyond_what_the_server_takes_at_once_is_refused(serving: Serving) -> None:
    inside, go_on = threading.Event(), threading.Event()

    def waiting(observation: ChatObservation) -> ChatObservation:
        inside.set()
        go_on.wait(10)
        return observation

    with serving({"max_concurrent_calls": 1}, open_transform=lambda: waiting) as target, ChatEnv(target) as env:
        env.reset()
        done: list[bool] = []
        busy = threading.Thread(target=lambda: done.append(env.step({"role": "user", "content": "a"}).done))
        busy.start()
        assert inside.wait(10)
        with refused("BUSY", errors.ServerBusyError):
            ChatEnv(target).server_info()
        go_on.set()
        busy.join()
        assert done == [False]


def test_a_call_that_outlasts_its_deadline_says_so_and_may_be_tried_again(serving: Serving) -> None:
    with serving(open_transform=lambda: sleeping) as target, ChatEnv(target) as env:
        env.reset()
        with pytest.raises(errors.DeadlineError, match="timeout_s"):
            env.step({"role": "user", "content": "a"}, timeout_s=0.1)
        assert env.step({"role": "user", "content": "a"}).observation.step_count == 1


def request_of(size: int, episode_id: str) -> pb.StepRequest:
    """A Step of exactly `size` bytes, whose answer is small."""
    request = pb.StepRequest(episode_id=episode_id, known_tokens=2**31, known_messages=2**31, model_version="v" * 130)
    request.tokens.extend([1] * ((size - request.ByteSize() - 3) // 4))
    request.model_version += "v" * (size - request.ByteSize())
    assert request.ByteSize() == size
    return request


LIMIT = 4096


@pytest.mark.parametrize("side", ["server", "client"])
def test_a_request_at_the_message_limit_passes_and_one_byte_more_does_not(serving: Serving, side: str) -> None:
    settings, options = ({"max_message_bytes": LIMIT}, None) if side == "server" else ({}, channel_options(LIMIT))
    with serving(settings) as target, grpc.insecure_channel(target, options) as channel:
        stub = ChatEnvServiceStub(channel)
        episode_id = stub.Reset(pb.ResetRequest()).observation.episode_id
        assert stub.Step(request_of(LIMIT, episode_id)).observation.step_count == 1
        with pytest.raises(grpc.RpcError) as caught:
            stub.Step(request_of(LIMIT + 1, episode_id))
        error = error_from_rpc(caught.value)
        assert type(error) is errors.MessageTooLargeError
        assert "max_message_bytes" in str(error)
        assert stub.Step(request_of(LIMIT, episode_id)).observation.step_count == 2


def test_an_answer_beyond_the_message_limit_is_refused_and_the_episode_goes_on(serving: Serving) -> None:
    with serving({"max_message_bytes": LIMIT}) as target, ChatEnv(target) as env:
        env.reset()
        for _ in range(3):
            env.step(ChatAction(tokens=[1] * 700))
        with pytest.raises(errors.MessageTooLargeError, match="max_message_bytes"):
            env.state()
        assert env.step({"role": "user", "content": "a"}).observation.step_count == 4
