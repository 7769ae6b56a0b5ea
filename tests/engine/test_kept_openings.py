"""An opening that comes again is the same, and is not written again; what is not sure to be the same is written."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatenv_client import InvalidRequestError, Message, TemplateRejectedError
from chatenv_server import ChatEnvironment
from chatenv_server.engine import RenderOptions, TokenEngine
from chatenv_server.engine.conversation import Tail
from chatenv_server.engine.exact_path import ExactPath
from chatenv_server.engine.kept_openings import LONGEST_KEPT, MOST_KEPT, MOST_MESSAGES
from chatenv_server.engine.template import FilledTemplate
from chatenv_server.engine.template_renderer import TemplateRenderer
from tests.engine.generated_conversations import given_texts
from tests.engine.learning import format_of
from tests.engine.small_tokenizers import CHATML, CLOCK, FORGETS, byte_level, user
from tests.engine.subjects import NAMES, subject

AS_JSON = "{% for m in messages %}{{ m | tojson }}\n{% endfor %}"
DATED = "{{ strftime_now('%Y') }}\n" + CHATML

_openings = st.lists(
    st.builds(
        lambda role, text: {"role": role, "content": text},
        st.sampled_from(["system", "user", "assistant", "tool", "x"]),
        given_texts | st.sampled_from(["<|im_end|>", "</s>"]),
    ),
    min_size=1,
    max_size=4,
)


class Loud(str):
    """A text that a template writes in another way than one that is equal to it."""

    __slots__ = ()

    def __str__(self) -> str:
        return self.upper()


def engine_of(template: str = CHATML) -> TokenEngine:
    return TokenEngine.load(byte_level(template))


def opening_of(engine: TokenEngine, messages: Sequence[Any], **options: Any) -> Tail:
    """The opening of an episode with these options, of messages of its own."""
    own: list[Message] = [dict(message) for message in messages]  # type: ignore[misc]
    return engine.open(RenderOptions(**options)).renderer.opening(own)


def text_of_opening(engine: TokenEngine, messages: Sequence[Any], **options: Any) -> str:
    return format_of(engine).codec.decode(opening_of(engine, messages, **options).tokens)


def assert_written_each_time(engine: TokenEngine, messages: Sequence[Any]) -> None:
    first, again = opening_of(engine, messages), opening_of(engine, messages)
    assert again is not first
    assert again == first
    assert np.array_equal(again.tokens, first.tokens)


@pytest.mark.parametrize("name", NAMES)
def test_an_opening_that_comes_again_is_what_is_written_anew(name: str) -> None:
    engine = subject(name).engine
    afresh = TemplateRenderer(format_of(engine), RenderOptions(), FilledTemplate, reuses_tails=False)

    @given(_openings)
    def law(messages: list[Any]) -> None:
        try:
            written = afresh.opening(messages)
        except (TemplateRejectedError, InvalidRequestError):
            for _ in range(2):
                with pytest.raises((TemplateRejectedError, InvalidRequestError)):
                    opening_of(engine, messages)
            return
        first, again = opening_of(engine, messages), opening_of(engine, messages)
        assert (again is first) == (first.opening is not None)  # the template wrote something
        assert again == written
        assert np.array_equal(again.tokens, written.tokens)

    law()


def test_what_a_template_can_tell_apart_is_kept_apart() -> None:
    engine = engine_of(AS_JSON)
    ways: list[list[dict[str, Any]]] = [
        [{"role": "user", "content": "a"}],
        [{"content": "a", "role": "user"}],
        [{"role": "a", "content": "user"}],
        [{"role": "user", "content": "a"}, {"role": "user", "content": "a"}],
        [{"role": "user", "content": "a "}],
    ]
    for messages in ways * 2:
        assert text_of_opening(engine, messages) == FilledTemplate(format_of(engine).template, {}).render(
            messages, True
        )


def test_openings_are_kept_for_the_options_that_they_were_written_with() -> None:
    engine = engine_of(DATED.replace("{% if add", "{{ tone }}{{ tools | tojson if tools }}{% if add"))
    options: list[dict[str, Any]] = [
        {},
        {"add_generation_prompt": False},
        {"clock_unix_seconds": CLOCK},
        {"template_kwargs": {"tone": "kind"}},
        {"template_kwargs": {"tone": "rude"}},
        {"tools": ({"name": "look"},)},
        {"tools": ({"name": "listen"},)},
    ]
    texts = [text_of_opening(engine, [user("a")], **each) for each in options]
    assert len({*texts}) == len(options)
    assert texts == [text_of_opening(engine, [user("a")], **each) for each in options]


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": "a", "name": "Ann"},
        {"role": "user", "content": [{"type": "text", "text": "a"}]},
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "user", "content": "a" * (LONGEST_KEPT + 1)},
        {"role": "user", "content": Loud("a")},
        {"role": Loud("user"), "content": "a"},
        {Loud("role"): "user", "content": "a"},
    ],
    ids=["more keys", "parts", "no text", "a long text", "a text of a class", "a role of one", "a key of one"],
)
def test_what_is_more_than_a_short_text_is_written_each_time(message: dict[str, Any]) -> None:
    engine = engine_of("{% for m in messages %}{{ m.content }}{% endfor %}<|im_end|>")
    assert_written_each_time(engine, [message])


def test_openings_of_many_messages_are_written_each_time() -> None:
    engine, most = engine_of(), [user("a")] * MOST_MESSAGES
    assert opening_of(engine, most) is opening_of(engine, most)
    assert_written_each_time(engine, [*most, user("a")])


def test_openings_with_much_that_the_template_writes_are_written_each_time() -> None:
    engine = engine_of("{{ tools | tojson if tools }}" + CHATML)
    for size, is_kept in ((LONGEST_KEPT // 2, True), (LONGEST_KEPT, False)):
        options = {"tools": ({"name": "look", "description": "a" * size},)}
        first, again = opening_of(engine, [user("a")], **options), opening_of(engine, [user("a")], **options)
        assert (again is first) == is_kept


@pytest.mark.parametrize(
    ("template", "options"),
    [
        (DATED, {"clock_unix_seconds": CLOCK}),
        (CHATML, {"tools": ({"name": "look", "description": "a" * 40_000},)}),
    ],
    ids=["a clock", "long tools"],
)
def test_nothing_is_kept_for_one_episode_alone(template: str, options: dict[str, Any]) -> None:
    renderer = engine_of(template).open(RenderOptions(**options)).renderer
    assert renderer.opening([user("a")]) is not renderer.opening([user("a")])


@pytest.mark.parametrize("draw", ["{{ range(99999) | random }}", "{{ lipsum() }}"])
def test_what_is_drawn_at_random_is_drawn_each_time(draw: str) -> None:
    engine = engine_of(CHATML + draw)
    assert opening_of(engine, [user("a")]).tokens.tolist() != opening_of(engine, [user("a")]).tokens.tolist()


def test_as_many_are_kept_as_there_may_be_and_the_oldest_goes_first() -> None:
    engine = engine_of()
    first, second = opening_of(engine, [user("0")]), opening_of(engine, [user("1")])
    for number in range(2, MOST_KEPT + 1):
        opening_of(engine, [user("2")], template_kwargs={"tone": number % 5}, add_generation_prompt=False)
        opening_of(engine, [user(str(number))])
        opening_of(engine, [user("1")])
    assert opening_of(engine, [user("1")]) is second
    assert opening_of(engine, [user("0")]) is not first
    assert isinstance(engine._path, ExactPath)
    assert len(engine._path._openings) == MOST_KEPT


def test_what_is_kept_keeps_no_renderer_alive() -> None:
    engine = engine_of()
    renderer = engine.open(RenderOptions(template_kwargs={"tone": -1})).renderer
    assert isinstance(renderer, TemplateRenderer)
    kept = weakref.ref(renderer._openings)
    del renderer
    opening_of(engine, [user("a")], template_kwargs={"tone": -1})
    for tone in range(64):
        opening_of(engine, [user("a")], template_kwargs={"tone": tone})
    gc.collect()
    assert kept() is None


def test_a_template_that_tells_the_time_is_asked_each_time() -> None:
    engine = engine_of(DATED)
    years = [0.0, CLOCK]
    texts = [text_of_opening(engine, [user("a")], clock_unix_seconds=year) for year in years * 2]
    assert [text[:4] for text in texts] == ["1970", texts[1][:4]] * 2
    assert texts[1][:4] != "1970"


def test_episodes_that_begin_alike_share_no_message() -> None:
    engine = engine_of(FORGETS)
    messages: list[Message] = [user("Hello"), {"role": "assistant", "content": "Hm</think>Hi"}]
    one, other = ChatEnvironment(engine), ChatEnvironment(engine)
    one.reset(messages=messages)
    for message in one._episode.log.head.messages:  # type: ignore[union-attr]
        message["content"] = "Goodbye"  # type: ignore[index]
    assert other.reset(messages=messages).messages == messages
    tail = other._episode.log.head.tail  # type: ignore[union-attr]
    assert tail.opening is not None
    assert tail.opening.prepared == messages
    assert tail.pending_rewrite is not None
    assert tail.pending_rewrite.message == messages[1]


def test_the_tokens_of_an_opening_are_nobodys_to_change() -> None:
    engine = engine_of()
    first = opening_of(engine, [user("Hello")])
    with pytest.raises(ValueError, match="read-only"):
        first.tokens[0] = 7
    env = ChatEnvironment(engine)
    env.reset(messages=[user("Hello")]).token_ids[0] = 7
    assert np.array_equal(opening_of(engine, [user("Hello")]).tokens, first.tokens)
    assert ChatEnvironment(engine).reset(messages=[user("Hello")]).token_ids[0] == first.tokens[0]


def test_what_messages_would_add_is_the_callers_own() -> None:
    env = ChatEnvironment(engine_of())
    env.reset(messages=[user("Hello")])
    env.render([user("Bye")]).tokens[0] += 1
    rendered = env.render([user("Bye")])
    rendered.tokens[0] += 1
    assert env.step(user("Bye")).token_ids[rendered.tokens_offset] == rendered.tokens[0] - 1


def test_a_role_of_a_class_of_its_own_is_written_as_it_says() -> None:
    engine = engine_of()
    for role, written in ((Loud("user"), "USER"), ("user", "user")) * 2:
        assert text_of_opening(engine, [{"role": role, "content": "a"}]).startswith(f"<|im_start|>{written}\n")
