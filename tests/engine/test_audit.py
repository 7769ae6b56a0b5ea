"""What an audit may say: it takes no reading of the engine's own for the truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from chatenv_client import ChatEnvError, Message, Verdict
from chatenv_server import ChatEnvironment
from tests.engine.episodes import TOOL
from tests.engine.generated_templates import Traits, loaded, source_of, traits
from tests.engine.small_tokenizers import Dialogue, byte_level, tool, user

CALL_AS_TEXT = '<tool_call>\n{"name": "lookup", "arguments": {"key": "Oslo"}}\n</tool_call>'
HERMES = source_of(Traits())
WRITES_ARGUMENTS = """\
{%- for m in messages %}
    {{- '<|im_start|>' + m.role + '\\n' + (m.content or '') }}
    {%- for c in m.tool_calls or [] %}{{ '<call>' + c.function.name }}{{ c.function.arguments }}{% endfor %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
"""It writes the arguments as they are, so it takes them as JSON text alone."""


def _as_given(source: str, messages: Sequence[Mapping[str, Any]]) -> list[int]:
    """What transformers makes of messages that nobody puts into another form."""
    _, tokenizer = loaded(source)
    return list(
        tokenizer.apply_chat_template(
            list(messages), tools=[TOOL], add_generation_prompt=True, tokenize=True, return_dict=False
        )
    )


_arguments = st.sampled_from(
    [{"key": "Oslo"}, {"key": "Oslo", "ok": True}, '{"key": "Oslo"}', '{"key":"Oslo", "ok": true}', "{}", {}]
)
_contents = st.sampled_from(["Good morning.", [{"type": "text", "text": "Good morning."}]])


def _conversation(arguments: Any, content: Any, answer: Any) -> list[Message]:
    call: Any = {"id": "call00001", "type": "function", "function": {"name": "lookup", "arguments": arguments}}
    return [
        {"role": "user", "content": content},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": answer, "tool_call_id": "call00001", "name": "lookup"},
    ]


@given(traits.map(source_of) | st.just(WRITES_ARGUMENTS), _arguments, _contents, _contents)
@example(WRITES_ARGUMENTS, '{"key": "Oslo", "ok": true}', "Good morning.", "Good morning.")
@settings(max_examples=60)
def test_an_exact_audit_without_readings_is_what_transformers_makes_of_the_messages_as_given(
    source: str, arguments: Any, content: Any, answer: Any
) -> None:
    messages = _conversation(arguments, content, answer)
    env = ChatEnvironment(loaded(source)[0])
    try:
        env.reset(messages=messages, tools=[TOOL])
    except ChatEnvError:
        assume(False)
    report = env.audit()
    if report.verdict is Verdict.EXACT and not report.own_readings:
        assert env.state.token_ids.tolist() == _as_given(source, messages)


def test_an_audit_names_the_messages_that_were_given_in_another_form() -> None:
    env = ChatEnvironment(loaded(source_of(Traits(content_is_parts=True)))[0])
    env.reset(messages=[user("Good morning."), {"role": "user", "content": [{"type": "text", "text": "How are you?"}]}])
    assert (env.audit().verdict, env.audit().own_readings) == (Verdict.EXACT, (0,))


def test_an_audit_of_texts_alone_has_no_readings() -> None:
    talk = Dialogue(byte_level(HERMES)).says("Good morning to you.").hears("How are you?")
    assert (talk.env.audit().verdict, talk.env.audit().own_readings) == (Verdict.EXACT, ())


def test_an_audit_names_the_turns_that_were_parsed() -> None:
    talk = Dialogue(byte_level(HERMES), tools=[TOOL]).says(f"\n{CALL_AS_TEXT}").hears(tool("cold"))
    assert talk.env.state.history_messages[1].get("tool_calls")
    assert (talk.env.audit().verdict, talk.env.audit().own_readings) == (Verdict.EXACT, (1,))


@pytest.mark.parametrize("said", ["I wonder.", "<tool_call>\n{'name': 'lookup'}\n</tool_call>"])
def test_an_audit_names_a_turn_whose_call_was_not_read_though_a_result_answers_it(said: str) -> None:
    talk = Dialogue(byte_level(HERMES), tools=[TOOL]).says(said).hears(tool("cold"), user("Well?"))
    assert talk.env.audit().own_readings == (1,)
