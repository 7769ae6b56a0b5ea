"""What one render showed holds for all texts that it is used for; what cannot be seen is not used."""

from __future__ import annotations

import gc
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from jinja2.sandbox import ImmutableSandboxedEnvironment

from chatenv_client import FidelityReport, TemplateRejectedError, Verdict
from chatenv_server import ChatEnvironment
from chatenv_server.doctor.stand_in import stand_in
from chatenv_server.engine import TokenEngine
from chatenv_server.engine.reuse import recording, reusing_tails, reusing_template, tail_recording
from chatenv_server.engine.reuse.recording_template import RecordingEnvironment, recording_template
from chatenv_server.engine.reuse.recordings import MOST_RECORDINGS, MOST_SHAPES
from chatenv_server.engine.reuse.reusing_tails import ReusingTails
from chatenv_server.engine.reuse.reusing_template import MOST_MESSAGES, ReusingTemplate
from chatenv_server.engine.reuse.traced_text import MOST_CONDITIONS, Trace, TracedLength, TracedText
from chatenv_server.engine.template import ChatTemplate, FilledTemplate
from tests.engine.learning import format_of, played, recorded_tails, render_every_time, sampled, tails_of
from tests.engine.small_tokenizers import user

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
    "ordered": "{% if message.content > 'm' %}M{% endif %}{{ message.content }}",
    "that it is long": "{% if message.content | length > 30 %}L{% endif %}{{ message.content }}",
    "that it says something": "{% if message.content %}S{% endif %}{{ message.content }}",
    "the rest behind a thought": "{{ message.content.split('</think>')[-1].lstrip('\\n') }}",
    "in a list": "{% if message.content in ['yes no', 'a'] %}L{% endif %}{{ message.content }}",
    "a part of it": "{{ message.content[1:3] }}{{ message.content }}",
    "in a sentence": "{{ 'he said %s twice' % message.content }}",
    "among others": "{{ 'he said %s and %s' % (message.content, 'no') }}",
    "twice": "{{ message.content * 2 }}",
    "with others": "{{ ['a', message.content, 'b'] | join(', ') }}",
    "with others, by a method": "{{ ', '.join(['a', message.content]) }}",
    "in a mapping as JSON": "{{ {'said': message.content, 'n': [1, none]} | tojson(indent=2) }}",
    "a default": "{{ message.content | default('nothing', true) }}",
    "a namespace": (
        "{% set ns = namespace(said='') %}{% for m in messages %}{% set ns.said = ns.said ~ m.content %}{% endfor %}"
        "{% if 'zebra' in ns.said %}Z{% endif %}{{ message.content }}"
    ),
    "its lines": "{% for line in message.content.split('\\n') %}{{ loop.index }}{{ line }}{% endfor %}",
    "the last message": "{% if messages[-1].content.startswith('/') %}C{% endif %}{{ message.content }}",
    "put into another text by a filter": "{{ 'he said NN twice' | replace('NN', message.content) }}",
    "taken off another text by a filter": "{{ 'yes no maybe' | trim(message.content) }}{{ message.content }}",
    "joined as they come": "{{ '-'.join(messages | map(attribute='content')) }}",
    "joined as values of a mapping": "{{ '-'.join({'said': message.content}.values()) }}",
    "lengths compared": (
        "{% if message.content | length > messages[0].content | length %}L{% endif %}{{ message.content }}"
    ),
    "as much as another is long": "{{ 'x' ~ message.content[:messages[0].content | length] }}",
    "a length that is a number": (
        "{% if message.content | length is number and message.content | length is integer"
        " and message.content == 'yes no' %}N{% endif %}{{ message.content }}"
    ),
    "a kind of sequence": (
        "{% if message.content is string and message.content is sequence and message.content is iterable %}S{% endif %}"
        "{{ message.content }}"
    ),
}
UNSEEN = {
    "formatted by a filter": "{{ '%s' | format(message.content) }}",
    "formatted by a method": "{{ 'he said {}'.format(message.content) }}",
    "formatted by its own method": "{{ message.content.format('x') }}",
    "written in a list": "{{ [message.content] }}",
    "written in a mapping": "{{ {'said': message.content} | string }}",
    "written in what a mapping holds": "{{ 'all: ' ~ {'said': message.content}.items() }}",
    "a length that is the same": "{{ message.content | length is sameas 6 }}{{ message.content }}",
    "escaped": "{{ message.content | e }}",
    "marked as safe": "{{ message.content | safe }}",
    "letter by letter": "{% for letter in message.content %}{{ letter }}{% endfor %}",
    "a list of letters": "{{ message.content | list | length }}{{ message.content }}",
    "a key": "{{ {'yes no': 1}.get(message.content, 2) }}{{ message.content }}",
    "a subscript": "{{ {'yes no': 1}[message.content] }}{{ message.content }}",
    "a number": "{{ message.content | int(7) }}{{ message.content }}",
    "words counted": "{{ message.content | wordcount }}{{ message.content }}",
    "indented": "{{ message.content | indent(2) }}",
    "changed since": (
        "{% for m in messages %}{% if loop.changed(m.content) %}C{% endif %}{% endfor %}{{ message.content }}"
    ),
    "lower case asked by a test": "{% if message.content is lower %}l{% endif %}{{ message.content }}",
    "unique": "{{ [message.content, 'a'] | unique | list | length }}{{ message.content }}",
    "a place that may not be there": "{{ message.content[70] }}{{ message.content }}",
}
TELLING = {
    name: "{% if message.role == 'user' %}" + content + "{% else %}{{ message.content }}{% endif %}"
    for name, content in TELLING.items()
}
UNSEEN = {
    name: "{% if message.role == 'user' %}" + content + "{% else %}{{ message.content }}{% endif %}"
    for name, content in UNSEEN.items()
}
ALL = PASSING | TELLING | UNSEEN
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
texts = st.one_of(st.text(max_size=40), st.sampled_from(ODDITIES))
exchanges = st.lists(st.tuples(texts, texts), min_size=1, max_size=6)
roles = st.sampled_from(["user", "user", "assistant", "tool", "system"])
values = st.one_of(texts, st.none(), st.booleans(), st.integers(0, 2), st.lists(texts, max_size=2))
messages = st.lists(
    st.fixed_dictionaries({"role": roles, "content": texts}, optional={"name": texts, "extra": values}),
    min_size=1,
    max_size=3,
)


def engine_for(content: str) -> TokenEngine:
    return TokenEngine.load(stand_in(template_writing(content)))


# -- templates ------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", ALL.values(), ids=ALL)
def test_every_render_is_what_it_would_be_with_nothing_recorded(content: str) -> None:
    template = ChatTemplate(template_writing(content))
    reusing, rendering = ReusingTemplate(template, {}), FilledTemplate(template, {})

    @given(st.lists(st.tuples(messages, st.booleans()), min_size=1, max_size=4))
    def law(conversations: list[tuple[list[dict[str, Any]], bool]]) -> None:
        for conversation, prompt in conversations * 2:
            assert _outcome(reusing, conversation, prompt) == _outcome(rendering, conversation, prompt)

    law()


def _outcome(template: Any, conversation: Sequence[Mapping[str, Any]], prompt: bool) -> str:
    try:
        return str(template.render(conversation, prompt))
    except TemplateRejectedError as error:
        return error.message


@pytest.mark.parametrize("content", [*PASSING.values(), *TELLING.values()], ids=[*PASSING, *TELLING])
def test_what_is_seen_is_put_together_anew(content: str) -> None:
    conversation = [user("hello there friend"), {"role": "assistant", "content": "yes no"}, user("Upper case text")]
    assert ReusingTemplate(ChatTemplate(template_writing(content)), {}).reuses(conversation, True)


@pytest.mark.parametrize("content", UNSEEN.values(), ids=UNSEEN)
def test_what_cannot_be_seen_is_rendered_every_time(content: str) -> None:
    conversation = [user("hello there friend"), {"role": "assistant", "content": "yes no"}, user("Upper case text")]
    assert not ReusingTemplate(ChatTemplate(template_writing(content)), {}).reuses(conversation, True)


def test_a_conversation_met_for_the_third_time_is_not_rendered(monkeypatch: pytest.MonkeyPatch) -> None:
    rendered: list[str] = []
    render = FilledTemplate.render

    def counted(template: FilledTemplate, *arguments: Any) -> str:
        rendered.append(render(template, *arguments))
        return rendered[-1]

    monkeypatch.setattr(FilledTemplate, "render", counted)
    reusing = ReusingTemplate(ChatTemplate(template_writing(PASSING["as it is"])), {})
    written = [reusing.render([user(f"How do you do for the {number} time?")], True) for number in range(5)]
    assert len(rendered) == 2
    assert [text.count("the 4 time") for text in written] == [0, 0, 0, 0, 1]


def test_callers_cannot_make_a_template_record_without_end() -> None:
    reusing = ReusingTemplate(ChatTemplate(template_writing(PASSING["as it is"])), {})
    for number in range(2 * MOST_SHAPES):
        for _ in range(2):
            reusing.render([{"role": f"role {number}", "content": "Good morning."}], True)
    assert len(reusing._recordings._known) == MOST_SHAPES
    long = [user("Good morning.")] * (MOST_MESSAGES + 1)
    for _ in range(2):
        reusing.render(long, True)
    assert len(reusing._recordings._known) == MOST_SHAPES
    assert not any(len(shape) > 2 for shape in reusing._recordings._known)


@pytest.mark.parametrize(
    "odd",
    [{"k" * 1000: 1}, {"type": "t" * 1000}, {str(number): number for number in range(1000)}, [[*range(1000)]]],
    ids=["a long key", "a long type", "many keys", "many items"],
)
def test_what_callers_send_is_not_kept_in_shapes_at_any_length(odd: Any) -> None:
    reusing = ReusingTemplate(ChatTemplate(template_writing(PASSING["as it is"])), {})
    for _ in range(4):
        assert "Good" in reusing.render([{**user("Good morning."), "extra": odd}], True)
    assert all(len(repr(shape)) < 500 for shape in reusing._recordings._known)


@pytest.mark.parametrize(
    "content",
    [
        "{% for line in message.content.split('\\n') %}{{ line }}{% endfor %}",
        "{% for line in message.content.split('\\n') %}{% if 'x' in line %}X{% endif %}{% endfor %}",
        "{% for number in range(1000) %}{% if message.content.startswith('a', number) %}A{% endif %}{% endfor %}",
        "{% for number in range(1000) %}{{ number }}{{ message.content }}{% endfor %}",
    ],
)
def test_a_template_that_loops_over_a_text_is_recorded_for_short_ones_alone(content: str) -> None:
    template, trace = ChatTemplate(template_writing(content)), Trace(["a\n" * 1000])
    recording_template(template.source).render(trace, [user(trace.texts[0])], {}, False)
    assert not trace.is_complete
    assert len(trace.conditions) <= MOST_CONDITIONS + 1


def test_a_template_that_decides_otherwise_every_time_is_left_alone() -> None:
    content = "{% if message.content | length == messages | length %}{{ 'L' }}{% endif %}{{ message.content | length }}"
    reusing = ReusingTemplate(ChatTemplate(template_writing(content)), {})
    for number in range(3 * MOST_RECORDINGS):
        reusing.render([user("a" * number)], True)
    (known,) = reusing._recordings.all()
    assert len(known.recordings) == MOST_RECORDINGS


# -- streams --------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", ALL.values(), ids=ALL)
def test_a_stream_is_the_same_with_all_that_was_learnt_and_with_nothing(content: str) -> None:
    engine = engine_for(content)
    counts, formats = content == ALL["its words"], content == ALL["formatted by its own method"]

    @given(exchanges)
    def holds(said: list[tuple[str, str]]) -> None:
        # Where a template writes a count before the text, rendering does not find a message of white space alone.
        assume(not counts or all(question.strip() for _, question in said))
        assume(not formats or not any(set("{}") & set(question) for _, question in said))  # that would be rejected
        assert played(engine, said, learning=True)[1] == played(engine, said, learning=False)[1]

    holds()


@pytest.mark.parametrize("content", PASSING.values(), ids=PASSING)
def test_a_template_that_passes_texts_through_is_learnt(content: str) -> None:
    env, _ = played(engine_for(content), [("General greetings", "How do you do?")] * 2, learning=True)
    assert recorded_tails(env)


@pytest.mark.parametrize("content", UNSEEN.values(), ids=UNSEEN)
def test_a_template_that_looks_deeper_is_not_learnt(content: str) -> None:
    said = [("General greetings", f"How do you do for the {number} time?") for number in range(MOST_RECORDINGS + 2)]
    env, _ = played(engine_for(content), said, learning=True)
    assert not recorded_tails(env)


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
    assert not recorded_tails(env)
    assert env.audit().verdict is Verdict.EXACT


def test_callers_cannot_make_a_renderer_learn_without_end() -> None:
    engine = engine_for(PASSING["as it is"])
    env = ChatEnvironment(engine)
    env.reset(messages=[{"role": "user", "content": "Good morning."}])
    for number in range(2 * MOST_SHAPES):
        env.step(sampled(engine, "General greetings"))
        env.step({"role": f"role {number}", "content": "How do you do?"})
    assert len(tails_of(env)._recordings._known) == MOST_SHAPES


def test_no_recording_keeps_the_texts_that_it_was_learnt_from() -> None:
    told = "How do you do? " * 100
    env, _ = played(engine_for(PASSING["as it is"]), [("General greetings", told)] * 3, learning=True)
    (recording,) = [known.recording for known in recorded_tails(env)]
    assert len(repr(recording)) < len(told)
    assert not len(recording.tail.tokens)
    gc.collect()
    assert not [one for one in gc.get_objects() if type(one) is Trace and told in one.texts]


def test_no_shape_keeps_a_system_prompt() -> None:
    told = "You are brief and kind. " * 100
    with_prompt = "{% if messages[0].role == 'system' %}{{ '(as told)' }}{% endif %}"
    env = ChatEnvironment(engine_for(with_prompt + PASSING["as it is"]), system_prompt=told)
    env.reset(messages=[user("Good morning.")])
    for _ in range(3):
        env.step(sampled(env.engine, "General greetings"))
        env.step(user("How do you do?"))
    assert recorded_tails(env)
    assert all(told not in repr(shape) for shape in tails_of(env)._recordings._known)


def test_what_is_learnt_is_not_used_for_a_text_that_answers_otherwise() -> None:
    engine = engine_for(PASSING["after a look for a thought"])
    played(engine, [("General greetings", "How do you do?")] * 2, learning=True)
    _, ids = played(engine, [("General greetings", "Is </think> a thought?")], learning=True)
    assert "T:Is </think>" in format_of(engine).codec.decode(np.array(ids, dtype=np.int32))


# -- rewrites ---------------------------------------------------------------------------------------

REWRITING = {
    "stripped": ("lstrip('\\n')", "\n\nGeneral greetings"),
    "trimmed": ("strip()", "  General greetings"),
    "replaced in": ("replace('aa', 'b')", "aa General greetings"),
}
"""What a template does to turns before the last user's message, beside leaving out thoughts; and a turn it changes."""
KEPT = "General greetings"


def engine_rewriting(written: str) -> TokenEngine:
    last = "{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    is_old = "message.role == 'assistant' and loop.index0 < ns.last"
    content = f"{{{{ message.content.split('</think>')[-1].{written} if {is_old} else message.content }}}}"
    template = "{% set ns = namespace(last=-1) %}" + last + template_writing(content)
    return TokenEngine.load(stand_in(template))


def reported(engine: TokenEngine, answer: str, *, learning: bool) -> list[list[FidelityReport]]:
    """What is reported by step, where an answer is followed by a critic, and then a user speaks."""
    env = ChatEnvironment(engine)
    env.reset(messages=[user("Good morning.")])
    if not learning:
        render_every_time(env)
    told = []
    for said, reply in ((answer, {"role": "critic", "content": "Is that so?"}), (KEPT, user("Well."))):
        told += [[*env.step(sampled(engine, said)).fidelity], [*env.step(reply).fidelity]]
    return told


@pytest.mark.parametrize(("written", "changed"), REWRITING.values(), ids=REWRITING)
def test_a_rewrite_comes_of_the_texts_that_are_rewritten_and_of_no_others(written: str, changed: str) -> None:
    for answers in ([KEPT, KEPT, KEPT, changed], [changed, changed, changed, KEPT]):
        engine = engine_rewriting(written)
        told = [reported(engine, answer, learning=True) for answer in answers]
        assert told == [reported(engine, answer, learning=False) for answer in answers]
        assert [len(reports) for *_, reports in told] == [int(answer == changed) for answer in answers]


BANNER = template_writing(
    "{% if message.role == 'user' and not messages[loop.index0 + 1:] | selectattr('role', 'equalto', 'user') | list %}"
    "{{ 'Be brief. ' }}{% endif %}{{ message.content }}"
)
"""Writes something before the last user's message, so that every message of a user rewrites what came before it."""


def test_a_rewrite_is_reported_of_the_message_that_is_rewritten_wherever_it_stands() -> None:
    engine = TokenEngine.load(stand_in(BANNER))
    said = [("General greetings", "How do you do?")] * 5
    learnt, rendered = (played(engine, said, learning=learning)[0].state.fidelity for learning in (True, False))
    assert learnt == rendered
    assert [report.message_index for report in rendered] == [1, 3, 1, 5, 3, 7, 5, 9, 7]


THINKING = template_writing(
    "{% if message.role == 'assistant' %}{{ '<think>\\n' }}"
    "{{ message.reasoning_content if message.reasoning_content is string else '' }}{{ '\\n</think>\\n\\n' }}{% endif %}"
    "{{ message.content }}"
).replace("assistant\\n' }}{% endif %}", "assistant\\n<think>\\n' }}{% endif %}")


def test_a_turn_of_its_stop_token_alone_is_like_no_turn_that_says_something() -> None:
    engine = TokenEngine.load(stand_in(THINKING))
    played(engine, [("An unfinished thought", "How do you do?")] * 3, learning=True)
    learnt, rendered = (played(engine, [("", "How do you do?")], learning=learning)[0] for learning in (True, False))
    assert learnt.state.fidelity == rendered.state.fidelity


@pytest.mark.parametrize("said", ["General greetings", "General greetings\n"])
def test_a_turn_with_all_of_its_close_is_told_from_one_with_its_end_alone(said: str) -> None:
    engine = engine_for("{{ message.content }}{% if message.role == 'assistant' %}{{ '\\n' }}{% endif %}")
    other = said.strip() if said != said.strip() else said + "\n"
    played(engine, [(said, "How do you do?")] * 3, learning=True)
    learnt, rendered = (played(engine, [(other, "How do you do?")], learning=how)[0] for how in (True, False))
    assert learnt.state.fidelity == rendered.state.fidelity
    assert len(rendered.state.fidelity) == (said != said.strip())


# -- what is asked of a text ----------------------------------------------------------------------

HARMLESS = {"__new__", "__getattribute__", "__doc__", "__getnewargs__", "__sizeof__", "maketrans", "__str__"}
ARGUMENTS: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(["__mul__", "__rmul__", "__getitem__", "center", "ljust", "rjust", "zfill"], (3,)),
    **dict.fromkeys(["__format__"], ("",)),
    **dict.fromkeys(["replace"], ("a", "b")),
    **dict.fromkeys(["join"], (["a"],)),
    **dict.fromkeys(["translate"], ({},)),
    **dict.fromkeys(["__mod__"], ((),)),
    **dict.fromkeys(["format_map"], ({},)),
    **dict.fromkeys(["index", "rindex"], ("h",)),
    **dict.fromkeys(["__lt__", "__le__", "__gt__", "__ge__", "__eq__", "__ne__", "__contains__", "__add__"], ("a",)),
    "__rmod__": ("%s",),
    **dict.fromkeys(["count", "find", "rfind", "startswith", "endswith", "partition", "rpartition"], ("a",)),
    **dict.fromkeys(["removeprefix", "removesuffix"], ("a",)),
}


@pytest.mark.parametrize("name", sorted(vars(str).keys() - HARMLESS))
def test_whatever_is_asked_of_a_traced_text_is_noted_or_followed_or_spoils_it(name: str) -> None:
    trace = Trace(["hello"])
    (text,) = trace.texts
    with trace.opened():
        answer = getattr(text, name)(*ARGUMENTS.get(name, ()))
        if name == "__iter__":
            next(answer)
    followed = isinstance(answer, TracedText) and answer.expression.of(["hello"]) == answer
    assert trace.conditions or followed or not trace.is_complete
    assert all(condition.is_met(["hello"]) for condition in trace.conditions)


def test_outside_of_a_render_a_traced_text_is_a_text_like_any_other() -> None:
    trace = Trace(["hello"])
    (text,) = trace.texts
    assert (text.upper(), text + "!", text[1:], bool(text), "ell" in text) == ("HELLO", "hello!", "ello", True, True)
    assert hash(text) == hash("hello")
    assert trace.is_complete
    assert not trace.conditions


# -- each guard is needed -------------------------------------------------------------------------


def _none(*_: Any) -> None:
    return None


def _always(*_: Any) -> bool:
    return True


def _never(*_: Any) -> bool:
    return False


def _of_length(name: str) -> Callable[[TracedLength, int], bool]:
    return lambda length, other: bool(getattr(operator, name)(int.__index__(len(str.__str__(length._of))), other))


def _shapeless(message: Any, texts: list[str]) -> Any:
    """The shape of a message without the types of what is no text."""
    shape = recording.shape_of(message, texts)
    return tuple(part if isinstance(part, str) or part[0] in ("role", "type") else part[0] for part in shape)


RENDERS: dict[str, tuple[Any, str, Any, str, list[str]]] = {
    "conditions are tested": (recording, "are_met", _always, PASSING["after a look for a thought"], ["a", "</think>"]),
    "conditions are noted": (Trace, "note", _none, PASSING["compared"], ["a", "stop it now"]),
    "what cannot be seen spoils a trace": (Trace, "spoil", _none, UNSEEN["escaped"], ["a b", "<b>"]),
    "a text in another text": (
        RecordingEnvironment,
        "holds",
        lambda _self, needle, haystack: needle in haystack,
        TELLING["looked for in another text"],
        ["zebra", "yes"],
    ),
    "texts put together": (RecordingEnvironment, "concat", staticmethod("".join), TELLING["in a sentence"], ["a", "b"]),
    "an empty text": (
        TracedText,
        "__bool__",
        lambda text: str.__len__(text) > 0,
        TELLING["that it says something"],
        ["a", ""],
    ),
    "how long a text is": (TracedLength, "__gt__", _of_length("gt"), TELLING["that it is long"], ["a", "a" * 40]),
    "a text as a key": (TracedText, "__hash__", str.__hash__, UNSEEN["a key"], ["a", "yes no"]),
    "a text letter by letter": (TracedText, "__iter__", str.__iter__, UNSEEN["letter by letter"], ["abc", "xyzzy"]),
    "a text as an argument": (
        RecordingEnvironment,
        "call",
        ImmutableSandboxedEnvironment.call,
        TELLING["an argument of another text's method"],
        ["zebra", "yes"],
    ),
    "a text in an operator": (
        RecordingEnvironment,
        "call_binop",
        ImmutableSandboxedEnvironment.call_binop,
        TELLING["among others"],
        ["zebra", "yes"],
    ),
}


@pytest.mark.parametrize(("owner", "name", "instead", "content", "said"), RENDERS.values(), ids=RENDERS)
def test_without_this_guard_a_render_would_be_wrong(
    owner: Any, name: str, instead: Any, content: str, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, other = ([user(text)] for text in said)
    template = ChatTemplate(template_writing(content))

    def written() -> str:
        recording_template.cache_clear()
        reusing = ReusingTemplate(template, {})
        for _ in range(3):
            reusing.render(first, True)
        return reusing.render(other, True)

    assert written() == FilledTemplate(template, {}).render(other, True)
    monkeypatch.setattr(owner, name, instead)
    assert written() != FilledTemplate(template, {}).render(other, True)
    recording_template.cache_clear()


def test_without_the_types_of_what_is_no_text_a_render_would_be_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    template = ChatTemplate("{% for message in messages %}{{ message.n }}{{ message.content }}{% endfor %}")

    def written() -> str:
        reusing = ReusingTemplate(template, {})
        for _ in range(3):
            reusing.render([{"n": 1, "content": "a"}], False)
        return reusing.render([{"n": True, "content": "a"}], False)

    assert written() == "Truea"
    monkeypatch.setattr(reusing_template, "shape_of", _shapeless)
    assert written() == "1a"


def test_two_lengths_are_compared_as_they_are_now() -> None:
    longer = "{% if loop.last and message.content | length > messages[0].content | length %}L{% endif %}"
    reusing = ReusingTemplate(ChatTemplate(template_writing(longer)), {})
    for _ in range(3):
        assert "L" in reusing.render([user("aaa"), user("aaaaa")], False)
    assert "L" not in reusing.render([user("aaaa"), user("aaaa")], False)


def test_a_length_is_a_number() -> None:
    asked = "{% if message.content | length is KIND and message.content == 'x' %}N{% endif %}"
    for kind in ("number", "integer"):
        reusing = ReusingTemplate(ChatTemplate(template_writing(asked.replace("KIND", kind))), {})
        for _ in range(3):
            assert "N" not in reusing.render([user("a")], False)
        assert "N" in reusing.render([user("x")], False)


def test_a_text_that_is_a_format_stays_in_the_sandbox() -> None:
    template = ChatTemplate("{% for message in messages %}{{ message.content.format('x') }}{% endfor %}")
    reusing, rendering = ReusingTemplate(template, {}), FilledTemplate(template, {})
    for _ in range(3):
        assert reusing.render([user("it is {}")], False) == "it is x"
    asked = [user("it is {0.__class__}")]
    assert _outcome(reusing, asked, False) == _outcome(rendering, asked, False)


@pytest.mark.parametrize(("first", "other"), [(0.0, -0.0), (1, 1.0), (1, True), ([1], (1,)), (None, "None")])
def test_what_is_no_text_is_told_apart_by_how_it_is_written(first: Any, other: Any) -> None:
    template = ChatTemplate("{% for message in messages %}{{ message.n }}{{ message.content }}{% endfor %}")
    reusing = ReusingTemplate(template, {})
    for _ in range(3):
        reusing.render([{"n": first, "content": "a"}], False)
    assert reusing.render([{"n": other, "content": "a"}], False) == f"{other}a"


TRIMMED, AS_IT_IS = PASSING["trimmed"], PASSING["as it is"]
TAILS: dict[str, tuple[Any, str, Any, str, list[tuple[str, str]]]] = {
    "conditions are tested": (
        reusing_tails,
        "are_met",
        _always,
        PASSING["after a look for a thought"],
        [("General greetings", "Is </think> a thought?")],
    ),
    "the turn is written as it was sampled": (
        reusing_tails,
        "_fits",
        lambda recording, texts, _said: recording and texts is not None,
        TRIMMED,
        [("General greetings \n ", "How do you do?")],
    ),
    "the message is written as it was given": (
        tail_recording,
        "verbatim",
        lambda *_: (),
        TRIMMED,
        [("General greetings", "  How do you do?  ")],
    ),
    "control tokens in a text": (
        ReusingTails,
        "_spell_control_tokens",
        _never,
        AS_IT_IS,
        [("General greetings", "Is <|im_end|> an end?")],
    ),
}


@pytest.mark.parametrize(("owner", "name", "instead", "content", "said"), TAILS.values(), ids=TAILS)
def test_without_this_guard_a_tail_would_be_wrong(
    owner: Any, name: str, instead: Any, content: str, said: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def differs() -> bool:
        engine = engine_for(content)
        played(engine, [("General greetings", "How do you do?")] * 3, learning=True)
        learnt, rendered = (played(engine, said, learning=learning)[0] for learning in (True, False))
        return bool(
            learnt.state.token_ids.tolist() != rendered.state.token_ids.tolist()
            or learnt.state.fidelity != rendered.state.fidelity
        )

    assert not differs()
    monkeypatch.setattr(owner, name, instead)
    assert differs()
