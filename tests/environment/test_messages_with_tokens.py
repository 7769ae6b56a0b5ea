"""Sampled tokens with the message that the caller read from them, and results of the calls that are read."""

from __future__ import annotations

from typing import Any

import pytest

from chatenv_client import ChatAction, ChatEnv, InvalidRequestError
from chatenv_client.models import FidelityKind
from chatenv_client.reasons import Reason
from chatenv_server import ChatEnvironment
from chatenv_server.engine import TokenEngine
from chatenv_server.tokenizer_files.byte_tokenizer import ByteTokenizer
from tests.contract.conftest import start_server
from tests.environment.conftest import END, QUESTION, said

CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": {"a": 2, "b": 3}}}
READ: Any = {"role": "assistant", "content": "", "tool_calls": [CALL]}
RESULT: Any = {"role": "tool", "content": "5", "tool_call_id": "c1"}
HERMES = '<tool_call>\n{"name": "add", "arguments": {"a": 2, "b": 3}}\n</tool_call>'


def kinds(env: ChatEnvironment) -> list[FidelityKind]:
    return [report.kind for report in env.state.fidelity]


def test_a_message_that_comes_with_the_tokens_is_recorded_as_given(env: ChatEnvironment) -> None:
    before = env.state.token_ids.tolist()
    env.step(said("add(2, 3)", message=READ))
    assert env.state.history_messages[-1] == READ
    assert env.state.token_ids.tolist() == [*before, *b"add(2, 3)", END]


def test_a_result_is_rendered_for_the_message_that_was_given(env: ChatEnvironment) -> None:
    env.step(said("add(2, 3)", message=READ))
    observation = env.step(RESULT)
    assert FidelityKind.TOOL_RESULT_UNMATCHED not in kinds(env)
    assert FidelityKind.HISTORY_REWRITTEN in kinds(env)  # the template would write this call in another notation
    text = bytes(i for i in observation.token_ids if i < 256).decode()
    assert text.endswith("<tool_response>\n5\n</tool_response>\nassistant\n")


def test_a_given_message_is_not_read_anew_when_later_turns_have_come(env: ChatEnvironment) -> None:
    meant = {"role": "assistant", "content": "five", "note": [1]}
    env.step(said("5", message=meant))
    for _ in range(3):
        env.step({"role": "user", "content": "And now?"})
        env.step(said("ok"))
    assert env.state.history_messages[1] == meant


def test_a_given_message_stands_for_a_turn_that_was_sampled_in_parts(env: ChatEnvironment) -> None:
    env.step(ChatAction(tokens=[*b"add("]))
    env.step(said("2, 3)", message=READ))
    assert list(env.state.history_messages[1:]) == [READ]


@pytest.mark.parametrize(
    ("action", "field", "reason"),
    [
        (said("5", message={"role": "user", "content": "5"}), "message.role", Reason.BAD_ACTION),
        (said("5", message={"role": "assistant"}), "message.content", Reason.CONTENT_MISSING),
        (said("5", message={"role": "assistant", "content": 5}), "message.content", Reason.BAD_MESSAGE),
        (ChatAction(messages=(RESULT,), message=READ), "message", Reason.BAD_ACTION),
        (ChatAction(message=READ), "tokens", Reason.EMPTY_ACTION),
    ],
)
def test_a_message_that_cannot_be_what_was_sampled_is_refused(
    env: ChatEnvironment, action: ChatAction, field: str, reason: Reason
) -> None:
    before = env.state
    with pytest.raises(InvalidRequestError) as refused:
        env.step(action)
    assert (refused.value.reason, refused.value.field) == (reason, field)
    assert env.state.token_ids.tolist() == before.token_ids.tolist()


def test_the_wire_carries_the_message_with_the_tokens(env: ChatEnvironment) -> None:
    env.step(said("add(2, 3)", message=READ))
    env.step(RESULT)
    with start_server() as address, ChatEnv(address) as client:
        client.reset(messages=[QUESTION], clock=0.0)
        sampled = client.step(said("add(2, 3)", message=READ)).observation
        assert sampled.messages[-1] == READ
        answered = client.step(RESULT).observation
        assert answered.token_ids.tolist() == env.state.token_ids.tolist()
        assert client.state().fidelity == env.state.fidelity
        with pytest.raises(InvalidRequestError) as refused:
            client.step(said("5", message={"role": "user", "content": "5"}))
        assert refused.value.field == "message.role"


def test_every_call_that_is_read_has_an_id_of_its_own(env: ChatEnvironment) -> None:
    for _ in range(2):
        env.step(said(f"{HERMES}\n{HERMES}"))
        env.step([{"role": "tool", "content": "5"}, {"role": "tool", "content": "6"}])
    calls = [call for message in env.state.history_messages for call in message.get("tool_calls", ())]
    ids = [call["id"] for call in calls]
    assert len(set(ids)) == 4
    assert all(len(one) == 9 and one.isalnum() for one in ids)
    assert kinds(env) == []


def test_a_result_that_answers_no_call_is_reported(env: ChatEnvironment) -> None:
    env.step(said("Five, I think."))
    observation = env.step({"role": "tool", "content": "5"})
    assert [(one.kind, one.message_index) for one in observation.fidelity] == [(FidelityKind.TOOL_RESULT_UNMATCHED, 2)]


FINDS_BY_ID = """\
{%- set names = namespace(of={}) %}
{%- for m in messages %}
    {%- for c in m.tool_calls or [] %}{% set names.of = dict(names.of, **{c.id: c.function.name}) %}{% endfor %}
    {{- '<|im_start|>' + m.role + '\\n' }}
    {%- if m.role == 'tool' %}{{ names.of.get(m.tool_call_id, 'unknown') + ': ' }}{% endif %}
    {{- m.content }}
    {%- for c in m.tool_calls or [] %}
        {{- '<call>' + c.function.name + (c.function.arguments | tojson) + '</call>' }}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""


def test_a_template_that_looks_for_the_call_of_a_result_finds_it_by_the_id_that_was_read() -> None:
    env = ChatEnvironment(TokenEngine.load(ByteTokenizer(), chat_template=FINDS_BY_ID))
    env.reset(messages=[QUESTION])
    observation = env.step(said('<call>add{"a": 2, "b": 3}</call>'))
    call_id = observation.messages[-1]["tool_calls"][0]["id"]
    found = env.step({"role": "tool", "content": "5", "tool_call_id": call_id})
    assert "add: 5" in bytes(i for i in found.token_ids if i < 256).decode()
    assert found.fidelity == ()
    env.step(said("Five."))
    env.step({"role": "user", "content": "Again."})
    env.step(said('<call>add{"a": 2, "b": 3}</call>'))
    lost = env.step({"role": "tool", "content": "5", "tool_call_id": "another"})
    assert [one.kind for one in lost.fidelity] == [FidelityKind.TOOL_RESULT_UNMATCHED]
