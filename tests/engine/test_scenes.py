"""Episodes that have the same terms share what follows from them, and no caller can make a server keep much."""

from __future__ import annotations

from typing import Any

import pytest

from chatenv_client.models import ControlTokenPolicy, HistoryPolicy
from chatenv_server import ChatEnvironment
from chatenv_server.engine import Terms, TokenEngine
from chatenv_server.engine.dialect import TemplateDialect
from chatenv_server.tokenizer_files.byte_tokenizer import CHAT_TEMPLATE, ByteTokenizer

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
DATED = "{{ strftime_now('%d %b %Y') }}\n" + CHAT_TEMPLATE


def dialect(template: str = CHAT_TEMPLATE) -> TemplateDialect:
    found = TokenEngine.load(ByteTokenizer(template)).dialect
    assert isinstance(found, TemplateDialect)
    return found


@pytest.mark.parametrize(
    ("template", "terms", "shared"),
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
def test_a_scene_is_shared_exactly_where_the_terms_make_no_difference(
    template: str, terms: dict[str, Any], shared: bool
) -> None:
    one = dialect(template)
    assert (one.scene(Terms()) is one.scene(Terms(**terms))) == shared


def test_the_clock_of_an_episode_stays_its_own_where_scenes_are_shared() -> None:
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
    one = dialect()
    for number in range(200):
        one.scene(Terms(template_kwargs={"a": number}))
        one.parser_for({"a": number})
    long = {"a": "x" * 100_000}
    one.scene(Terms(template_kwargs=long))
    one.parser_for(long)
    assert 0 < len(one._scenes) <= 64
    assert 0 < len(one._parsers) <= 64
    assert not any("xxx" in key[0] for key in one._scenes)
    assert not any("xxx" in key for key in one._parsers)
