"""Every size that a caller controls has a limit: up to it a call goes through, beyond it the field is named."""

from __future__ import annotations

import json
import string
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest

from chatenv_client import wire
from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client._generated.chatenv_pb2_grpc import ChatEnvServiceStub
from chatenv_client.channel import open_channel
from chatenv_client.errors import ChatEnvError, InvalidRequestError
from chatenv_client.models import ChatAction
from chatenv_client.wire.json_fields import MAX_JSON_CHARACTERS, MAX_JSON_DEPTH
from chatenv_client.wire.requests import MAX_MESSAGES
from chatenv_server.engine import TokenEngine
from chatenv_server.environment.environment import ChatEnvironment
from chatenv_server.episodes import calls as episodes
from chatenv_server.episodes.budget import Budget
from chatenv_server.episodes.episodes import Episodes
from chatenv_server.running.process import MAX_HEADER_BYTES
from chatenv_server.tokenizer_files.byte_tokenizer import ByteTokenizer
from tests.server.conftest import Serve


@pytest.fixture
def stub(serve: Serve) -> Iterator[ChatEnvServiceStub]:
    with open_channel(serve(max_batch_items=5, max_text_bytes=4 * MAX_JSON_CHARACTERS).addresses[0]) as channel:
        stub = ChatEnvServiceStub(channel)
        stub.Reset(pb.ResetRequest(episode_id="e"))
        yield stub


def of_length(length: int) -> str:
    return '{"a":"' + "x" * (length - 8) + '"}'


def of_depth(depth: int) -> str:
    return '{"a":' * (depth - 1) + "{}" + "}" * (depth - 1)


def message(**fields: Any) -> pb.Message:
    return pb.Message(role="user", content="", **fields)


def call_with(arguments: str) -> pb.Message:
    return pb.Message(role="assistant", tool_calls=[pb.ToolCall(name="f", arguments_json=arguments)])


REQUESTS: dict[str, tuple[Callable[[str], Any], str]] = {
    "tools": (lambda text: pb.ResetRequest(tools_json=f"[{text}]"), "BAD_TOOLS"),
    "chat_template_kwargs": (lambda text: pb.ResetRequest(chat_template_kwargs_json=text), "BAD_TEMPLATE_KWARGS"),
    "metadata": (lambda text: pb.ResetRequest(metadata_json=text), "BAD_METADATA"),
    "extra_json": (lambda text: pb.ResetRequest(messages=[message(extra_json=text)]), "BAD_MESSAGE"),
    "arguments": (lambda text: pb.ResetRequest(messages=[call_with(text)]), "BAD_MESSAGE"),
}

LEVELS_AROUND = {"tools": 1, "arguments": 3}
"""Levels of the array, or of the tool call, that the text of a request stands in. They count too."""


def refusal(call: Callable[[Any], Any], request: Any) -> ChatEnvError | None:
    try:
        call(request)
    except grpc.RpcError as error:
        rpc: Any = error
        details = dict(rpc.trailing_metadata())["grpc-status-details-bin"]
        return wire.error_from_status(rpc.code().name, rpc.details(), wire.parse_status(details))
    return None


@pytest.mark.parametrize(("request_of", "reason"), REQUESTS.values(), ids=REQUESTS)
def test_a_field_of_json_has_a_greatest_length(
    stub: ChatEnvServiceStub, request_of: Callable[[str], Any], reason: str
) -> None:
    brackets = 2 * (reason == "BAD_TOOLS")
    assert refusal(stub.Reset, request_of(of_length(MAX_JSON_CHARACTERS - brackets))) is None
    refused = refusal(stub.Reset, request_of(of_length(MAX_JSON_CHARACTERS + 1 - brackets)))
    assert isinstance(refused, InvalidRequestError)
    assert refused.reason == reason
    assert f"longer than {MAX_JSON_CHARACTERS} characters" in refused.message


@pytest.mark.parametrize("field", REQUESTS)
def test_a_field_of_json_has_a_greatest_depth(stub: ChatEnvServiceStub, field: str) -> None:
    request_of, reason = REQUESTS[field]
    deepest = MAX_JSON_DEPTH - LEVELS_AROUND.get(field, 0)
    assert refusal(stub.Reset, request_of(of_depth(deepest))) is None
    for depth in (deepest + 1, 100_000):
        refused = refusal(stub.Reset, request_of(of_depth(depth)))
        assert refused is not None
        assert refused.reason == reason


def test_the_client_refuses_the_same_json_before_it_is_sent() -> None:
    with pytest.raises(InvalidRequestError) as refused:
        wire.reset_to_proto({"metadata": json.loads(of_length(MAX_JSON_CHARACTERS + 1))})
    assert refused.value.reason == "BAD_METADATA"


def test_a_request_has_a_greatest_number_of_messages(stub: ChatEnvServiceStub) -> None:
    most = [message()] * MAX_MESSAGES
    assert refusal(stub.RenderMessage, pb.RenderMessageRequest(episode_id="e", messages=most)) is None
    one_more = [message()] * (MAX_MESSAGES + 1)
    calls: list[tuple[Any, Any]] = [
        (stub.Reset, pb.ResetRequest(messages=one_more)),
        (stub.Step, pb.StepRequest(episode_id="e", messages=one_more)),
        (stub.RenderMessage, pb.RenderMessageRequest(episode_id="e", messages=one_more)),
    ]
    for call, request in calls:
        refused = refusal(call, request)
        assert refused is not None
        assert (refused.reason, refused.field) == ("TOO_MANY_MESSAGES", "messages")


def test_an_episode_has_a_greatest_number_of_messages_and_stays_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(episodes, "MAX_MESSAGES", 3)
    engine = TokenEngine.load(ByteTokenizer())
    store = Episodes(lambda: ChatEnvironment(engine), Budget(10, 10_000))
    store.reset({"episode_id": "e", "messages": [{"role": "user", "content": "1"}]})
    two = ChatAction(messages=({"role": "user", "content": "2"}, {"role": "user", "content": "3"}))
    store.step("e", two)
    with pytest.raises(InvalidRequestError) as refused:
        store.step("e", two)
    assert refused.value.reason == "TOO_MANY_MESSAGES"
    with store.reading("e") as environment:
        assert (environment.step_count, environment.message_count) == (1, 3)


def test_an_id_is_made_of_letters_digits_and_four_signs_and_nothing_else(stub: ChatEnvServiceStub) -> None:
    taken = ""
    for character in map(chr, (*range(1, 0x180), 0x660, 0x4E00, 0x1F600)):
        refused = refusal(stub.Reset, pb.ResetRequest(episode_id=f"e{character}"))
        if refused is None:
            taken += character
        else:
            assert (refused.reason, refused.field) == ("BAD_EPISODE_ID", "episode_id")
    assert set(taken) == {*string.ascii_letters, *string.digits, *".-_:"}


def test_tokens_have_a_budget_and_a_step_that_just_fits_is_taken(serve: Serve) -> None:
    with open_channel(serve(max_live_tokens=1000).addresses[0]) as channel:
        stub = ChatEnvServiceStub(channel)
        stub.Reset(pb.ResetRequest(episode_id="e"))
        whole = pb.StepRequest(episode_id="e", tokens=[65] * 1001)
        refused = refusal(stub.Step, whole)
        assert refused is not None
        assert refused.reason == "TOKEN_LIMIT"
        del whole.tokens[-1]
        assert refusal(stub.Step, whole) is None
        assert stub.GetServerInfo(pb.GetServerInfoRequest()).live_tokens == 1000
        refused = refusal(stub.Step, pb.StepRequest(episode_id="e", tokens=[65]))
        assert refused is not None
        assert refused.reason == "TOKEN_LIMIT"


def test_headers_have_a_greatest_size_and_it_does_not_depend_on_chance(stub: ChatEnvServiceStub) -> None:
    def ask(size: int) -> None:
        stub.GetServerInfo(pb.GetServerInfoRequest(), metadata=(("x-padding", "x" * size),))

    ask(MAX_HEADER_BYTES - 1024)
    for _ in range(20):
        with pytest.raises(grpc.RpcError) as refused:
            ask(MAX_HEADER_BYTES)
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize(
    ("request_of", "most", "reason"),
    [
        (lambda size: pb.ResetRequest(episode_id="x" * size), 128, "BAD_EPISODE_ID"),
        (lambda size: pb.ResetRequest(messages=[pb.Message(role="x" * size, content="")]), 64, "BAD_ROLE"),
        (lambda size: pb.ResetRequest(system_prompt="x", system_role="x" * size), 64, "BAD_ROLE"),
        (lambda size: pb.StepRequest(episode_id="e", tokens=[65], model_version="x" * size), 256, "BAD_ACTION"),
        (lambda size: pb.BatchResetRequest(resets=[pb.ResetRequest()] * size), 5, "BATCH_SIZE"),
        (lambda size: pb.BatchStepRequest(steps=[pb.StepRequest()] * size), 5, "BATCH_SIZE"),
    ],
)
def test_names_and_batches_have_a_greatest_size(
    stub: ChatEnvServiceStub, request_of: Callable[[int], Any], most: int, reason: str
) -> None:
    call = getattr(stub, type(request_of(1)).__name__.removesuffix("Request"))
    assert refusal(call, request_of(most)) is None
    refused = refusal(call, request_of(most + 1))
    assert refused is not None
    assert refused.reason == reason


SOME_TEXT = 4096

TEXTS: dict[str, Callable[[str], Any]] = {
    "messages of a Reset": lambda text: pb.ResetRequest(messages=[pb.Message(role="user", content=text)]),
    "a system prompt": lambda text: pb.ResetRequest(system_prompt=text),
    "tools": lambda text: pb.ResetRequest(tools_json=json.dumps([{"name": text}])),
    "template arguments": lambda text: pb.ResetRequest(chat_template_kwargs_json=json.dumps({"a": text})),
    "messages of a Step": lambda text: pb.StepRequest(
        episode_id="e", messages=[pb.Message(role="user", content=part) for part in (text[:9], text[9:])]
    ),
    "messages to render": lambda text: pb.RenderMessageRequest(
        episode_id="e", messages=[pb.Message(role="user", content=text)]
    ),
}


@pytest.fixture
def narrow(serve: Serve) -> Iterator[ChatEnvServiceStub]:
    """A server that takes little text at once."""
    with open_channel(serve(max_text_bytes=SOME_TEXT).addresses[0]) as channel:
        stub = ChatEnvServiceStub(channel)
        stub.Reset(pb.ResetRequest(episode_id="e"))
        yield stub


def send(stub: ChatEnvServiceStub, request: Any) -> Any:
    method: Any = getattr(stub, type(request).__name__.removesuffix("Request"))
    return method(request)


@pytest.mark.parametrize("build", TEXTS.values(), ids=TEXTS)
def test_the_text_of_one_request_has_a_limit(narrow: ChatEnvServiceStub, build: Callable[[str], Any]) -> None:
    send(narrow, build("a" * (SOME_TEXT - 100)))
    with pytest.raises(grpc.RpcError, match="max-text-bytes") as refusal:
        send(narrow, build("a" * SOME_TEXT))
    assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert narrow.GetServerInfo(pb.GetServerInfoRequest()).limits.max_text_bytes == SOME_TEXT


def test_neither_tokens_nor_metadata_are_text(narrow: ChatEnvServiceStub) -> None:
    narrow.Step(pb.StepRequest(episode_id="e", tokens=[65] * SOME_TEXT))
    narrow.Reset(pb.ResetRequest(metadata_json=json.dumps({"a": "a" * SOME_TEXT})))


def test_items_of_a_batch_are_counted_one_by_one(narrow: ChatEnvServiceStub) -> None:
    request = TEXTS["messages of a Step"]("a" * (SOME_TEXT - 100))
    request.messages[0].content = request.messages.pop().content
    batch = pb.BatchStepRequest(steps=[request] * 3)
    assert [result.WhichOneof("result") for result in narrow.BatchStep(batch).results] == ["response"] * 3
