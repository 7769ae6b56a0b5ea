"""Conversations put together at random, as the doctor plays them: what is given, and what a model means to say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from hypothesis import strategies as st

from chatenv_client import Message
from chatenv_server.doctor.scenarios import Round, Scenario

_NAME: Final = "get_weather"
_words = st.sampled_from(
    ["Name a colour.", "It is warm in Paris", "你好 🙂 Ünïcödé", "def f():\n\treturn {}", "2 + 2 = 4"]
)
_plain = st.builds(lambda text, number: f"{text} ({number})", _words, st.integers(0, 99))
"""Texts that hardly any template alters, seldom twice the same."""
_odd = st.sampled_from(["", "a", "\n", "  two  spaces  ", "\nIt is.\n", "\n\nWell.", "{{ braces }}", "<b>it</b>"])
given_texts = st.one_of(_plain, _plain, _plain, _odd)
said_texts = st.one_of(_plain, _plain, _plain, st.sampled_from(["\n\nIt is.", "Yes", '{"a": 1}']))
edgy_texts = st.one_of(said_texts, st.just("It is.\n"))
"""Some end in a line, which may be the line that closes a turn."""
_values = st.sampled_from(["Paris", "94103", "true", "São Paulo", 'the "old" town', "two\nlines", "it's", "{Oslo}"])
_arguments: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {"city": _values}, optional={"days": st.integers(0, 9)}
)


@st.composite
def _said(draw: st.DrawFn, number: int, tools: bool, texts: st.SearchStrategy[str]) -> Message:
    """What a model means to say: a text, calls, or both, with a thought or not; calls are numbered from `number`."""
    calls: list[dict[str, Any]] = []
    if tools and draw(st.booleans()):
        calls = draw(st.lists(_arguments, min_size=1, max_size=2))
    message: Any = {"role": "assistant", "content": draw(st.just("") | texts if calls else texts)}
    if draw(st.integers(0, 3)) == 0:
        message["reasoning_content"] = draw(_plain)
    if calls:
        message["tool_calls"] = [_call(arguments, number + i) for i, arguments in enumerate(calls)]
    said: Message = message
    return said


def _call(arguments: Mapping[str, Any], number: int) -> dict[str, Any]:
    function = {"name": _NAME, "arguments": dict(arguments)}
    return {"id": f"callid{number:03d}", "type": "function", "function": function}


@st.composite
def _followed(draw: st.DrawFn, said: Message) -> list[Message]:
    """What somebody gives next: a result for each call, in any order, and a user's words."""
    results: list[Any] = [
        {"role": "tool", "content": draw(given_texts), "tool_call_id": call["id"], "name": _NAME}
        for call in said.get("tool_calls") or []
    ]
    if draw(st.integers(0, 3)) == 0:
        results = draw(st.permutations(results))
    if draw(st.integers(0, 3)) == 0:
        results = [{key: value for key, value in one.items() if key != "name"} for one in results]
    speaks = not results or draw(st.integers(0, 4)) == 0
    return [*results, *([{"role": "user", "content": draw(given_texts)}] if speaks else [])]


@st.composite
def scenarios(draw: st.DrawFn, *, tools: bool = True, texts: st.SearchStrategy[str] = edgy_texts) -> Scenario:
    """A conversation of one to four rounds, with tools or without."""
    tools = tools and draw(st.booleans())
    opening: list[Message] = []
    if draw(st.booleans()):
        opening.append({"role": "system", "content": draw(given_texts)})
    opening.append({"role": "user", "content": draw(given_texts)})
    if draw(st.integers(0, 3)) == 0:
        said = draw(_said(900, tools, texts))
        opening += [said, *draw(_followed(said))]
    rounds = []
    for index in range(draw(st.integers(1, 4))):
        said = draw(_said(1 + 2 * index, tools, texts))
        rounds.append(Round(said, tuple(draw(_followed(said)))))
    return Scenario(
        "generated",
        tuple(opening),
        tuple(rounds),
        tools=tools,
        add_generation_prompt=draw(st.integers(0, 5)) > 0,
        template_kwargs=draw(st.sampled_from([{}, {}, {"enable_thinking": True}, {"enable_thinking": False}])),
    )
