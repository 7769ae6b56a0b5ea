"""Where a sampled turn begins and ends, under templates that frame turns in unusual ways."""

from __future__ import annotations

from typing import Any

import pytest

from chatenv_client import ChatAction, FidelityReport
from chatenv_server import ChatEnvironment
from chatenv_server.doctor.stand_in import stand_in
from chatenv_server.engine import TokenEngine

HELLO = {"role": "user", "content": "Hello!"}
BYE = {"role": "user", "content": "Good bye."}


def read(template: str, text: str, *, prompt: bool = True) -> tuple[str, list[FidelityReport]]:
    """The content that a sampled text is read as, and the reports once a user has answered."""
    tokenizer: Any = stand_in(template)
    env = ChatEnvironment(TokenEngine.load(tokenizer))
    env.reset(messages=[HELLO], add_generation_prompt=prompt)
    said = env.step(ChatAction(tokens=tokenizer.encode(text, add_special_tokens=False))).messages[-1]
    return str(said["content"]), list(env.step(BYE).fidelity)


SPACED_CLOSE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{{ '\\n\\n' if m.role == 'assistant' }}<|sep|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.mark.parametrize("content", ["It is.", "It is.\n", "It is.\n\n\n", "\nIt is."])
def test_white_space_of_the_close_is_taken_off_once(content: str) -> None:
    assert read(SPACED_CLOSE, f"{content}\n\n<|sep|>") == (content, [])


CLOSED_LATER = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}"
    "{% if m.role == 'assistant' and not loop.last %}{{ '\\n<|end|>\\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def test_a_close_is_known_that_a_template_writes_only_once_the_next_turn_follows() -> None:
    assert read(CLOSED_LATER, "It is.\n<|end|>") == ("It is.", [])


HEADER_IN_TAGS = (
    "{% for m in messages %}{% if m.role == 'user' %}<|user|>{{ m.content }}{% else %}<|bot|></think!>{{ m.content }}"
    "<|end|>{% endif %}{% endfor %}{% if add_generation_prompt %}<|bot|><think!>{% endif %}"
)


def test_a_header_that_a_model_writes_itself_ends_inside_no_tag() -> None:
    assert read(HEADER_IN_TAGS, "<|bot|></think!>It is.<|end|>", prompt=False) == ("It is.", [])


UNASKED = (
    "{% for m in messages %}<|turn|><|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "<|turn|><|assistant|>{% if not thinks %}<|think|><|/think|>{% endif %}"
)


def test_a_prompt_that_nobody_asked_for_holds_no_stop_token() -> None:
    tokenizer: Any = stand_in(UNASKED)
    stops = {text for _, text, stops in TokenEngine.load(tokenizer).control_tokens if stops}
    assert "<|end|>" in stops
    assert not stops & {"<|turn|>", "<|assistant|>", "<|think|>", "<|/think|>"}


OWN_CLOSES = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% for c in m.tool_calls or [] %}"
    "<call>{{ c.function.name }} {{ c.function.arguments | tojson }}</call>{% endfor %}"
    "{{ '<|end_of_calls|>' if m.tool_calls else '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>Well: {% endif %}"
)
"""Closes calls otherwise than texts, and forgets the prompt's words."""


@pytest.mark.parametrize(("said", "close"), [('<call>f {"a": 1}</call>', "<|end_of_calls|>"), ("It is.", "<|end|>")])
def test_a_turn_without_a_stop_token_is_closed_as_turns_of_its_kind_are(said: str, close: str) -> None:
    tokenizer: Any = stand_in(OWN_CLOSES)
    env = ChatEnvironment(TokenEngine.load(tokenizer))
    env.reset(messages=[HELLO])
    env.step(ChatAction(tokens=tokenizer.encode(said, add_special_tokens=False), stop_reason="length"))
    tail = env.step({"role": "tool", "content": "rainy"} if "call" in said else BYE).stream.tail
    assert tokenizer.decode(tail).startswith(close)
