"""What the doctor takes for a sampled turn: what a model says that has learnt the template."""

from __future__ import annotations

from typing import Any, Final

import pytest

from chatenv_client import Message
from chatenv_server.doctor.reference import Reference
from chatenv_server.doctor.sampling import sampled_text
from chatenv_server.doctor.stand_in import stand_in

ASKED: Final[Message] = {"role": "user", "content": "Will it rain?"}
ANSWER: Final[Message] = {"role": "assistant", "content": "It will."}
THANKS: Final[Message] = {"role": "user", "content": "Thanks a lot."}
CALL: Final[Message] = {
    "role": "assistant",
    "content": "",
    "tool_calls": [
        {"id": "callid001", "type": "function", "function": {"name": "get_weather", "arguments": {"city": "Rome"}}}
    ],
}
RESULT: Final[Message] = {"role": "tool", "content": "rainy", "tool_call_id": "callid001", "name": "get_weather"}

_CALLS = "{% for c in m.tool_calls or [] %}<|call|>{{ c.function | tojson }}<|/call|>{% endfor %}"
_THINKS = (
    "{% for m in messages %}<|turn|>{{ m.role }}\n"
    "{% if m.reasoning_content and (m.tool_calls or EVERYWHERE) %}"
    "<|channel>thought\n{{ m.reasoning_content }}\n<channel|>{% endif %}"
    "{{ m.content }}" + _CALLS + "<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant\n<|channel>thought\n{% endif %}"
)


def sampled(template: str, message: Message, *history: Message, following: Message = THANKS) -> str:
    reference = Reference(stand_in(template))
    return sampled_text(reference, history, message, [following], tools=False, prompt=True).text


@pytest.mark.parametrize("everywhere", ["true", "false"])
@pytest.mark.parametrize(("message", "said"), [(ANSWER, "It will.<|end|>"), (CALL, "<|call|>")])
def test_a_turn_without_a_thought_first_ends_the_one_that_its_prompt_opens(
    everywhere: str, message: Message, said: str
) -> None:
    text = sampled(_THINKS.replace("EVERYWHERE", everywhere), message, ASKED)
    assert text.startswith("\n<channel|>" + said)


def test_a_turn_with_a_thought_that_history_drops_still_thinks() -> None:
    thinking: Any = {**ANSWER, "reasoning_content": "Clouds."}
    assert sampled(_THINKS.replace("EVERYWHERE", "false"), thinking, ASKED) == "Clouds.\n<channel|>It will.<|end|>"


_SPACED = (
    "You have tools.\n\n{% for m in messages %}"
    "{% if m.role == 'user' %}<|user|>{{ m.content }}<|bot|>"
    "{% elif m.role == 'tool' %}<|output|>{{ m.content }}<|/output|>"
    "{% else %}    {% if loop.previtem.role == 'tool' %}<|/outputs|>{% endif %}{{ m.content }}" + _CALLS + "<|end|>"
    "{% endif %}{% endfor %}"
    "{% if messages[-1].role == 'tool' %}<|/outputs|>\n\n{% endif %}"
)


def test_no_earlier_message_is_taken_for_part_of_a_turn() -> None:
    text = sampled(_SPACED, ANSWER, ASKED, CALL, RESULT)
    assert text.endswith("It will.<|end|>")
    assert "rainy" not in text


_BLOCK = (
    "{% for m in messages %}<|turn|>{{ m.role }}\n"
    "{% if m.role == 'assistant' %}<think>\n{{ m.reasoning_content or '' }}\n</think>\n\n{% endif %}"
    "{{ m.content }}" + _CALLS + "<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant\n<think>\n\n</think>\n\n{% endif %}"
)


@pytest.mark.parametrize(("message", "said"), [(ANSWER, "It will.<|end|>"), (CALL, "<|call|>")])
def test_nobody_thinks_after_a_prompt_that_has_ended_the_thought(message: Message, said: str) -> None:
    thinking: Any = {**message, "reasoning_content": "Clouds."}
    assert sampled(_BLOCK, thinking, ASKED).startswith(said)


_TWO_TURNS = (
    "{% for m in messages %}<|turn|>{{ m.role }}\n{{ m.content }}"
    "{% if m.tool_calls %}" + _CALLS + "<|end|><|turn|>assistant\n{% endif %}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
)


def test_no_turn_goes_on_after_the_token_at_which_models_stop() -> None:
    assert sampled(_TWO_TURNS, CALL, ASKED, following=RESULT).endswith("<|/call|><|end|>")


_UNASKED = (
    "{% for m in messages %}<|turn|>{{ m.role }}<|header|>{{ m.content }}" + _CALLS + "<|eor|><|end|>{% endfor %}"
    "<|turn|>assistant<|header|>"
)


@pytest.mark.parametrize("message", [ANSWER, CALL])
def test_a_turn_ends_before_a_prompt_that_nobody_asked_for(message: Message) -> None:
    assert sampled(_UNASKED, message, ASKED).endswith("<|eor|><|end|>")
