"""Requests arrive as they were made; what only the wire can get wrong is refused by its field."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatenv_client import ChatAction, InvalidRequestError, ResetOptions, StopReason
from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client.models import ControlTokenPolicy, HistoryPolicy
from chatenv_client.wire import action_from_proto, reset_from_proto, reset_to_proto, write_step

objects = st.dictionaries(st.text(st.characters(codec="utf-8")), st.integers(-5, 5) | st.booleans(), max_size=3)
texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=9)
options = st.fixed_dictionaries(
    {},
    optional={
        "episode_id": texts,
        "seed": st.integers(-(2**63), 2**63 - 1),
        "messages": st.lists(st.fixed_dictionaries({"role": texts, "content": texts}), min_size=1, max_size=3),
        "tools": st.lists(objects, max_size=2),
        "system_prompt": st.just("") | texts,
        "system_role": texts,
        "chat_template_kwargs": objects,
        "max_steps": st.integers(1, 2**32 - 1),
        "max_tokens": st.integers(1, 2**32 - 1),
        "max_turns": st.integers(1, 2**32 - 1),
        "max_sampled_tokens": st.integers(1, 2**32 - 1),
        "task": texts,
        "task_args": objects,
        "row": st.integers(0, 2**32 - 1),
        "row_id": texts,
        "split": texts,
        "metadata": objects,
        "add_generation_prompt": st.booleans(),
        "history_policy": st.sampled_from(HistoryPolicy),
        "control_token_policy": st.sampled_from(ControlTokenPolicy),
        "clock": st.floats(-6e10, 2.5e11).map(round) | st.floats(1.5e9, 2e9),
    },
)
actions = st.one_of(
    st.builds(
        lambda pairs, **rest: ChatAction(
            tokens=[token for token, _ in pairs], logprobs=[logprob for _, logprob in pairs], **rest
        ),
        st.lists(st.tuples(st.integers(0, 2**31 - 1), st.floats(-90, 0, width=32)), min_size=1, max_size=50),
        stop_reason=st.none() | st.sampled_from(StopReason),
        model_version=st.just("") | texts,
        prompt_fingerprint=st.just("") | texts,
    ),
    st.builds(ChatAction, tokens=st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=50)),
    st.builds(
        ChatAction, messages=st.lists(st.fixed_dictionaries({"role": texts, "content": texts}), min_size=1, max_size=3)
    ),
)


def _step(action: ChatAction, **options: Any) -> pb.StepRequest:
    request = pb.StepRequest()
    write_step(request, action, **options)
    return request


def shown(action: ChatAction) -> tuple[Any, ...]:
    logprobs = None if action.logprobs is None else action.logprobs.tobytes()
    rest = (action.stop_reason, action.model_version, action.messages, action.prompt_fingerprint)
    return (action.tokens.tobytes(), logprobs, *rest)


@given(options)
def test_the_keywords_of_reset_arrive_as_they_were_given(given_options: ResetOptions) -> None:
    sent = reset_to_proto(given_options).SerializeToString()
    assert reset_from_proto(pb.ResetRequest.FromString(sent)) == given_options


def test_none_is_as_good_as_not_given() -> None:
    options: ResetOptions = {"episode_id": None, "seed": None, "tools": None, "system_prompt": None, "clock": None}
    assert reset_from_proto(reset_to_proto(options)) == {}


def test_a_policy_may_be_given_as_its_word() -> None:
    request = reset_to_proto({"history_policy": "strict", "control_token_policy": "reject"})
    assert request.history_policy == pb.HISTORY_POLICY_STRICT
    assert request.control_token_policy == pb.CONTROL_TOKEN_POLICY_REJECT


@pytest.mark.parametrize(
    ("options", "field", "reason"),
    [
        ({"max_steps": -1}, "max_steps", "BAD_LIMIT"),
        ({"max_tokens": 2**32}, "max_tokens", "BAD_LIMIT"),
        ({"max_turns": -1}, "max_turns", "BAD_LIMIT"),
        ({"max_sampled_tokens": 2**32}, "max_sampled_tokens", "BAD_LIMIT"),
        ({"row": -1}, "row", "BAD_ROW"),
        ({"row_id": "\ud800"}, "row_id", "BAD_ROW"),
        ({"split": "\ud800"}, "split", "BAD_ROW"),
        ({"task": "\ud800"}, "task", "BAD_TASK"),
        ({"task_args": {"a": float("nan")}}, "task_args", "BAD_TASK"),
        ({"seed": 2**63}, "seed", "INVALID_REQUEST"),
        ({"history_policy": "forget"}, "history_policy", "BAD_POLICY"),
        ({"clock": 1e12}, "clock", "BAD_CLOCK"),
        ({"tools": [{"default": float("nan")}]}, "tools", "BAD_TOOLS"),
        ({"metadata": {"a": {1}}}, "metadata", "BAD_METADATA"),
        ({"messages": {"role": "user", "content": "one message, no list"}}, "messages", "BAD_MESSAGE"),
    ],
)
def test_a_value_that_the_wire_cannot_carry_is_refused_by_its_field(options: Any, field: str, reason: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        reset_to_proto(options)
    assert (caught.value.field, caught.value.reason) == (field, reason)


def test_a_policy_that_does_not_exist_is_answered_with_those_that_do() -> None:
    with pytest.raises(InvalidRequestError, match="'append', 'strict'"):
        reset_to_proto({"history_policy": "forget"})


def test_an_unknown_keyword_of_reset_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="max_step"):
        reset_to_proto({"max_step": 3})  # type: ignore[typeddict-unknown-key]


@pytest.mark.parametrize(
    "key", sorted(ResetOptions.__annotations__.keys() - {"history_policy", "control_token_policy"})
)
def test_a_value_of_another_type_is_told_with_its_keyword(key: Any) -> None:
    with pytest.raises((TypeError, InvalidRequestError), match=rf"^{key}\b"):
        reset_to_proto({key: object()})  # type: ignore[misc]


@pytest.mark.parametrize(
    ("request_", "reason", "field"),
    [
        (pb.ResetRequest(tools_json="[1]"), "BAD_TOOLS", "tools"),
        (pb.ResetRequest(tools_json="{}"), "BAD_TOOLS", "tools"),
        (pb.ResetRequest(tools_json="["), "BAD_TOOLS", "tools"),
        (pb.ResetRequest(chat_template_kwargs_json="[]"), "BAD_TEMPLATE_KWARGS", "chat_template_kwargs"),
        (pb.ResetRequest(metadata_json="nonsense"), "BAD_METADATA", "metadata"),
        (pb.ResetRequest(task_args_json="[1]"), "BAD_TASK", "task_args"),
        (pb.ResetRequest(history_policy=77), "BAD_ENUM", "history_policy"),  # type: ignore[arg-type]
        (pb.ResetRequest(clock={"nanos": -1}), "BAD_CLOCK", "clock"),
        (pb.ResetRequest(clock={"seconds": 10**15}), "BAD_CLOCK", "clock"),
    ],
)
def test_a_malformed_reset_is_refused_by_its_field(request_: pb.ResetRequest, reason: str, field: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        reset_from_proto(request_)
    assert (caught.value.reason, caught.value.field) == (reason, field)


@given(actions)
def test_an_action_arrives_as_it_was_made(action: ChatAction) -> None:
    sent = _step(action, episode_id="e").SerializeToString()
    assert shown(action_from_proto(pb.StepRequest.FromString(sent))) == shown(action)


def test_the_preview_of_a_message_is_not_sent() -> None:
    preview = ChatAction(tokens=[1, 2], messages=({"role": "user", "content": "a"},))
    assert not _step(preview, episode_id="e").tokens


@pytest.mark.parametrize("field", ["tokens", "prompt_fingerprint"])
def test_what_belongs_to_sampled_tokens_cannot_stand_beside_messages(field: str) -> None:
    request = pb.StepRequest(messages=[pb.Message(role="user", content="a")])
    request.MergeFrom(pb.StepRequest(**{field: [1] if field == "tokens" else "f"}))  # type: ignore[arg-type]
    with pytest.raises(InvalidRequestError) as caught:
        action_from_proto(request)
    assert (caught.value.reason, caught.value.field) == ("BAD_ACTION", field)


def test_an_unknown_stop_reason_is_refused() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        action_from_proto(pb.StepRequest(tokens=[1], stop_reason=9))  # type: ignore[arg-type]
    assert (caught.value.reason, caught.value.field) == ("BAD_ENUM", "stop_reason")


def test_a_step_request_has_the_same_size_whatever_the_history() -> None:
    action = ChatAction(tokens=np.arange(128))
    short, long = (
        _step(action, episode_id="e", step_index=200, known_tokens=known, known_messages=200).ByteSize()
        for known in (2**21, 2**28 - 1)
    )
    assert short == long
