"""Which part of the stream is whose: what a message says stands in its own part, calls and all."""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

from chatenv_client import TemplateRejectedError
from chatenv_server import ChatEnvironment
from chatenv_server.doctor.stand_in import stand_in
from chatenv_server.engine import TokenEngine
from chatenv_server.engine.chat_format import ChatFormat
from tests.conformance import CONFORMANCE
from tests.engine.archetypes import ARCHETYPES
from tests.engine.small_tokenizers import user
from tests.engine.subjects import NAMES, subject
from tests.engine.test_conformance import MORE_TEMPLATES, TEMPLATES, vocabulary

_TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
_RECORDED = [
    f"{folder}/{name}"
    for folder, names in (("templates", TEMPLATES), ("templates_more", MORE_TEMPLATES))
    for name in names
]
_CALLS_ARE_NOT_PROBED = ("hunyuan_a13b",)
_CONTENT_COMES_LAST = ("diffusion_gemma", "diffusion_gemma_training", "gemma4_v5", "google_gemma_4_31b_it")


@functools.cache
def _engine(name: str) -> TokenEngine:
    if name in NAMES:
        return subject(name).engine
    if name in ARCHETYPES:
        return TokenEngine.load(stand_in(ARCHETYPES[name], vocabulary("gpt2")))
    source = (CONFORMANCE / f"{name}.jinja").read_text(encoding="utf-8")
    return TokenEngine.load(stand_in(source, vocabulary("gpt2")))


def _call(call_id: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": "weather", "arguments": dict(arguments)}}


def _result(text: str, call_id: str) -> dict[str, Any]:
    return {"role": "tool", "content": text, "tool_call_id": call_id, "name": "weather"}


def _calling(content: str | None, *calls: dict[str, Any]) -> dict[str, Any]:
    return {"role": "assistant", "content": content, "tool_calls": list(calls)}


_LISBON = _call("lisbon001", {"city": "Lisbon"})
_MANY = _call("malmoe002", {"city": "Malmoe", "days": 735519})
_NONE = _call("nothing03", {})
_END = [{"role": "assistant", "content": "Wear something light."}, user("Thank you kindly.")]
_CONVERSATIONS = {
    "content and a call": [
        user("How warm is it?"),
        _calling("Let me see.", _LISBON),
        _result("Sunny", "lisbon001"),
        *_END,
    ],
    "a call": [user("How warm is it?"), _calling("", _LISBON), _result("Sunny", "lisbon001"), *_END],
    "a call without content": [user("How warm is it?"), _calling(None, _LISBON), _result("Sunny", "lisbon001"), *_END],
    "a number": [user("How warm is it?"), _calling("", _MANY), _result("Sunny", "malmoe002"), *_END],
    "content and no arguments": [
        user("How warm is it?"),
        _calling("Let me see.", _NONE),
        _result("Sunny", "nothing03"),
        *_END,
    ],
    "two calls": [
        user("How warm is it?"),
        _calling("", _LISBON, _MANY),
        _result("Sunny", "lisbon001"),
        _result("Frosty", "malmoe002"),
        *_END,
    ],
    "a call after another": [
        user("How warm is it?"),
        _calling("", _LISBON),
        _result("Sunny", "lisbon001"),
        _calling("", _MANY),
        _result("Frosty", "malmoe002"),
        *_END,
    ],
    "a call that nobody answers": [user("How warm is it?"), _calling("", _LISBON), user("Never mind it.")],
    "a result that says nothing": [user("How warm is it?"), _calling("", _LISBON), _result("", "lisbon001"), *_END],
    "a call last": [user("How warm is it?"), _calling("", _LISBON)],
}


def _texts(message: Mapping[str, Any]) -> Iterator[str]:
    if message.get("content"):
        yield message["content"]
    for call in message.get("tool_calls", ()):
        yield from (
            value if isinstance(value, str) else json.dumps(value) for value in call["function"]["arguments"].values()
        )


def _misplaced(engine: TokenEngine, messages: Sequence[Mapping[str, Any]]) -> list[tuple[int, str]]:
    """(message, what it says) of everything that stands in the stream, but not in the message's own part alone."""
    env = ChatEnvironment(engine)
    env.reset(messages=messages, tools=[_TOOL])
    assert isinstance(engine.chat_format, ChatFormat)
    state, decode = env.state, engine.chat_format.codec.decode
    parts = [decode(state.token_ids[start:stop]) for start, stop in state.message_spans]
    whole = decode(state.token_ids)
    return [
        (index, text)
        for index, message in enumerate(messages)
        for text in _texts(message)
        if text in whole and [i for i, part in enumerate(parts) if text in part] != [index]
    ]


@pytest.mark.parametrize("name", [*NAMES, *_RECORDED, *ARCHETYPES])
def test_what_a_message_says_stands_in_its_own_part(name: str) -> None:
    if name.endswith(_CALLS_ARE_NOT_PROBED):
        pytest.skip("the template shows calls only where tools are offered, and the probe offers none")
    engine, misplaced = _engine(name), {}
    for conversation, messages in _CONVERSATIONS.items():
        if name.endswith(_CONTENT_COMES_LAST) and "content" in conversation:
            continue  # what the tools say stands in the middle of what the assistant says
        with contextlib.suppress(TemplateRejectedError):
            if found := _misplaced(engine, messages):
                misplaced[conversation] = found
    assert misplaced == {}
