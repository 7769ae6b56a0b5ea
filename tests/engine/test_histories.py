"""What came before the last turn: earlier tool rounds, numbers of calls, and the terms of the episode.

Small templates of our own have the habits of public ones; those are played, too, where the conformance data is at hand.
What is right is what the tokenizer itself makes of the whole conversation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from chatenv_client import ChatAction, FidelityKind, Message
from chatenv_client.errors import TemplateRejectedError
from chatenv_server import ChatEnvironment
from chatenv_server.doctor.stand_in import stand_in
from chatenv_server.engine import TokenEngine
from tests.conformance import CONFORMANCE
from tests.engine.episodes import TOOL, state_bytes
from tests.engine.small_tokenizers import CHATML, Dialogue, byte_level, system, tool, user

PUBLIC = sorted(path for path in CONFORMANCE.glob("templates*/*.jinja") if not path.stem.endswith("_training"))


def call(number: int, content: str | None = None) -> Message:
    """A given call with an id of its own."""
    function: Any = {"name": "lookup", "arguments": {"key": f"town{number}"}}
    return {
        "role": "assistant",
        "content": content,
        "tool_calls": [{"id": f"call{number:05d}", "type": "function", "function": function}],
    }


def result(number: int, text: str) -> Message:
    return {"role": "tool", "content": text, "tool_call_id": f"call{number:05d}", "name": "lookup"}


# -- earlier tool rounds -------------------------------------------------------------------------------

_FIRST_RESULT_OPENS = (
    "{% set n = namespace(first=true) %}{% for m in messages %}{% if m.role == 'tool' %}"
    "{{ '<outputs>' if n.first else '\n' }}{% set n.first = false %}<output>{{ m.content }}</output>"
    "{% else %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_a_later_result_is_written_as_such_although_the_template_shows_no_calls() -> None:
    talk = Dialogue(byte_level(_FIRST_RESULT_OPENS))
    for answer in ("42", "43", "44"):
        talk.says("Wait").hears(tool(answer))
        assert talk.is_exact()
    assert talk.text.count("<outputs>") == 1


_NUMBERS_CALLS = (
    "{% macro number(id) %}{% set n = namespace(i=0, seen=false) %}{% for m in messages %}"
    "{% for c in m.tool_calls or [] %}{% if c.id == id and not n.seen %}{{ n.i }}{% set n.seen = true %}{% endif %}"
    "{% set n.i = n.i + 1 %}{% endfor %}{% endfor %}{% endmacro %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% for c in m.tool_calls or [] %}"
    "<call>{{ number(c.id) }}: {{ c.function.name }} {{ c.function.arguments | tojson }}</call>{% endfor %}"
    "{% if m.role == 'tool' %} for {{ number(m.tool_call_id) }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_calls_are_numbered_over_the_whole_conversation() -> None:
    talk = Dialogue(byte_level(_NUMBERS_CALLS), [user("Hi"), call(1, "x"), result(1, "Sunny")])
    assert talk.is_exact()
    for number in (2, 3):
        talk.says("Well").hears("And then?", call(number, "x"), result(number, "Windy"))
        assert talk.is_exact()
        assert f"Windy for {number - 1}" in talk.text


_COUNTS_CALLS = (
    "{% set n = namespace(i=0) %}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<call>{{ n.i }}: {{ c.function.name }}</call>{% set n.i = n.i + 1 %}{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_given_calls_are_numbered_although_results_show_no_number() -> None:
    talk = Dialogue(byte_level(_COUNTS_CALLS), [user("Hi"), call(1, "x"), result(1, "Sunny")])
    talk.says("Well").hears("And then?", call(2, "x"), result(2, "Windy"))
    assert talk.is_exact()
    assert "<call>1: lookup</call>" in talk.tail


# -- the terms of an episode ---------------------------------------------------------------------------

_NEEDS_TOOLS = "{% for t in tools %}<tool>{{ t.function.name }}</tool>{% endfor %}" + CHATML


def test_a_template_that_fails_without_tools_goes_on_with_them() -> None:
    talk = Dialogue(byte_level(_NEEDS_TOOLS), tools=[TOOL])
    for question in ("Why?", "How?"):
        talk.says("Well").hears(question)
        assert talk.is_exact()


_WANTS_SYSTEM = "{% if messages[0].role != 'system' %}{{ raise_exception('No system prompt') }}{% endif %}" + CHATML


def test_a_template_that_wants_a_system_prompt_is_known_by_conversations_that_have_one() -> None:
    talk = Dialogue(byte_level(_WANTS_SYSTEM, eos="<|endoftext|>"), [system("Be brief"), user("Hi")])
    assert {talk.tokenizer.decode([stop]) for stop in talk.env.engine.stop_ids} == {"<|im_end|>", "<|endoftext|>"}
    for question in ("Why?", "How?"):
        talk.says("Well").hears(question)
        assert talk.is_exact()
        assert talk.observation.generation_prompt_length == len(talk.ids("<|im_start|>assistant\n"))


_SYSTEM_MOVES_WITH_TOOLS = (
    "{% for t in tools or [] %}<tool>{{ t.function.name }}</tool>{% endfor %}{% for m in messages %}"
    "{% if m.role == 'system' %}{% if not tools %}<|im_start|>system\n{{ m.content }}<|im_end|>\n{% endif %}"
    "{% else %}<|im_start|>{{ m.role }}\n{% if tools and m.role == 'user' and "
    "(loop.last or messages[loop.index].role != 'assistant') %}{{ messages[0].content }}\n\n{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.mark.parametrize("tools", [None, [TOOL]])
def test_a_system_prompt_that_moves_only_with_tools_stands_in_every_tail(tools: Any) -> None:
    options = {"tools": tools} if tools else {}
    talk = Dialogue(byte_level(_SYSTEM_MOVES_WITH_TOOLS), [system("Be brief"), user("Hi")], **options)
    for question in ("Why?", "How?"):
        talk.says("Well").hears(question)
        assert ("Be brief" in talk.tail) == bool(tools)
        assert talk.full()[-len(talk.ids(talk.tail)) :] == talk.ids(talk.tail)
    assert talk.kinds == ({FidelityKind.HISTORY_REWRITTEN} if tools else set())


_ASKS_UNLESS_A_USER_DID = (
    "{% set n = namespace(asked=false) %}{% for m in messages %}{% set n.asked = m.role == 'user' %}"
    "{% if m.role == 'user' %}<|im_start|>{{ m.content }}<|assistant|>{% elif m.role == 'assistant' %}"
    "{{ m.content }}<|im_end|>{% else %}{{ m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt and not n.asked %}<|assistant|>{% endif %}"
)


def test_a_prompt_after_a_system_prompt_alone_that_history_does_not_keep_is_reported() -> None:
    talk = Dialogue(byte_level(_ASKS_UNLESS_A_USER_DID), [system("Be brief")])
    talk.says("Well").hears("Why?")
    assert talk.stream != talk.full()
    assert FidelityKind.HISTORY_REWRITTEN in talk.kinds


_GOES_ON_AFTER_A_RESULT_LEFT_OUT = (
    "{% set n = namespace(role='') %}{% for m in messages if m.role != 'tool' %}"
    "{% if m.role == 'user' or n.role == 'user' %}<|im_start|>{{ m.role }}\n{% endif %}{% set n.role = m.role %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_a_prompt_after_a_result_left_out_that_history_does_not_keep_is_reported() -> None:
    talk = Dialogue(byte_level(_GOES_ON_AFTER_A_RESULT_LEFT_OUT))
    talk.says("Wait").hears(tool("42"))
    talk.says("Well").hears("Thanks")
    assert talk.stream != talk.full()
    assert FidelityKind.HISTORY_REWRITTEN in talk.kinds


_PROMPTS_IN_WORDS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.reasoning_content and loop.last %}{{ m.reasoning_content }}\n[ANSWER]\n{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\nMy steps:\n{% endif %}"
)


def test_words_of_a_prompt_that_history_does_not_keep_are_nothing_that_was_said() -> None:
    talk = Dialogue(byte_level(_PROMPTS_IN_WORDS)).says("Well")
    assert talk.env.state.history_messages[-1]["content"] == "Well"
    talk.hears("Why?")
    assert talk.stream != talk.full()
    assert FidelityKind.HISTORY_REWRITTEN in talk.kinds


_THINKS_AFTER_RESULTS = CHATML.replace(
    "assistant\n{% endif",
    "assistant\n{% if enable_thinking and messages[-1].role == 'tool' %}<think>\n{% endif %}{% endif",
)


@pytest.mark.parametrize("thinks", [True, False])
def test_a_prompt_after_a_result_that_history_does_not_keep_is_reported(thinks: bool) -> None:
    talk = Dialogue(byte_level(_THINKS_AFTER_RESULTS), chat_template_kwargs={"enable_thinking": thinks})
    talk.says("Wait").hears(tool("42"))
    assert talk.is_exact()
    talk.says("It is 42").hears("Thanks")
    assert (FidelityKind.HISTORY_REWRITTEN in talk.kinds) == thinks
    assert (talk.stream == talk.full()) is not thinks


# -- what is forgotten later ---------------------------------------------------------------------------

_KEEPS_THE_LAST_THOUGHT = (
    "{% set n = namespace(last=-1) %}{% for m in messages %}{% if m.role == 'assistant' %}"
    "{% set n.last = loop.index0 %}{% endif %}{% endfor %}{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.index0 != n.last %}STRIPPED{% else %}{{ m.content }}{% endif %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_STRIPS = {
    "<think>hm</think>Yes": "{{ m.content.split('</think>')[-1] }}",
    "[THINK]hm[/THINK]Yes": "{{ m.content.split('[/THINK]')[-1] }}",
    "<|channel>hm<channel|>Yes": (
        "{% for part in m.content.split('<channel|>') %}{{ part.split('<|channel>')[0] }}{% endfor %}"
    ),
}


@pytest.mark.parametrize("answer", _STRIPS)
def test_a_thought_inside_the_content_is_reported_when_a_later_answer_makes_the_template_strip_it(answer: str) -> None:
    talk = Dialogue(byte_level(_KEEPS_THE_LAST_THOUGHT.replace("STRIPPED", _STRIPS[answer])))
    talk.says(answer).hears("Sure?")
    assert talk.is_exact(), "the last answer keeps its thought even after a user has spoken"
    talk.says(answer).hears("Really?")
    assert [(one.kind, one.message_index) for one in talk.observation.fidelity] == [(FidelityKind.HISTORY_REWRITTEN, 1)]
    talk.says("Yes").hears("Well.")
    assert [one.message_index for one in talk.observation.fidelity] == [3]


def test_answers_without_thoughts_are_exact_where_thoughts_would_be_stripped() -> None:
    talk = Dialogue(byte_level(_KEEPS_THE_LAST_THOUGHT.replace("STRIPPED", "{{ m.content.split('</think>')[-1] }}")))
    for question in ("Sure?", "Really?", "Well."):
        talk.says("Yes").hears(question)
        assert talk.is_exact()


# -- messages that move --------------------------------------------------------------------------------

_SYSTEM_LAST = (
    "{% set users = messages | selectattr('role', 'equalto', 'user') | list %}{% for m in messages %}"
    "{% if m.role != 'system' %}<|im_start|>{{ m.role }}\n{% if m.role == 'user' and m == users[-1] %}"
    "{{ messages[0].content }}\n{% endif %}{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_messages_that_stand_before_a_moved_system_prompt_are_not_reported_as_dropped() -> None:
    said = {"role": "assistant", "content": "Hello."}
    talk = Dialogue(byte_level(_SYSTEM_LAST), [system("Be brief"), user("Hi there"), said, user("How are you?")])
    assert talk.is_exact()
    spans = talk.env.state.message_spans
    texts = [talk.tokenizer.decode(talk.stream[start:stop]) for start, stop in spans]
    assert [text.strip().splitlines()[-1:] for text in texts] == [
        [],
        ["Hi there<|im_end|>"],
        ["Hello.<|im_end|>"],
        ["How are you?<|im_end|>"],
    ]


def test_a_message_that_is_changed_where_it_moved_to_is_altered() -> None:
    talk = Dialogue(
        byte_level(_SYSTEM_LAST.replace("messages[0].content }}", "messages[0].content | upper }}")),
        [system("Be brief"), user("Hi there"), {"role": "assistant", "content": "Hello."}, user("How are you?")],
    )
    assert [(one.kind, one.message_index) for one in talk.env.state.fidelity] == [(FidelityKind.CONTENT_ALTERED, 0)]


def test_a_message_that_stands_nowhere_is_dropped_although_another_one_moved() -> None:
    dropping = _SYSTEM_LAST.replace("m.role != 'system'", "m.role not in ('system', 'note')")
    note = {"role": "note", "content": "Nobody reads this."}
    talk = Dialogue(byte_level(dropping), [system("Be brief"), user("Hi there"), note, user("How are you?")])
    assert [(one.kind, one.message_index) for one in talk.env.state.fidelity] == [(FidelityKind.MESSAGE_DROPPED, 2)]


# -- nothing to go on from -----------------------------------------------------------------------------

_WANTS_A_USER = (
    "{% if messages | selectattr('role', 'equalto', 'user') | list | length == 0 %}"
    "{{ raise_exception('No user query found') }}{% endif %}" + CHATML
)
_SILENT_WITHOUT_A_USER = "{% if messages | selectattr('role', 'equalto', 'user') | list %}" + CHATML + "{% endif %}"


@pytest.mark.parametrize("template", [_WANTS_A_USER, _SILENT_WITHOUT_A_USER])
def test_nothing_is_sampled_before_the_template_has_written_the_system_prompt(template: str) -> None:
    talk = Dialogue(byte_level(template), [system("Be brief")])
    assert talk.stream == []
    before = state_bytes(talk.env)
    with pytest.raises(TemplateRejectedError, match="waits for a user"):
        talk.env.step(ChatAction(tokens=talk.ids("Hello")))
    assert state_bytes(talk.env) == before
    assert talk.hears("Hi").says("Hello").hears("Why?").is_exact()


_SKIPS_EMPTY = CHATML.replace("{% for m in messages %}", "{% for m in messages if m.content %}")


def test_an_empty_turn_that_the_template_skips_is_closed_and_a_prompt_follows() -> None:
    talk = Dialogue(byte_level(_SKIPS_EMPTY))
    talk.says("").hears("")
    assert talk.tail == "\n<|im_start|>assistant\n"
    assert talk.kinds == {FidelityKind.HISTORY_REWRITTEN}
    talk.says("Yes").hears("Why?")
    assert talk.tail == "\n<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n"


def test_an_empty_turn_that_the_template_writes_is_exact() -> None:
    talk = Dialogue(byte_level()).says("").hears("Why?")
    assert talk.is_exact()


# -- public templates ----------------------------------------------------------------------------------

_TERMS: dict[str, tuple[Sequence[Message], dict[str, Any]]] = {
    "bare": ([], {}),
    "with tools": ([system("Be terse and kind.")], {"tools": [TOOL]}),
    "thinking": ([], {"tools": [TOOL], "chat_template_kwargs": {"enable_thinking": True, "thinking": True}}),
}
_CONVERSATION: tuple[Sequence[Message], ...] = (
    [user("Weather in Oslo?")],
    [user("And in Rome?")],
    [call(1, "I will see."), result(1, "Sunny there")],
    [user("And in Lima?"), call(2, "Let me look."), result(2, "Windy there")],
    [result(2, "Still windy")],
    [
        user("And in Bonn?"),
        call(3, ""),
        result(3, "Rainy there"),
        {"role": "assistant", "content": "Wet."},
        user("So?"),
    ],
)
"""What is given between sampled turns."""
_EXPLAIN = {FidelityKind.HISTORY_REWRITTEN, FidelityKind.NONCANONICAL_STOP, FidelityKind.MESSAGE_DROPPED}


@pytest.mark.law(10)
@pytest.mark.parametrize("terms", _TERMS)
@pytest.mark.parametrize("path", PUBLIC, ids=lambda path: path.stem)
def test_a_tail_of_a_public_template_is_what_it_writes_after_the_whole_conversation(path: Any, terms: str) -> None:
    opening, options = _TERMS[terms]
    play = _Play(*_public(path), options)
    for number, given in enumerate(_CONVERSATION):
        if not play.gives([*opening, *given] if number == 0 else given):
            return
        play.compares()
        play.samples(f"Answer number {number}.")


_PUBLIC: dict[Any, tuple[TokenEngine, Any]] = {}


def _public(path: Any) -> tuple[TokenEngine, Any]:
    if path not in _PUBLIC:
        tokenizer = stand_in(path.read_text(encoding="utf-8"))
        _PUBLIC[path] = (TokenEngine.load(tokenizer), tokenizer)
    return _PUBLIC[path]


class _Play:
    """An episode of plain answers, next to what transformers makes of the same messages."""

    def __init__(self, engine: TokenEngine, tokenizer: Any, terms: Mapping[str, Any]) -> None:
        self.engine, self.tokenizer, self.terms = engine, tokenizer, terms
        self.env = ChatEnvironment(engine)
        self.history: list[Any] = []

    def whole(self) -> str | None:
        """The conversation as the template writes it; None where it rejects it."""
        assert self.engine.chat_format is not None
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    [self.engine.chat_format.profile.forms.apply(message) for message in self.history],
                    tools=self.terms.get("tools"),
                    add_generation_prompt=True,
                    tokenize=False,
                    **self.terms.get("chat_template_kwargs", {}),
                )
            )
        except Exception:  # noqa: BLE001 - a template may raise anything
            return None

    def gives(self, messages: Sequence[Message]) -> bool:
        """Append messages; False where the template rejects them, and so did the engine."""
        first = not self.history
        self.history += messages
        rejected = self.whole() is None
        try:
            self.env.reset(messages=messages, **self.terms) if first else self.env.step(list(messages))
        except TemplateRejectedError:
            assert rejected
            return False
        assert not rejected
        return True

    def samples(self, text: str) -> None:
        codec = self.engine.chat_format.codec  # type: ignore[union-attr]
        self.env.step(ChatAction(tokens=[*codec.encode(text), min(self.engine.stop_ids)]))
        self.history.append({"role": "assistant", "content": text})

    def compares(self) -> None:
        whole, stream = self.whole(), self._text(self.env.state.token_ids)
        assert whole is not None
        kinds = {report.kind for report in self.env.state.fidelity}
        if "strftime_now" in self.tokenizer.chat_template:
            return  # transformers tells the time of day
        assert kinds & _EXPLAIN or stream == whole
        turns = self.env.state.turns
        start = max((turn.stop for turn in turns if turn.stop_reason is not None), default=0)
        tail = self._text(self.env.state.token_ids[start:])
        if FidelityKind.NONCANONICAL_STOP not in kinds:
            assert whole.endswith(tail)

    def _text(self, ids: Any) -> str:
        return str(self.tokenizer.backend_tokenizer.decode(list(ids), skip_special_tokens=False))
