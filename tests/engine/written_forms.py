"""Ways of writing a turn that nobody may have thought of: forms of calls, put together at random.

Each is a function from a message to its text, as a chat template is. What it writes can be told apart: it escapes
texts, or ends them in what no text holds.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

Message = Mapping[str, Any]
Call = tuple[str, dict[str, Any], str]
"""Name, arguments and id."""
WriteCall = Callable[[str, dict[str, Any], str], str]
WriteValue = Callable[[Any], str]


def as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def as_ascii(value: Any) -> str:
    return json.dumps(value)


def as_tight_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def as_indented_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2)


def as_own_literal(quote: str) -> WriteValue:
    def write(value: Any) -> str:
        if isinstance(value, dict):
            return "{" + ",".join(f"{key}:{write(item)}" for key, item in value.items()) + "}"
        if isinstance(value, list):
            return "[" + ",".join(map(write, value)) + "]"
        return quote + value + quote if isinstance(value, str) else as_json(value)

    return write


def bare(write: WriteValue) -> WriteValue:
    return lambda value: value if isinstance(value, str) else write(value)


@dataclass(frozen=True)
class Form:
    """A way of writing turns."""

    call: WriteCall
    opens: str
    parts: str
    closes: str
    gap: str
    thought: tuple[str, str]
    frame: tuple[str, str]

    def __call__(self, message: Message) -> str:
        calls = [(c["function"]["name"], c["function"]["arguments"], c["id"]) for c in message.get("tool_calls", ())]
        said = message["content"]
        thought = message.get("reasoning_content")
        text = "" if thought is None else self.thought[0] + thought + self.thought[1]
        if said or not calls:
            text += self.frame[0] + said + self.frame[1]
        if calls:
            text += (self.gap if said else "") + self.opens + self.parts.join(self.call(*one) for one in calls)
            text += self.closes
        return text


@st.composite
def tags(draw: st.DrawFn) -> tuple[str, str]:
    """What opens and what closes something."""
    word = draw(st.sampled_from(["call", "tool_call", "invoke", "action", "plugin", "fn"]))
    shape = draw(
        st.sampled_from(["<{}>|</{}>", "<|{}|>|<|/{}|>", "<|{}_begin|>|<|{}_end|>", "[{}]|[/{}]", "<ns:{}>|</ns:{}>"])
    )
    word = word.upper() if shape.startswith("[") else word
    opener, closer = shape.replace("{}", word).rsplit("|<" if "|<" in shape else "|", 1)
    return opener, ("<" if "|<" in shape else "") + closer


SPACES = st.sampled_from(["", "\n", " ", "\n\n"])


@st.composite
def json_calls(draw: st.DrawFn) -> WriteCall:
    """A JSON object with all of a call in it."""
    name_key, arguments_key = draw(
        st.sampled_from([("name", "arguments"), ("name", "parameters"), ("tool_name", "args")])
    )
    write = draw(st.sampled_from([as_json, as_ascii, as_tight_json, as_indented_json]))
    shape = draw(st.sampled_from(["flat", "nested", "with id", "keyed", "text", "arguments first"]))

    def call(name: str, arguments: dict[str, Any], call_id: str) -> str:
        shapes: dict[str, Any] = {
            "flat": {name_key: name, arguments_key: arguments},
            "nested": {"type": "function", "function": {name_key: name, arguments_key: arguments}},
            "with id": {"id": call_id, name_key: name, arguments_key: arguments},
            "keyed": {name: arguments},
            "text": {name_key: name, arguments_key: as_json(arguments)},
            "arguments first": {arguments_key: arguments, name_key: name},
        }
        return str(write(shapes[shape]))

    return call


@st.composite
def framed_json(draw: st.DrawFn) -> WriteCall:
    """A name in fixed text, then JSON."""
    before, between, after = draw(
        st.sampled_from(
            [
                ("<function=", ">", "</function>"),
                ("", "\n", ""),
                ("function<|sep|>", "\n```json\n", "\n```"),
                ("functions.", "<|message|>", ""),
                ('name="', '" args=', ";"),
            ]
        )
    )
    write = draw(st.sampled_from([as_json, as_ascii, as_tight_json, as_own_literal('<|"|>'), as_own_literal("<esc>")]))
    return lambda name, arguments, _: before + name + between + write(arguments) + after


@st.composite
def pairs(draw: st.DrawFn) -> WriteCall:
    """Keys and values between tags, values as they are."""
    line = draw(st.sampled_from(["", "\n"]))
    before, after_name, end = draw(
        st.sampled_from([("<function=", ">", "</function>"), ('<invoke name="', '">', "</invoke>"), ("", "", "<end>")])
    )
    key_opens, key_closes, closes = draw(
        st.sampled_from(
            [
                ("<parameter=", ">", "</parameter>"),
                ('<arg name="', '">', "</arg>"),
                ("<arg_key>", "</arg_key><arg_value>", "</arg_value>"),
            ]
        )
    )
    edge = draw(st.sampled_from(["", "\n"]))
    writes: list[WriteValue] = [as_json, str]
    write = bare(draw(st.sampled_from(writes)))

    def call(name: str, arguments: dict[str, Any], _: str) -> str:
        items = (
            f"{key_opens}{key}{key_closes}{edge}{write(value)}{edge}{closes}{line}" for key, value in arguments.items()
        )
        return before + name + after_name + line + "".join(items) + end

    return call


@st.composite
def pythonic(draw: st.DrawFn) -> WriteCall:
    """A call as in Python."""
    write = draw(st.sampled_from([repr, as_json]))
    return lambda name, arguments, _: (
        f"{name}({', '.join(f'{key}={write(value)}' for key, value in arguments.items())})"
    )


@st.composite
def forms(draw: st.DrawFn) -> Form:
    """Any of these, one call after the other or in a section, beside texts and thoughts."""
    kind = draw(st.sampled_from([json_calls, framed_json, pairs, pythonic]))
    call: WriteCall = draw(kind())
    opener, closer = draw(tags())
    space = draw(SPACES)
    shape = draw(st.sampled_from(["each", "section", "list"]))
    if shape == "each":
        one, opens, parts, closes = call, "", draw(SPACES), ""

        def call(name: str, arguments: dict[str, Any], call_id: str) -> str:
            return opener + space + one(name, arguments, call_id) + space + closer

    elif shape == "list":
        opens, parts, closes = f"{opener}{space}[", ", ", f"]{closer}"
    else:
        opens, parts, closes = f"{opener}{space}", "\n", f"{space}{closer}"
    thought = draw(st.sampled_from([("<think>", "</think>"), ("<think>\n", "\n</think>\n\n"), ("[THINK]", "[/THINK]")]))
    frame = draw(st.sampled_from([("", ""), ("<response>", "</response>")]))
    return Form(call, opens, parts, closes, draw(SPACES), thought, frame)
