"""What a given message may be, and which field is named where it may not."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from chatenv_client import InvalidRequestError, TemplateRejectedError
from chatenv_server import ChatEnvironment
from chatenv_server.engine import TokenEngine
from chatenv_server.tokenizer_files.byte_tokenizer import ByteTokenizer

QUESTION = {"role": "user", "content": "Which weather?"}

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role + '\\n' }}"
    "{% if m.reasoning_content is defined %}<think>{{ m.reasoning_content }}</think>{% endif %}{{ m.content }}"
    "{% for call in m.tool_calls or [] %}<call>{{ call.function.arguments | tojson }}</call>{% endfor %}"
    "<|im_end|>{{ '\\n' }}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant{{ '\\n' }}{% endif %}"
)
WANTS_CONTENT = TEMPLATE.replace("{{ m.content }}", "{{ m.content + '' }}")


@pytest.fixture(scope="module")
def engine() -> TokenEngine:
    return TokenEngine.load(ByteTokenizer(), chat_template=TEMPLATE)


@pytest.fixture
def env(engine: TokenEngine) -> ChatEnvironment:
    env = ChatEnvironment(engine)
    env.reset(messages=[QUESTION])
    return env


def calling(arguments: Any) -> dict[str, Any]:
    return {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": {"name": "f", **arguments}}],
    }


def text(env: ChatEnvironment) -> str:
    return str(ByteTokenizer().decode(env.state.token_ids.tolist()))


@pytest.mark.parametrize(
    "arguments",
    [
        "",
        " ",
        "null",
        "[1]",
        "3",
        '"a"',
        "{",
        '{"a": 1e400}',
        '{"a": NaN}',
        '{"a": -Infinity}',
        '{"a": "\\ud800"}',
        None,
        [1],
        3,
    ],
    ids=ascii,
)
def test_arguments_are_an_object_or_the_json_text_of_one(env: ChatEnvironment, arguments: Any) -> None:
    before = text(env)
    with pytest.raises(InvalidRequestError) as refused:
        env.step(calling({"arguments": arguments}))
    assert refused.value.reason == "BAD_MESSAGE"
    assert refused.value.field == "messages[0].tool_calls[0].function.arguments"
    assert text(env) == before


@pytest.mark.parametrize("arguments", [{}, {"arguments": {}}, {"arguments": "{}"}, {"arguments": " { } "}])
def test_no_arguments_are_an_empty_object(env: ChatEnvironment, arguments: Any) -> None:
    env.step(calling(arguments))
    assert text(env).count("<call>{}</call>") == 1


@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (lambda number: {"messages": [calling({"arguments": {"a": [number]}})]}, "BAD_MESSAGE"),
        (lambda number: {"messages": [{**QUESTION, "further": number}]}, "BAD_MESSAGE"),
        (lambda number: {"tools": [{"function": {"name": "f", "most": number}}]}, "BAD_TOOLS"),
        (lambda number: {"chat_template_kwargs": {"most": number}}, "BAD_TEMPLATE_KWARGS"),
        (lambda number: {"metadata": {"most": number}}, "BAD_METADATA"),
    ],
)
def test_what_json_cannot_spell_is_refused_wherever_it_stands(
    env: ChatEnvironment, number: float, options: Any, reason: str
) -> None:
    with pytest.raises(InvalidRequestError, match="JSON") as refused:
        env.reset(**options(number))
    assert refused.value.reason == reason


@pytest.mark.parametrize("name", ["reasoning_content", "thinking", "reasoning"])
def test_the_thinking_may_go_by_any_of_its_names(env: ChatEnvironment, name: str) -> None:
    given = {"role": "assistant", name: "I wonder."}
    observation = env.step({**given, "content": "Sun."})
    assert "<think>I wonder.</think>Sun." in text(env)
    assert observation.fidelity == ()
    env.reset(messages=[QUESTION, given])  # it says something, so it needs no content
    assert "<think>I wonder.</think>" in text(env)
    assert env.state.history_messages[-1] == given


def test_the_same_thinking_under_two_names_is_fine_and_another_is_not(env: ChatEnvironment) -> None:
    message = {"role": "assistant", "content": "Sun.", "thinking": "I wonder.", "reasoning_content": None}
    env.step({**message, "reasoning": "I wonder."})
    with pytest.raises(InvalidRequestError, match="differ") as refused:
        env.step({**message, "reasoning": "I know."})
    assert refused.value.field == "messages[0].reasoning_content"


@pytest.mark.parametrize("step", ["reset", "step", "render"])
def test_a_template_that_wants_content_names_the_message_without(step: str) -> None:
    env = ChatEnvironment(ByteTokenizer(), chat_template=WANTS_CONTENT, system_prompt="Be brief.")
    bare = {key: value for key, value in calling({"arguments": {}}).items() if key != "content"}
    env.reset(messages=[QUESTION])
    before = text(env)
    take: Any = {"reset": lambda given: env.reset(messages=given), "step": env.step, "render": env.render}[step]
    with pytest.raises(TemplateRejectedError, match="an empty text is enough") as refused:
        take([QUESTION, bare])
    assert refused.value.field == "messages[1].content"
    assert text(env) == before
    take([QUESTION, {**bare, "content": ""}])


def test_content_is_not_blamed_for_what_it_does_not_cause() -> None:
    template = "{{ raise_exception('no') if messages[-1].reasoning_content == 'a' }}" + TEMPLATE
    env = ChatEnvironment(ByteTokenizer(), chat_template=template)
    with pytest.raises(TemplateRejectedError) as refused:
        env.reset(messages=[QUESTION, {"role": "assistant", "reasoning_content": "a"}])
    assert refused.value.field == "messages"


def test_json_text_of_arguments_reaches_the_template_as_an_object(env: ChatEnvironment) -> None:
    env.step(calling({"arguments": json.dumps({"city": "Oslo"})}))
    assert '<call>{"city": "Oslo"}</call>' in text(env)
