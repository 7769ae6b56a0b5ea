"""Law 12 over forms that are made up: what is read from a turn renders to its text, whatever the form of the calls."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chatenv_server.engine.parsing import ParsedTurn, learn_reader, types_of_tools
from tests.engine.written_forms import Form, Message, as_json, bare, forms

TYPES = {"city": "string", "zip": "string", "days": "integer", "ratio": "number", "exact": "boolean"}
TYPES |= {"items": "array", "more": "object"}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "parameters": {"type": "object", "properties": {key: {"type": kind} for key, kind in TYPES.items()}},
        },
    }
    for name in ("get_weather", "store-item")
]
TAG = re.compile(r"<[^<>]+>|\[/?[A-Z]+\]")
texts = st.text(st.sampled_from("abz 07.,:;-_!?()[]{}<>'\"\\\n\t/=&é東🙂"), max_size=16).filter(
    lambda text: not TAG.search(text)
)
"""Texts with every sign of markup in them, but no tag."""
like_others = st.sampled_from(
    ["007", "94103", "true", "null", "None", "[1, 2]", '{"a": 1}', "1e5", "", " padded ", "\nx\n"]
)
edges = st.sampled_from(["", "\n", " ", "\n\n", "\t"])
padded = st.builds(lambda before, text, after: before + text + after, edges, texts, edges)
closers = st.sampled_from(
    ["</parameter>", "a</arg>b", "</arg_value>\n", "</tool_call>", "</function>x", "[/CALL]", "</invoke>"]
)
strings = padded | like_others | closers
prose = texts.map(str.strip).filter(bool)
scalars = st.none() | st.booleans() | st.integers(-999, 999) | st.sampled_from([0.5, -2.25]) | strings
names = st.sampled_from(["key", "n", "deep_er"])
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(names, inner, max_size=2), max_leaves=4
)
by_type: dict[str, st.SearchStrategy[Any]] = {
    "string": strings,
    "integer": st.integers(-9999, 9999),
    "number": st.sampled_from([0.5, -2.25, 3]),
    "boolean": st.booleans(),
    "array": st.lists(values, max_size=3),
    "object": st.dictionaries(names, values, max_size=3),
}
arguments = st.fixed_dictionaries({}, optional={key: by_type[kind] for key, kind in TYPES.items()})
calls = st.builds(
    lambda name, arguments, call_id: {
        "id": call_id,
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    },
    st.sampled_from(["get_weather", "store-item"]),
    arguments,
    st.text("abc123", min_size=9, max_size=9),
)
messages = st.builds(
    lambda content, thought, calls: {
        "role": "assistant",
        "content": content,
        **({} if thought is None else {"reasoning_content": thought}),
        **({"tool_calls": calls} if calls else {}),
    },
    st.just("") | prose,
    st.none() | prose,
    st.lists(calls, max_size=3),
).filter(lambda message: bool(message["content"] or message.get("tool_calls")))


def functions(message: Message) -> str:
    # As JSON, because in Python True equals 1.
    return json.dumps([one["function"] for one in message.get("tool_calls", ())], sort_keys=True)


@given(forms(), messages)
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_a_turn_in_any_form_comes_back_as_it_was_given(form: Form, message: Message) -> None:
    turn = form(message)
    read = learn_reader(form).typed(types_of_tools(TOOLS)).parse(turn)
    assert read.problems == (), turn
    assert functions(read.as_message()) == functions(message), turn
    assert (read.content, read.reasoning_content) == (message["content"], message.get("reasoning_content")), turn


@given(forms(), messages)
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_what_is_read_without_schemas_is_written_the_same_again(form: Form, message: Message) -> None:
    """Law 12, where nothing but the text says of which type an argument is."""
    turn = form(message)
    again = dict(learn_reader(form).parse(turn).as_message())
    ids = [one["id"] for one in message.get("tool_calls", ())]
    again["tool_calls"] = [{"id": i, **one} for i, one in zip(ids, again.get("tool_calls", ()), strict=True)]
    assert form(again) == turn


@given(forms(), messages, st.data())
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_a_turn_that_is_cut_off_keeps_its_text_and_never_fails(
    form: Form, message: Message, data: st.DataObject
) -> None:
    turn = form(message)
    cut = turn[: data.draw(st.integers(0, len(turn)))]
    read = learn_reader(form).parse(cut)
    if not read.tool_calls and read.reasoning_content is None:
        assert read.content.strip() in cut
    json.dumps(read.as_message(), allow_nan=False).encode()


def writes_with_bare_values(message: Message) -> str:
    calls = [one["function"] for one in message.get("tool_calls", ())]
    return str(message["content"]) + "".join(
        f"<call:{call['name']}>"
        + "".join(f"<{key}>{bare(as_json)(value)}</{key}>" for key, value in call["arguments"].items())
        + f"</call:{call['name']}>"
        for call in calls
    )


def read_bare(schema: Mapping[str, Any] | None, text: str) -> Any:
    tools = [{"type": "function", "function": {"name": "find", "parameters": {"properties": {"zip": schema}}}}]
    types = {} if schema is None else types_of_tools(tools)
    read = learn_reader(writes_with_bare_values).typed(types).parse(f"<call:find><zip>{text}</zip></call:find>")
    assert not read.problems
    return read.tool_calls[0]["function"]["arguments"]["zip"]


@pytest.mark.parametrize(
    ("schema", "text", "value"),
    [
        (None, "94103", 94103),
        ({"type": "string"}, "94103", "94103"),
        ({"type": "string"}, "true", "true"),
        ({"type": "string"}, '{"a": 1}', '{"a": 1}'),
        ({"type": "integer"}, "94103", 94103),
        ({"type": "integer"}, "many", "many"),
        ({"type": "number"}, "1.10", 1.1),
        ({"type": "boolean"}, "True", True),
        ({"type": ["string", "null"]}, "null", None),
        ({"anyOf": [{"type": "integer"}, {"type": "string"}]}, "7", 7),
        ({"anyOf": [{"type": "integer"}, {"type": "string"}]}, "7a", "7a"),
        ({"enum": ["1", "2"]}, "1", "1"),
        ({"type": "string", "nullable": True}, "null", None),
        ({"type": "array"}, "[1, 2]", [1, 2]),
        ({"description": "Whatever."}, "94103", 94103),
    ],
)
def test_a_schema_says_what_a_bare_value_is(schema: Mapping[str, Any] | None, text: str, value: Any) -> None:
    found = read_bare(schema, text)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("types", "text", "value"),
    [
        (["string", "null"], "null", "null"),
        (["string", "null"], "None", None),
        (["string", "integer"], "007", "007"),
        (["string", "integer"], " 7", " 7"),
        (["string", "boolean"], "true", "true"),
        (["string", "array"], '["1"]', '["1"]'),
        (["string", "array"], "['1']", ["1"]),
        (["integer", "null"], "null", None),
    ],
)
def test_what_a_schema_leaves_open_is_read_so_that_it_is_written_the_same_again(
    types: list[str], text: str, value: Any
) -> None:
    """Law 12, in a form that writes values as Python's `str` does."""

    def as_python(message: Message) -> str:
        calls = [one["function"] for one in message.get("tool_calls", ())]
        pairs = (f"<{k}>{v}</{k}>" for call in calls for k, v in call["arguments"].items())
        return str(message["content"]) + "".join(f"<call:{call['name']}>{''.join(pairs)}</call>" for call in calls)

    tools = [{"type": "function", "function": {"name": "find", "parameters": {"properties": {"zip": {"type": types}}}}}]
    read = learn_reader(as_python).typed(types_of_tools(tools)).parse(f"<call:find><zip>{text}</zip></call>")
    found = read.tool_calls[0]["function"]["arguments"]["zip"]
    assert (found, type(found)) == (value, type(value))


def test_a_function_and_its_keys_may_be_tags_themselves() -> None:
    message = {
        "content": "",
        "tool_calls": [{"id": "a", "function": {"name": "find", "arguments": {"zip": "x</zip>y", "n": 2}}}],
    }
    read = learn_reader(writes_with_bare_values).parse(writes_with_bare_values(message))
    assert functions(read.as_message()) == functions(message)


def test_ids_that_name_the_function_are_read_where_nothing_else_does() -> None:
    def by_ids(message: Message) -> str:
        calls = message.get("tool_calls", ())
        return str(message["content"]) + "".join(
            f"<|call|>{one['id']}<|args|>{as_json(one['function']['arguments'])}<|end|>" for one in calls
        )

    read = learn_reader(by_ids).parse('<|call|>functions.get_weather:3<|args|>{"city": "Oslo"}<|end|>')
    assert read.tool_calls == (
        {
            "id": "functions.get_weather:3",
            "type": "function",
            "function": {"name": "get_weather", "arguments": {"city": "Oslo"}},
        },
    )
    (other,) = learn_reader(by_ids).parse("<|call|>c1<|args|>{}<|end|>").tool_calls
    assert (other["id"], other["function"]["name"]) == ("c1", "c1")


def test_what_announces_each_call_may_end_the_prompt() -> None:
    def recipients(message: Message) -> str:
        text = f">>>all\n{message['content']}" if message["content"] else ""
        calls = (one["function"] for one in message.get("tool_calls", ()))
        return text + "".join(f">>>{call['name']}\n{as_json(call['arguments'])}" for call in calls)

    parser = learn_reader(recipients, ">>>")
    assert parser.parse("all\ndef f():\n\treturn {}") == ParsedTurn("def f():\n\treturn {}")
    read = parser.parse('all\nWell.>>>find\n{"zip": "1"}>>>now\n{}')
    assert read.content == "Well."
    assert [one["function"]["name"] for one in read.tool_calls] == ["find", "now"]


@pytest.mark.parametrize("said", ["Well.", ">>>", "", "find", 'find\n{"zip": "1"', "Well.>>>find\n{", "all Well."])
def test_what_the_prompt_wrote_is_no_content_of_a_turn_in_another_form(said: str) -> None:
    def recipients(message: Message) -> str:
        text = f">>>all\n{message['content']}" if message["content"] else ""
        calls = (one["function"] for one in message.get("tool_calls", ()))
        return text + "".join(f">>>{call['name']}\n{as_json(call['arguments'])}" for call in calls)

    read = learn_reader(recipients, ">>>").parse(said)
    assert (read.content, read.tool_calls) == (said, ())


@pytest.mark.parametrize("thought", [None, "Let me see."])
@pytest.mark.parametrize("lead", ["\n", "\n\n", " "])
def test_white_space_that_only_the_prompt_and_calls_have_before_a_header_is_no_content(
    lead: str, thought: str | None
) -> None:
    def spaced(message: Message) -> str:
        calls = [one["function"] for one in message.get("tool_calls", ())]
        reasoning = message.get("reasoning_content")
        begin = "<|model|>\n" + ("" if reasoning is None else f"<think>{reasoning}</think>")
        return (lead if calls else "") + begin + str(message["content"]) + "".join(map(as_json, calls))

    parser = learn_reader(spaced, f"{lead}<|model|>\n")
    said = ("" if thought is None else f"<think>{thought}</think>") + "Well."
    assert parser.parse(said) == ParsedTurn("Well.", thought)
    read = parser.parse(said + '{"name": "find", "arguments": {"zip": "1"}}')
    assert (read.content, read.reasoning_content, len(read.tool_calls)) == ("Well.", thought, 1)
    assert parser.parse('{"name": "find", "arguments": {"zip": "1"}}').content == ""


@pytest.mark.parametrize("lead", ["", "\n", "\n\n"])
def test_white_space_before_what_begins_every_turn_is_no_content(lead: str) -> None:
    def closes_thoughts(message: Message) -> str:
        calls = [one["function"] for one in message.get("tool_calls", ())]
        return f"</think>{message['content']}" + "".join(f"\n\n<call>{as_json(call)}</call>" for call in calls)

    call = '<call>{"name": "find", "arguments": {"zip": "1"}}</call>'
    for said, content in (("Well.", "Well."), (f"\n\n{call}", ""), (f"Well.\n\n{call}", "Well.")):
        assert learn_reader(closes_thoughts).parse(f"{lead}</think>{said}").content == content


def test_a_thought_before_calls_ends_where_an_empty_one_does() -> None:
    def thinks(message: Message) -> str:
        calls = [one["function"] for one in message.get("tool_calls", ())]
        if not calls:
            return f"<|answer|>{message['content']}<|/answer|>"
        return f"<|think|>{message.get('reasoning_content', '')}<|/think|><|act|>{as_json(calls)}<|/act|>"

    parser = learn_reader(thinks)
    calls = [{"name": "find", "arguments": {"zip": "1"}}]
    for thought in ("Let me see.", "<|act|>"):
        read = parser.parse(f"<|think|>{thought}<|/think|><|act|>{as_json(calls)}<|/act|>")
        assert (read.reasoning_content, read.content) == (thought, "")
        assert [one["function"] for one in read.tool_calls] == calls
    assert parser.parse(f"<|think|><|/think|><|act|>{as_json(calls)}<|/act|>").content == ""


def test_text_beside_a_call_that_nothing_announces_is_content() -> None:
    def unannounced(message: Message) -> str:
        calls = [one["function"] for one in message.get("tool_calls", ())]
        texts = (f"{call['name']}({', '.join(f'{k}={v!r}' for k, v in call['arguments'].items())})" for call in calls)
        return str(message["content"]) + (f"[{', '.join(texts)}]" if calls else "")

    read = learn_reader(unannounced).parse("Let me see.[find(zip='it\\'s', n=None), now()]")
    assert read.content == "Let me see."
    assert [one["function"] for one in read.tool_calls] == [
        {"name": "find", "arguments": {"zip": "it's", "n": None}},
        {"name": "now", "arguments": {}},
    ]
    assert learn_reader(unannounced).parse("Plain [text] (with) brackets").content == "Plain [text] (with) brackets"


def test_calls_may_be_counted_and_named_by_a_word_after_their_id() -> None:
    def counted(message: Message) -> str:
        calls = enumerate(message.get("tool_calls", ()))
        texts = (f"<|call|>{i} {c['function']['name']}: {as_json(c['function']['arguments'])}<|end|>" for i, c in calls)
        return str(message["content"]) + "".join(texts)

    def with_ids(message: Message) -> str:
        calls = message.get("tool_calls", ())
        texts = (
            f"<|call|>{c['id']} {c['function']['name']}{as_json(c['function']['arguments'])}<|end|>" for c in calls
        )
        return str(message["content"]) + "".join(texts)

    calls = [
        {"id": f"abc{i}", "type": "function", "function": {"name": "find", "arguments": {"n": i}}} for i in range(4)
    ]
    message = {"content": "", "tool_calls": calls}
    assert functions(learn_reader(counted).parse(counted(message)).as_message()) == functions(message)
    assert learn_reader(with_ids).parse(with_ids(message)).tool_calls == tuple(calls)


def test_calls_may_be_counted_where_the_turn_ends_before_the_last_one_closes() -> None:
    def counted(message: Message) -> str:
        calls = enumerate(message.get("tool_calls", ()))
        texts = [f"<|call|>{i} {c['function']['name']}: {as_json(c['function']['arguments'])}" for i, c in calls]
        return str(message["content"]) + "<|end|>".join(texts)

    calls = [{"type": "function", "function": {"name": "find", "arguments": {"n": i}}} for i in range(12)]
    message = {"content": "", "tool_calls": calls}
    read = learn_reader(counted).parse(counted(message))
    assert read.problems == ()
    assert functions(read.as_message()) == functions(message)
