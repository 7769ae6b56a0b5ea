"""What is applied can be answered and read: random Resets and Steps, and after each of them the whole episode."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chatenv_client import ChatObservation, channel_options
from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client._generated.chatenv_pb2_grpc import ChatEnvServiceStub
from tests.server.conftest import Serve

ID = "e"

texts = st.text(max_size=6) | st.sampled_from(["<|im_end|>", "<think>", "</think>", "\x00", "\u2028"])
keys = texts | st.sampled_from(["role", "content", "tool_calls", "function", "arguments", "thinking", "reasoning"])
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda items: st.lists(items, max_size=3) | st.dictionaries(keys, items, max_size=3),
    max_leaves=6,
)
objects = st.dictionaries(keys, json_values, max_size=3)
json_texts = (objects | json_values).map(json.dumps) | st.sampled_from(
    [
        "",
        "{",
        '{"a": 1e15, "b": -0}',
        '{"content": null}',
        '{"content": [{"type": "text", "text": "x", "more": 1}]}',
        '{"tool_calls": [{"function": {"name": "f"}}]}',
        '{"tool_calls": [{"function": {"arguments": "{}", "name": "f"}}]}',
    ]
)
calls = st.builds(lambda name, text: pb.ToolCall(name=name, arguments_json=text), texts, json_texts)
messages = st.builds(
    lambda role, content, calls, extra, further: pb.Message(
        role=role, content=content, tool_calls=calls, extra_json=extra, **further
    ),
    st.sampled_from(["user", "assistant", "tool", "system", ""]),
    st.none() | texts,
    st.lists(calls, max_size=2),
    st.just("") | json_texts,
    st.dictionaries(st.sampled_from(["name", "tool_call_id", "reasoning_content"]), texts),
)
limits = st.none() | st.integers(0, 2**32 - 1)
resets = st.builds(
    lambda messages, tools, kwargs, metadata, max_steps, max_tokens: pb.ResetRequest(
        episode_id=ID,
        messages=messages,
        tools_json=tools,
        chat_template_kwargs_json=kwargs,
        metadata_json=metadata,
        max_steps=max_steps,
        max_tokens=max_tokens,
    ),
    st.lists(messages, max_size=3),
    st.just("") | st.lists(objects, max_size=2).map(json.dumps),
    st.just("") | json_texts,
    st.just("") | json_texts,
    limits,
    limits,
)
steps = st.lists(messages, min_size=1, max_size=2).map(
    lambda given: pb.StepRequest(episode_id=ID, messages=given)
) | st.builds(
    lambda tokens, stop_reason: pb.StepRequest(episode_id=ID, tokens=tokens, stop_reason=stop_reason),
    st.lists(st.integers(0, 260), max_size=20),
    st.integers(0, 3),
)

outcomes: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {},
    optional={
        "reward": st.none() | st.integers() | st.floats() | st.booleans() | texts | st.complex_numbers(),
        "terminated": st.booleans() | texts | st.none(),
        "truncated": st.booleans() | st.integers(),
        "metadata": json_values | st.dictionaries(st.integers() | st.tuples(), st.sets(st.integers())),
    },
)


class Drawn:
    """A transform that sets what the test draws."""

    outcome: dict[str, Any]

    def __call__(self, observation: ChatObservation) -> ChatObservation:
        for name, value in self.outcome.items():
            setattr(observation, name, value)
        return observation


transform = Drawn()


@pytest.fixture
def plain(serve: Serve) -> Iterator[ChatEnvServiceStub]:
    with grpc.insecure_channel(serve().addresses[0], channel_options()) as channel:
        yield ChatEnvServiceStub(channel)


@pytest.fixture
def transforming(serve: Serve) -> Iterator[ChatEnvServiceStub]:
    with grpc.insecure_channel(serve(transform=transform).addresses[0], channel_options()) as channel:
        yield ChatEnvServiceStub(channel)


def status_of(method: Any, request: Any) -> str:
    try:
        method(request)
    except grpc.RpcError as failure:
        return "taken back" if "the step was taken back" in str(failure.details()) else str(failure.code().name)
    return "OK"


def read(stub: ChatEnvServiceStub) -> int:
    """Read the episode in every way; its steps."""
    stub.GetTrajectory(pb.GetTrajectoryRequest(episode_id=ID))
    return stub.GetState(pb.GetStateRequest(episode_id=ID)).step_count


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(reset=resets, steps=st.lists(steps, max_size=3))
def test_whatever_is_applied_can_be_read(
    plain: ChatEnvServiceStub, reset: pb.ResetRequest, steps: list[pb.StepRequest]
) -> None:
    plain.Reset(pb.ResetRequest(episode_id=ID))
    assert status_of(plain.Reset, reset) in ("OK", "INVALID_ARGUMENT")
    for step in steps:
        before = read(plain)
        status = status_of(plain.Step, step)
        assert status in ("OK", "INVALID_ARGUMENT", "FAILED_PRECONDITION")
        assert read(plain) == before + (status == "OK")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(outcome=outcomes)
def test_whatever_a_transform_sets_is_answered_or_taken_back(
    transforming: ChatEnvServiceStub, outcome: dict[str, Any]
) -> None:
    transforming.Reset(pb.ResetRequest(episode_id=ID))
    transform.outcome = outcome
    status = status_of(transforming.Step, pb.StepRequest(episode_id=ID, tokens=[65]))
    assert status in ("OK", "taken back")
    assert read(transforming) == (status == "OK")
