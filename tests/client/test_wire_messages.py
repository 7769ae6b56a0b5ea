"""Chat messages survive the wire as they were given, and what is no message is refused by its field."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatenv_client import InvalidRequestError
from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client.wire import message_from_proto, message_to_proto
from chatenv_client.wire.json_fields import MAX_JSON_DEPTH

texts = st.text(st.characters(codec="utf-8"), max_size=20)
names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda children: st.lists(children, max_size=3) | st.dictionaries(texts, children, max_size=3),
    max_leaves=8,
)
tool_calls = st.fixed_dictionaries(
    {
        "type": st.just("function"),
        "function": st.fixed_dictionaries(
            {"name": names, "arguments": st.dictionaries(texts, json_values, max_size=3) | texts}
        ),
    },
    optional={"id": texts},
)
messages = st.fixed_dictionaries(
    {"role": names},
    optional={
        "content": st.none() | texts | st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": texts})),
        "reasoning_content": st.none() | texts,
        "tool_calls": st.none() | st.lists(tool_calls | json_values, max_size=3),
        "tool_call_id": st.none() | texts,
        "name": st.none() | texts,
        "further": json_values,
    },
)


def over_the_wire(message: dict[str, Any]) -> dict[str, Any]:
    sent = message_to_proto(message).SerializeToString()
    return dict(message_from_proto(pb.Message.FromString(sent)))


@given(messages)
def test_a_message_arrives_as_it_was_given(message: dict[str, Any]) -> None:
    assert over_the_wire(message) == message


def test_the_order_of_the_keys_of_a_tool_call_is_kept() -> None:
    call = {"function": {"arguments": {"b": 1, "a": 2}, "name": "f"}, "type": "function", "id": "c"}
    arrived = over_the_wire({"role": "assistant", "tool_calls": [call]})
    assert repr(arrived["tool_calls"]) == repr([call])


def test_an_ordinary_tool_call_travels_in_typed_fields() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": {"city": "Paris"}}}
    sent = message_to_proto({"role": "assistant", "content": "", "tool_calls": [call]})
    assert sent.tool_calls[0].name == "weather"
    assert sent.tool_calls[0].arguments_json == '{"city":"Paris"}'
    assert not sent.extra_json


def test_a_tool_call_without_type_and_arguments_is_a_function_without_arguments() -> None:
    received = message_from_proto(pb.Message(role="assistant", tool_calls=[pb.ToolCall(name="f")]))
    assert received["tool_calls"] == [{"type": "function", "function": {"name": "f", "arguments": {}}}]


@pytest.mark.parametrize(
    ("sent", "field"),
    [
        (pb.Message(role="user", extra_json="{"), "extra_json"),
        (pb.Message(role="user", extra_json="[1]"), "extra_json"),
        (pb.Message(role="user", extra_json='{"n": NaN}'), "extra_json"),
        (pb.Message(role="user", extra_json='{"n": 1e999}'), "extra_json"),
        (pb.Message(role="user", extra_json='{"t": "\\ud800"}'), "extra_json"),
        (pb.Message(role="user", extra_json="[" * 100_000), "extra_json"),
        (pb.Message(role="user", content="a", extra_json='{"content": null}'), "extra_json"),
        (pb.Message(role="user", extra_json='{"role": "tool"}'), "extra_json"),
        (pb.Message(role="user", content="a", content_parts=[pb.ContentPart()]), "content_parts"),
        (pb.Message(role="a", tool_calls=[pb.ToolCall(arguments_json="{")]), "tool_calls[0].function.arguments"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_the_wire_gets_wrong_is_refused_by_its_field(sent: pb.Message, field: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        message_from_proto(sent, "messages[4]")
    assert caught.value.reason == "BAD_MESSAGE"
    assert caught.value.field == f"messages[4].{field}"


def nested(depth: int) -> Any:
    return [nested(depth - 1)] if depth else "bottom"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, object(), "\ud800", nested(MAX_JSON_DEPTH)])
def test_what_is_no_json_is_refused_before_it_is_sent(value: Any) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        message_to_proto({"role": "user", "content": "", "further": value})
    assert caught.value.reason == "BAD_MESSAGE"


def test_a_key_whose_value_is_no_json_is_named_but_not_in_the_field_which_is_logged() -> None:
    with pytest.raises(InvalidRequestError, match=r"content cannot be written as JSON") as caught:
        message_to_proto({"role": "user", "content": object()})
    assert caught.value.field == "extra_json"


@pytest.mark.parametrize("role", [None, 3, ["user"]])
def test_what_is_no_text_is_no_role(role: Any) -> None:
    sent = message_to_proto({"role": role, "content": "hi"})
    assert message_from_proto(sent) == {"role": "", "content": "hi"}


def test_what_is_said_of_a_key_can_be_printed() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        message_to_proto({"role": "user", "content": "", "\ud800": 1})
    assert str(caught.value).encode()


def test_half_a_surrogate_pair_in_the_text_is_refused_before_it_is_sent() -> None:
    with pytest.raises(InvalidRequestError, match="surrogate"):
        message_to_proto({"role": "user", "content": "\ud800"})
