"""What is learnt from one render holds for all texts that it is used for; what cannot be seen is not learnt."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatenv_client import Verdict
from chatenv_server import ChatEnvironment
from chatenv_server.doctor.stand_in import stand_in
from chatenv_server.engine import TokenEngine
from chatenv_server.engine.frames import MOST_LESSONS, MOST_SHAPES
from chatenv_server.engine.template import ChatTemplate
from chatenv_server.engine.tracing import Trace, TracedText
from tests.engine.learning import format_of, frames_of, played, sampled

CHATML = "{{ '<|im_start|>' + message.role + '\\n' }}%s{{ '<|im_end|>\\n' }}"


def template_writing(content: str) -> str:
    turns = "{% for message in messages %}" + CHATML % content + "{% endfor %}"
    return turns + "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"


PASSING = {
    "as it is": "{{ message.content }}",
    "trimmed": "{{ message.content | trim }}",
    "after a look for a thought": "{% if '</think>' in message.content %}{{ 'T:' }}{% endif %}{{ message.content }}",
    "after a look at its start": "{% if message.content.startswith('/') %}{{ 'C:' }}{% endif %}{{ message.content }}",
    "through a macro": "{% macro own(text) %}{{ text }}{% endmacro %}{{ own(message.content) }}",
    "joined": "{{ message.content ~ '' }}",
    "compared": "{% if message.content == 'stop it now' %}{{ 'S' }}{% endif %}{{ message.content }}",
}
TELLING = {
    "its length": "{{ message.content | length }} {{ message.content }}",
    "upper case": "{{ message.content | upper }}",
    "both ends": "{{ message.content if message.content.strip() == message.content else 'edges' }}",
    "its first letter": "{{ message.content[0] }}{{ message.content }}",
    "its words": "{{ message.content.split(' ') | length }}{{ message.content }}",
    "as JSON": "{{ message.content | tojson }}",
    "a macro's result that is asked": (
        "{% macro own(text) %}{{ text }}{% endmacro %}"
        "{% if 'a' in own(message.content) %}A{% endif %}{{ message.content }}"
    ),
    "a text that was put together and is asked": (
        "{% set said = 'x' + message.content %}{% if 'a' in said %}A{% endif %}{{ message.content }}"
    ),
    "a joined text that is asked": (
        "{% set said = 'x' ~ message.content %}{% if 'a' in said %}A{% endif %}{{ message.content }}"
    ),
    "a block that is asked": (
        "{% set said %}{{ message.content }}{% endset %}{% if 'a' in said %}A{% endif %}{{ message.content }}"
    ),
    "replaced in": "{{ message.content.replace('a', 'b') }}",
    "looked for in another text": "{% if message.content in 'yes no maybe so' %}Y{% endif %}{{ message.content }}",
    "an argument of another text's method": (
        "{% if 'yes no'.startswith(message.content) %}Y{% endif %}{{ message.content }}"
    ),
    "formatted": "{{ '%s' | format(message.content) }}",
    "escaped": "{{ message.content | e }}",
    "ordered": "{% if message.content > 'm' %}M{% endif %}{{ message.content }}",
}
TELLING = {
    name: "{% if message.role == 'user' %}" + content + "{% else %}{{ message.content }}{% endif %}"
    for name, content in TELLING.items()
}
ODDITIES = (
    "hello there friend",
    " hello there",
    "hello there\n",
    "</think>",
    "<think>a</think>b",
    "/command now",
    "a",
    "",
    "stop it now",
    "yes no",
    "maybe so",
    "Upper case text",
    '"quoted" \\ text',
    "<b>bold</b> & more",
    "zebra zebra",
)
texts = st.one_of(
    st.text(max_size=30),
    st.sampled_from(ODDITIES),
)
exchanges = st.lists(st.tuples(texts, texts), min_size=1, max_size=6)


def engine_for(content: str) -> TokenEngine:
    return TokenEngine.load(stand_in(template_writing(content)))


@pytest.mark.parametrize("content", [*PASSING.values(), *TELLING.values()], ids=[*PASSING, *TELLING])
def test_a_stream_is_the_same_with_all_that_was_learnt_and_with_nothing(content: str) -> None:
    engine = engine_for(content)

    @given(exchanges)
    def holds(said: list[tuple[str, str]]) -> None:
        assert played(engine, said, learning=True)[1] == played(engine, said, learning=False)[1]

    holds()


@pytest.mark.parametrize("content", PASSING.values(), ids=PASSING)
def test_a_template_that_passes_texts_through_is_learnt(content: str) -> None:
    env, _ = played(engine_for(content), [("General greetings", "How do you do?")] * 2, learning=True)
    assert frames_of(env)


@pytest.mark.parametrize("content", TELLING.values(), ids=TELLING)
def test_a_template_that_looks_deeper_is_not_learnt(content: str) -> None:
    said = [("General greetings", f"How do you do for the {number} time?") for number in range(MOST_LESSONS + 2)]
    env, _ = played(engine_for(content), said, learning=True)
    assert not frames_of(env)


def test_a_message_that_is_taken_only_in_its_true_place_is_rendered_there_every_time() -> None:
    engine = engine_for(
        "{% if message.role == 'critic' and messages[0].role != 'system' %}{{ raise_exception('no system prompt') }}"
        "{% endif %}{{ message.content }}"
    )
    env = ChatEnvironment(engine, system_prompt="You are brief and kind.")
    env.reset(messages=[{"role": "user", "content": "Good morning."}])
    for number in range(3):
        env.step(sampled(engine, "General greetings"))
        assert env.step({"role": "critic", "content": f"Say it {number} times more."}).fidelity == ()
    assert not frames_of(env)
    assert env.audit().verdict is Verdict.EXACT


def test_callers_cannot_make_a_scene_learn_without_end() -> None:
    engine = engine_for(PASSING["as it is"])
    env = ChatEnvironment(engine)
    env.reset(messages=[{"role": "user", "content": "Good morning."}])
    for number in range(2 * MOST_SHAPES):
        env.step(sampled(engine, "General greetings"))
        env.step({"role": f"role {number}", "content": "How do you do?"})
    assert len(frames_of(env)) == MOST_SHAPES


def test_what_is_learnt_is_not_used_for_a_text_that_answers_otherwise() -> None:
    engine = engine_for(PASSING["after a look for a thought"])
    played(engine, [("General greetings", "How do you do?")] * 2, learning=True)
    _, ids = played(engine, [("General greetings", "Is </think> a thought?")], learning=True)
    assert "T:Is </think>" in format_of(engine).codec.decode(np.array(ids, dtype=np.int32))


@pytest.mark.parametrize(
    ("source", "traceable"), [("{{ x ~ y }}", True), ("{{ f(x) }}", False), ("{{ x | e }}", False)]
)
def test_only_what_is_known_to_be_seen_can_be_traced(source: str, traceable: bool) -> None:
    assert ChatTemplate(source).is_traceable == traceable


HARMLESS = {"__new__", "__getattribute__", "__doc__", "maketrans", "__str__", "__add__"}
ARGUMENTS: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(["__mul__", "__rmul__", "__getitem__", "center", "ljust", "rjust", "zfill"], (3,)),
    **dict.fromkeys(["__format__"], ("",)),
    **dict.fromkeys(["replace"], ("a", "b")),
    **dict.fromkeys(["join"], (["a"],)),
    **dict.fromkeys(["translate"], ({},)),
    **dict.fromkeys(["__mod__"], ((),)),
    **dict.fromkeys(["format_map"], ({},)),
    **dict.fromkeys(["index", "rindex"], ("h",)),
    **dict.fromkeys(["__lt__", "__le__", "__gt__", "__ge__", "__eq__", "__ne__", "__contains__"], ("a",)),
    "__rmod__": ("%s",),
    **dict.fromkeys(["count", "find", "rfind", "startswith", "endswith", "partition", "rpartition"], ("a",)),
    **dict.fromkeys(["removeprefix", "removesuffix"], ("a",)),
}


@pytest.mark.parametrize("name", sorted(vars(str).keys() - HARMLESS))
def test_whatever_is_asked_of_a_traced_text_is_noted_or_spoils_it(name: str) -> None:
    trace = Trace()
    text = TracedText.of("hello", trace)
    answer = getattr(text, name)(*ARGUMENTS.get(name, ()))
    if name == "__iter__":
        next(answer)
    assert trace.questions or not trace.is_complete
    if trace.is_complete:
        assert all(question.is_answered_alike("hello") for question in trace.questions)
