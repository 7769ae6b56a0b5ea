"""JSON that callers give: it comes back as it was spelled, and none of it stands in the log or in an error's field."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chatenv_client import channel_options
from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client._generated.chatenv_pb2_grpc import ChatEnvServiceStub
from chatenv_client.wire import error_from_status, parse_status
from tests.server.conftest import Serve

SPELLED = '{"a":[1e15,1.50,-0.0,1E-7,12345678901234567890]}'
SECRET = "hunter2"

MOST = 2**20
GROWING = '{"a":[' + ",".join(["1e15"] * (MOST // 5 - 10)) + "]}"
"""Numbers that take nearly four times the room as Python spells them."""


@pytest.fixture
def stub(serve: Serve) -> Iterator[ChatEnvServiceStub]:
    with grpc.insecure_channel(serve(max_text_bytes=2 * MOST).addresses[0], channel_options()) as channel:
        yield ChatEnvServiceStub(channel)


def call(arguments: str) -> pb.Message:
    return pb.Message(role="assistant", tool_calls=[pb.ToolCall(name="f", arguments_json=arguments)])


def further(arguments: str) -> pb.Message:
    return pb.Message(role="user", content="a", extra_json=arguments)


@pytest.mark.parametrize("text", [SPELLED, GROWING], ids=["spelled", "growing"])
def test_numbers_come_back_as_they_were_spelled(stub: ChatEnvServiceStub, text: str) -> None:
    opening = [further(text), call(SPELLED)]  # what no template writes is not tokenized
    opened = stub.Reset(pb.ResetRequest(episode_id="e", messages=opening, metadata_json=text)).observation
    stepped = stub.Step(pb.StepRequest(episode_id="e", messages=opening)).observation
    state = stub.GetState(pb.GetStateRequest(episode_id="e"))
    for answer, count in ((opened, 2), (stepped, 4), (state, 4)):
        assert answer.metadata_json == text
        assert [message.extra_json for message in answer.messages[::2]] == [text] * (count // 2)
        assert [message.tool_calls[0].arguments_json for message in answer.messages[1::2]] == [SPELLED] * (count // 2)


json_values: st.SearchStrategy[Any] = st.recursive(
    st.sampled_from([SECRET, 1, None, True]) | st.floats(),
    lambda items: st.lists(items, max_size=3) | st.dictionaries(st.sampled_from([SECRET, "type"]), items, max_size=2),
    max_leaves=4,
)
json_texts = json_values.map(lambda value: json.dumps(value, ensure_ascii=False)) | st.sampled_from(
    [f'{{"{SECRET}": ', f'{{"{SECRET}": NaN}}', f'"{SECRET}', f'{{"{SECRET}": "\\ud800"}}', "[" * 100 + f'"{SECRET}"']
)

REQUESTS: list[Callable[[str], Any]] = [
    lambda text: pb.ResetRequest(tools_json=text),
    lambda text: pb.ResetRequest(chat_template_kwargs_json=text),
    lambda text: pb.ResetRequest(metadata_json=text),
    lambda text: pb.ResetRequest(messages=[further(text)]),
    lambda text: pb.ResetRequest(messages=[call(text)]),
    lambda text: pb.ResetRequest(messages=[pb.Message(role="user", extra_json=text)]),
    lambda text: pb.ResetRequest(messages=[further(f'{{"tool_calls": [{{"function": {text}}}]}}')]),
    lambda text: pb.ResetRequest(messages=[further(f'{{"tool_calls": {text}}}')]),
]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
@given(build=st.sampled_from(REQUESTS), text=json_texts)
def test_no_json_of_a_caller_stands_in_a_field_or_in_the_log(
    stub: ChatEnvServiceStub, caplog: pytest.LogCaptureFixture, build: Callable[[str], Any], text: str
) -> None:
    caplog.clear()
    with caplog.at_level(logging.INFO):
        try:
            stub.Reset(build(text))
        except grpc.RpcError as failure:
            trailing: Any = failure.trailing_metadata()
            details = dict(trailing)
            code = failure.code().name
            error = error_from_status(code, "", parse_status(details["grpc-status-details-bin"]))
            assert error.code == "INVALID_ARGUMENT"
            assert SECRET not in error.field
    assert not [record for record in caplog.records if SECRET in str(vars(record))]
