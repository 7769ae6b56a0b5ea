"""Turns that real chat templates write come back as the messages from which they were written."""

from __future__ import annotations

import functools
import json
import os
import re
import string
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chatenv_server.engine.parsing import (
    PROBE_MESSAGES,
    ParsedTurn,
    TurnParser,
    learn_reader,
)
from chatenv_server.engine.parsing.layout_parser import LayoutParser

CONFORMANCE = Path(os.environ.get("CHATENV_CONFORMANCE", Path(__file__).parents[2] / "../shared/conformance"))
TEMPLATES = sorted(CONFORMANCE.glob("templates/*.jinja")) + sorted(CONFORMANCE.glob("tokenizers/*/chat_template.jinja"))
PROMPTS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "thinking": {"enable_thinking": True},
    "not thinking": {"enable_thinking": False},
    "without the thought it opens": {},
}
"""Generation prompts. The last is for templates that open a thought there and not in the history."""

pytestmark = pytest.mark.skipif(not TEMPLATES, reason=f"no conformance data at {CONFORMANCE}")

USER = {"role": "user", "content": "Hi"}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "lookup",
            "description": "Looks things up.",
            "parameters": {
                "type": "object",
                "properties": {"query": {"type": "string", "description": "What."}},
                "required": ["query"],
            },
        },
    }
]
ENDS_OF_CALLS = ("<|call|>", "<|tool_response>", "<|observation|>", "<|user|>")
"""Closers that some templates write behind calls alone."""


def name_of(path: Path) -> str:
    return path.parent.name if path.name == "chat_template.jinja" else path.stem


@functools.cache
def tokenizer() -> Any:
    transformers = pytest.importorskip("transformers")
    loaded = transformers.AutoTokenizer.from_pretrained(CONFORMANCE / "tokenizers/gpt2")
    loaded.bos_token, loaded.eos_token = "<s>", "</s>"
    return loaded


@dataclass(frozen=True)
class Form:
    """How a template wants messages."""

    arguments_as_text: bool
    content_as_parts: bool

    def apply(self, message: Mapping[str, Any]) -> dict[str, Any]:
        formed = dict(message)
        if self.content_as_parts:
            formed["content"] = [{"type": "text", "text": message["content"]}]
        if self.arguments_as_text and "tool_calls" in message:
            formed["tool_calls"] = [
                {**call, "function": {**call["function"], "arguments": dumps(call["function"]["arguments"])}}
                for call in message["tool_calls"]
            ]
        return formed


class Template:
    """A chat template with the parser that was chosen for it."""

    def __init__(self, path: Path, prompt: str) -> None:
        self.source = path.read_text(encoding="utf-8")
        self.variables = PROMPTS[prompt]
        self.form = self._find_form()
        plain = self.render(PROBE_MESSAGES[0])
        assert plain is not None
        self.close = plain.split(PROBE_MESSAGES[0]["content"])[1]
        self.generation_prompt = self._apply([self.form.apply(USER)], add_generation_prompt=True)
        if prompt == "without the thought it opens":
            self.generation_prompt = self.generation_prompt.rstrip().removesuffix("<think>")
        self.parser: TurnParser = learn_reader(self.write, self.generation_prompt)

    def render(self, message: Mapping[str, Any]) -> str | None:
        """The user's message and this one; None where the template rejects it."""
        try:
            return self._apply([self.form.apply(USER), self.form.apply(message)])
        except Exception:  # noqa: BLE001 - a template may raise whatever it likes
            return None

    def write(self, message: Mapping[str, Any]) -> str | None:
        """A render of the message without what closes its turn."""
        text = self.render(message)
        return None if text is None else self.cut(text)

    def cut(self, text: str) -> str:
        """A render without what closes its turn."""
        return next(
            (text.removesuffix(end) for end in (self.close, *ENDS_OF_CALLS) if end and text.endswith(end)),
            text,
        )

    def sampled(self, message: Mapping[str, Any]) -> str | None:
        """What a model would have sampled if the template wrote `message`; None where it cannot have."""
        text = self.render(message)
        if text is None or not text.startswith(self.generation_prompt):
            return None
        return self.cut(text)[len(self.generation_prompt) :]

    def _apply(self, messages: list[dict[str, Any]], **options: Any) -> str:
        options |= {"tokenize": False, "tools": TOOLS, "chat_template": self.source, **self.variables}
        text: str = tokenizer().apply_chat_template(messages, **options)
        return text

    def _find_form(self) -> Form:
        forms = [Form(text, parts) for parts in (False, True) for text in (False, True)]
        for message in (PROBE_MESSAGES[2], PROBE_MESSAGES[0]):
            for self.form in forms:
                plain, probe = self.render(PROBE_MESSAGES[0]), self.render(message)
                if probe is not None and plain is not None and PROBE_MESSAGES[0]["content"] in plain:
                    return self.form
        raise AssertionError("the template takes no message")


@functools.cache
def load(path: Path, prompt: str) -> Template:
    return Template(path, prompt)


def dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def call(name: str, arguments: dict[str, Any], call_id: str) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


LOOKUP = call("lookup", {"days": 3, "query": 'São Paulo "now", maybe'}, "call00001")
NESTED = call(
    "store-item",
    {"deep": {"list": [1, 2.5, "x"], "more": {"a": "b"}}, "flag": False, "none": None},
    "call00002",
)
EMPTY = call("now", {}, "call00003")
LINES = call("write", {"text": "def f(x):\n    return x\n\n# 東京 🙂", "title": " padded "}, "call00004")

MESSAGES: dict[str, dict[str, Any]] = {
    "text": {"content": "Hello there."},
    "spaced text": {"content": "  Hello\n\n\tthere. \n"},
    "code": {"content": "```python\nif a < b and c > d:\n    print('[x]', {1: 2})\n```"},
    "unicode": {"content": "Grüße, 東京! 🙂"},
    "thought": {"content": "Hello.", "reasoning_content": "First.\n\nThen this."},
    "spaced thought": {"content": "\nHello.\n", "reasoning_content": "\n Well. \n"},
    "call": {"content": "", "tool_calls": [LOOKUP]},
    "empty call": {"content": "", "tool_calls": [EMPTY]},
    "nested call": {"content": "", "tool_calls": [NESTED]},
    "lines in a call": {"content": "", "tool_calls": [LINES]},
    "calls": {"content": "", "tool_calls": [LOOKUP, EMPTY, NESTED]},
    "text and call": {"content": "Let me see.", "tool_calls": [LOOKUP]},
    "spaced text and calls": {"content": "Let me see.\n\n", "tool_calls": [LOOKUP, LINES]},
    "thought and call": {"content": "", "reasoning_content": "Look it up.", "tool_calls": [NESTED]},
    "thought, text and calls": {"content": "So:", "reasoning_content": "Hm.", "tool_calls": [EMPTY, LOOKUP]},
}

cases = pytest.mark.parametrize("path", TEMPLATES, ids=name_of)


@pytest.mark.parametrize("prompt", PROMPTS)
@cases
def test_rendering_a_parsed_turn_gives_its_text_back(path: Path, prompt: str) -> None:
    template = load(path, prompt)
    for shape, fields in MESSAGES.items():
        assert_identity(template, {"role": "assistant", **fields}, shape)


def assert_identity(template: Template, message: dict[str, Any], shape: str) -> None:
    sampled = template.sampled(message)
    if sampled is None:
        return
    parsed = template.parser.parse(sampled)
    assert not parsed.problems, (shape, sampled, parsed)
    assert template.sampled(parsed.as_message()) == sampled, (shape, parsed)


@cases
def test_what_a_template_writes_whole_is_recovered_whole(path: Path) -> None:
    template = load(path, "without the thought it opens")
    recovered = []
    for shape, fields in MESSAGES.items():
        message = {"role": "assistant", **fields}
        sampled = template.sampled(message)
        if "spaced" not in shape and sampled is not None and all(text in sampled for text in texts_of(message)):
            parsed = template.parser.parse(sampled)
            # gpt-oss has no other way to write a text before a call than as a thought.
            if not (parsed.reasoning_content == message["content"] and template.parser.name == "channels"):
                assert without_ids(parsed) == without_ids(message), (shape, sampled)
            recovered.append(shape)
    assert "text" in recovered
    assert ("call" in recovered) == (template.parser.name != "verbatim")


@pytest.mark.parametrize(
    ("template", "form"),
    [
        ("qwen2_5", "json"),
        ("qwen3", "json"),
        ("qwen3_5_think", "pairs"),
        ("qwen3_6", "pairs"),
        ("nemotron_3_nano", "pairs"),
        ("llama3_1", "json"),
        ("llama3", "verbatim"),
        ("deepseekv3", "tagged_json"),
        ("gptoss", "channels"),
        ("glm4moe", "pairs"),
        ("diffusion_gemma", "tagged_literals"),
        ("gemma3", "verbatim"),
        ("lfm2_2_5", "pairs"),
        ("mistral_7b_v0_3", "json"),
        ("standin_kimi_k2", "tagged_json"),
    ],
)
def test_the_form_is_found_by_differing_renders(template: str, form: str) -> None:
    path = next(path for path in TEMPLATES if name_of(path) == template)
    assert load(path, "as it is").parser.name == form


def test_a_thought_that_only_the_prompt_opens_is_told_from_the_answer() -> None:
    path = next(path for path in TEMPLATES if name_of(path) == "deepseekv3")
    parsed = load(path, "as it is").parser.parse("Hm.\n</think>\n\nHello.")
    assert parsed == ParsedTurn(content="\n\nHello.", reasoning_content="Hm.")


LETTERS = string.ascii_letters + string.digits + ' \n\t.,:;-_!?"%é東🙂'
TAG = re.compile(r"<[^<>]+>|\[[A-Z_/]+\]")
prose = st.text(st.sampled_from(LETTERS + "<>[]{}'|=/\\`"), max_size=20).filter(lambda text: not TAG.search(text))
"""Text that may have every sign of markup in it, but no markup."""
words = st.text(st.sampled_from(LETTERS), max_size=20)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | words
names = st.text(st.sampled_from(string.ascii_lowercase + "_"), min_size=1, max_size=8)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3))
calls = st.builds(call, names, st.dictionaries(names, values, max_size=3), st.text("abc123", min_size=9, max_size=9))
messages = st.builds(
    lambda content, thought, calls: {
        "role": "assistant",
        "content": content,
        **({} if thought is None else {"reasoning_content": thought}),
        **({"tool_calls": calls} if calls else {}),
    },
    prose,
    st.none() | words,
    st.lists(calls, max_size=2),
)
templates = st.builds(load, st.sampled_from(TEMPLATES or [Path()]), st.sampled_from(sorted(PROMPTS)))


@given(templates, messages)
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_rendering_any_parsed_turn_gives_its_text_back(template: Template, message: dict[str, Any]) -> None:
    assert_identity(template, message, "any")


MARKUP = r"(?:\s|<[^<>]*>|\[[^\[\]\s]*\]|thought)*"


@given(templates, messages, st.data())
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_nothing_but_markup_is_lost_of_a_damaged_turn(
    template: Template, message: dict[str, Any], data: st.DataObject
) -> None:
    damaged = data.draw(damages(template.sampled(message) or message["content"]))
    parsed = template.parser.parse(damaged)
    if not isinstance(template.parser, LayoutParser) or parsed.tool_calls:
        return
    said = MARKUP.join(re.escape(text) for text in ("", parsed.reasoning_content or "", parsed.content, ""))
    assert re.fullmatch(said, template.parser.opening + damaged), (damaged, parsed)


@st.composite
def damages(draw: st.DrawFn, text: str) -> str:
    start, end = sorted((draw(st.integers(0, len(text))), draw(st.integers(0, len(text)))))
    inserted = draw(
        st.sampled_from(["", text[start:end], "<tool_call>", "</think>", "{", '"', "\n"]) | st.text(max_size=5)
    )
    return draw(st.sampled_from([text[:end], text[:start] + inserted + text[end:], text[start:] + inserted]))


def texts_of(message: Mapping[str, Any]) -> list[str]:
    names = [one["function"]["name"] for one in message.get("tool_calls", ())]
    return [message["content"], message.get("reasoning_content", ""), *names]


def without_ids(message: ParsedTurn | Mapping[str, Any]) -> dict[str, Any]:
    fields = message.as_message() if isinstance(message, ParsedTurn) else dict(message)
    if "tool_calls" in fields:
        fields["tool_calls"] = [one["function"] for one in fields["tool_calls"]]
    return fields
