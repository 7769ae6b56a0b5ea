"""Episodes that have the same options share what follows from them, and no caller can make a server keep much."""

from __future__ import annotations

from typing import Any

import pytest

from chatenv_client.models import ControlTokenPolicy, HistoryPolicy
from chatenv_server import ChatEnvironment
from chatenv_server.engine import RenderOptions, TokenEngine
from chatenv_server.engine.exact_path import ExactPath
from chatenv_server.tokenizer_files.byte_tokenizer import CHAT_TEMPLATE, ByteTokenizer

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
DATED = "{{ strftime_now('%d %b %Y') }}\n" + CHAT_TEMPLATE


def exact_path(template: str = CHAT_TEMPLATE) -> ExactPath:
    found = TokenEngine.load(ByteTokenizer(template))._path
    assert isinstance(found, ExactPath)
    return found


@pytest.mark.parametrize(
    ("template", "options", "shared"),
    [
        (CHAT_TEMPLATE, {}, True),
        (CHAT_TEMPLATE, {"clock_unix_seconds": 86_400.0}, True),
        (CHAT_TEMPLATE, {"history_policy": HistoryPolicy.STRICT}, True),
        (DATED, {"clock_unix_seconds": 86_400.0}, False),
        (CHAT_TEMPLATE, {"tools": (TOOL,)}, False),
        (CHAT_TEMPLATE, {"template_kwargs": {"a": 1}}, False),
        (CHAT_TEMPLATE, {"add_generation_prompt": False}, False),
        (CHAT_TEMPLATE, {"control_token_policy": ControlTokenPolicy.ALLOW}, False),
    ],
)
def test_a_renderer_is_shared_exactly_where_the_options_make_no_difference(
    template: str, options: dict[str, Any], shared: bool
) -> None:
    one = exact_path(template)
    assert (one.renderer(RenderOptions()) is one.renderer(RenderOptions(**options))) == shared


def test_the_clock_of_an_episode_stays_its_own_where_renderers_are_shared() -> None:
    engine = TokenEngine.load(ByteTokenizer())
    first, second = ChatEnvironment(engine), ChatEnvironment(engine)
    first.reset(clock=1.0)
    second.reset(clock=2.0)
    assert (first.state.clock_unix_seconds, second.state.clock_unix_seconds) == (1.0, 2.0)


def test_a_dated_template_shows_each_episode_its_own_date() -> None:
    env = ChatEnvironment(TokenEngine.load(ByteTokenizer(DATED)))
    texts = [
        bytes(
            i
            for i in env.reset(messages=[{"role": "user", "content": "hi"}], clock=day * 86_400.0).token_ids
            if i < 256
        )
        for day in (0, 1)
    ]
    assert [text[:11] for text in texts] == [b"01 Jan 1970", b"02 Jan 1970"]


def test_what_callers_choose_is_kept_in_bounds() -> None:
    one = exact_path()
    for number in range(200):
        one.renderer(RenderOptions(template_kwargs={"a": number}))
        one.chat_format.parser_for({"a": number})
    long = {"a": "x" * 100_000}
    one.renderer(RenderOptions(template_kwargs=long))
    one.chat_format.parser_for(long)
    assert 0 < len(one._renderers) <= 64
    assert 0 < len(one.chat_format._parsers) <= 64
    assert not any("xxx" in key[0] for key in one._renderers)
    assert not any("xxx" in key for key in one.chat_format._parsers)
