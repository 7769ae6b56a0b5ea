"""Costs are linear in what is sent. Work is counted, never timed: functions called, characters searched."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, SupportsIndex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatenv_client import ChatAction, Message, TemplateRejectedError
from chatenv_server import ChatEnvironment
from chatenv_server.engine import TokenEngine
from chatenv_server.engine.controls import CLOSE, OPEN, seen_before, without_marks
from chatenv_server.engine.cut import overlap_of
from chatenv_server.engine.forms import PreparedMessage
from chatenv_server.engine.locate import Place, locate
from chatenv_server.engine.message_faults import message_reports
from chatenv_server.engine.searches import MOST_PASSES, NEAR
from tests.engine.small_tokenizers import CHATML, CLOCK, FORGETS, byte_level, user

# -- calls of functions --------------------------------------------------------------------------------


class Calls:
    """How many functions were called, those written in C among them."""

    def __init__(self) -> None:
        self.count = 0

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count those made while it lasts."""
        before = sys.getprofile()
        sys.setprofile(self._note)
        try:
            yield
        finally:
            sys.setprofile(before)

    def _note(self, _frame: FrameType, event: str, _argument: object) -> None:
        self.count += event in ("call", "c_call")


def calls_of(work: Callable[[], object]) -> int:
    """How many functions some work calls."""
    calls = Calls()
    with calls.counted():
        work()
    return calls.count


def answer(text: str, **more: Any) -> Message:
    message: Message = {"role": "assistant", "content": text, **more}  # type: ignore[typeddict-item]
    return message


def call(number: int, key: str = "Oslo", name: str = "lookup") -> dict[str, Any]:
    function = {"name": name, "arguments": {"key": key}}
    return {"tool_calls": [{"id": f"call{number:05d}", "type": "function", "function": function}]}


def result(number: int) -> Message:
    return {"role": "tool", "content": f"Sunny {number}", "tool_call_id": f"call{number:05d}", "name": "lookup"}


_SHOWS = CHATML.replace(
    "{{ m.content }}",
    "{{ m.reasoning_content if m.reasoning_content }}{{ m.content }}{% for c in m.tool_calls or [] %}"
    "<call>{{ c.function.name }} {{ c.function.arguments | tojson }}</call>{% endfor %}",
)
_DROPS = _SHOWS.replace("in messages %}", "in messages if m.role != 'note' %}", 1)
_REFUSES_STAND_INS = (
    "{% for m in messages if m.content.startswith('qx8wj') %}{{ raise_exception('No') }}{% endfor %}" + _DROPS
)

_CONVERSATIONS: dict[str, tuple[str, Callable[[int], Message]]] = {
    "texts": (CHATML, lambda i: user(f"Question {i}") if i % 2 else answer(f"Answer {i}")),
    "texts so short that the template could have written them": (CHATML, lambda i: user("x") if i % 2 else answer("y")),
    "texts that the template changes": (CHATML.replace("m.content", "m.content | upper"), lambda i: user(f"Text {i}")),
    "texts that spell control tokens": (CHATML, lambda i: user(f"<|im_end|> {i}") if i % 2 else answer(f"Answer {i}")),
    "calls and results": (_SHOWS, lambda i: answer("", **call(i)) if i % 2 else result(i)),
    "calls that the template leaves out": (
        CHATML,
        lambda i: answer("", **call(i, name=f"f{i}")) if i % 2 else result(i),
    ),
    "thoughts": (_SHOWS, lambda i: answer(f"So {i}", reasoning_content=f"I think {i}")),
    "thoughts that the template leaves out": (CHATML, lambda i: answer(f"So {i}", reasoning_content=f"I think {i}")),
    "turns that the template will rewrite": (FORGETS, lambda i: answer(f"Hm</think>So {i}") if i % 2 else result(i)),
    "turns that the template might rewrite": (FORGETS, lambda i: answer(f"So {i}") if i % 2 else result(i)),
    "messages that the template leaves out": (
        _DROPS,
        lambda i: answer("", **call(i, "z" * 200)) if i % 2 else {"role": "note", "content": f"Nobody reads this {i}"},
    ),
    "messages that the template leaves out and takes no others for": (
        _REFUSES_STAND_INS,
        lambda i: answer("", **call(i, "z" * 200)) if i % 2 else {"role": "note", "content": f"Nobody reads this {i}"},
    ),
}  # fmt: skip


def _opening(engine: TokenEngine, messages: Sequence[Message]) -> int:
    return calls_of(lambda: ChatEnvironment(engine).reset(messages=messages, clock=CLOCK))


def _begun(engine: TokenEngine) -> ChatEnvironment:
    env = ChatEnvironment(engine)
    env.reset(messages=[user("Hi there")], clock=CLOCK)
    env.step(ChatAction(tokens=[104, 105, max(engine.stop_ids)]))
    return env


def _step(engine: TokenEngine, messages: Sequence[Message]) -> int:
    env = _begun(engine)
    return calls_of(lambda: env.step([*messages]))


@pytest.mark.parametrize("cost", [_opening, _step], ids=["opening", "step"])
@pytest.mark.parametrize("name", _CONVERSATIONS)
def test_twice_as_many_messages_cost_twice_as_much(
    name: str, cost: Callable[[TokenEngine, Sequence[Message]], int]
) -> None:
    template, message = _CONVERSATIONS[name]
    engine = TokenEngine.load(byte_level(template))

    def messages(count: int, first: str = "Hello there") -> list[Message]:
        return [user(first), *map(message, range(1, count))]

    cost(engine, messages(500, "Good day"))  # what is learnt once is learnt now
    once, twice = cost(engine, messages(500)), cost(engine, messages(1000))
    assert twice < 2.2 * once


def test_a_message_after_many_that_were_reported_costs_as_much_as_they_did() -> None:
    engine = TokenEngine.load(byte_level())

    def cost(count: int) -> int:
        env = _begun(engine)
        env.step([user("<|im_end|>")] * count)
        return calls_of(lambda: env.step(user("Why?")))

    cost(500)
    assert cost(1000) < 2.2 * cost(500)


# -- characters that are searched ----------------------------------------------------------------------


class Searched(str):
    """A text that counts how many of its characters searches read."""

    __slots__ = ("characters",)

    def __init__(self, _: str) -> None:
        self.characters = 0

    def find(self, own: str, start: SupportsIndex | None = 0, stop: SupportsIndex | None = None, /) -> int:
        found = str.find(self, own, start, stop)
        end = len(self) if stop is None else int(stop)
        self.characters += (end if found < 0 else found + len(own)) - int(start or 0)
        return found

    def __contains__(self, own: object) -> bool:
        return self.find(str(own)) >= 0


def _bound(text: str, strings: int) -> int:
    return (MOST_PASSES + 4) * len(text) + strings * (NEAR + 100)


def _calling(number: int) -> PreparedMessage:
    return answer("", reasoning_content=f"I think {number}", **call(number, "z" * 400, f"f{number}"))


_WRITTEN: Mapping[str, Callable[[PreparedMessage], str]] = {
    "everything": lambda m: f"{m['reasoning_content']}{m['tool_calls']}",
    "no thoughts": lambda m: str(m["tool_calls"]),
    "no calls": lambda m: f"{m['reasoning_content']}{'z' * 400}",
    "neither": lambda _: "z" * 400,
}


@pytest.mark.parametrize("has_results", [True, False], ids=["with results", "without"])
@pytest.mark.parametrize("what", _WRITTEN)
def test_calls_and_thoughts_are_looked_for_in_few_passes(what: str, has_results: bool) -> None:
    prepared: list[PreparedMessage] = []
    places: list[Place] = []
    text = ""
    for number in range(2000):
        prepared.append(_calling(number))
        places.append(Place(len(text), len(text)))
        text += _WRITTEN[what](prepared[-1])
        if has_results:
            prepared.append(result(number))
            places.append(Place(len(text), len(text) + len("Sunny")))
            text += "Sunny"
    searched = Searched(text)
    reports = message_reports(prepared, places, 0, searched)
    missing = {"everything": 0, "no thoughts": 2000, "no calls": 2000, "neither": 4000}[what]
    assert len(reports) == missing
    assert searched.characters < _bound(text, 4000)


def _rejects(_: Sequence[PreparedMessage]) -> str:
    raise TemplateRejectedError("No")


def test_messages_that_are_left_out_are_looked_for_in_few_passes() -> None:
    shown = [user(f"{number} shown {'z' * 400}") for number in range(2000)]
    left_out = [{"role": "note", "content": f"Nobody reads {number}"} for number in range(2000)]
    text = Searched("".join(str(message["content"]) for message in shown))
    messages = [one for pair in zip(left_out, shown, strict=True) for one in pair]
    places = locate(text, messages, _rejects, "")
    assert [place.dropped for place in places] == [True, False] * 2000
    assert "".join(text[place.start : place.stop] for place in places) == text
    assert text.characters < _bound(text, 4000)


def test_messages_beside_what_stand_ins_change_are_looked_for_in_few_passes() -> None:
    shown = [user(f"{number} shown") for number in range(2000)]
    text = Searched("".join(f"[{len(str(message['content']))}{'z' * 400}]{message['content']}" for message in shown))

    def render(others: Sequence[PreparedMessage]) -> str:
        return "".join(
            f"[{len(other['content'])}{'y' * 400}{number}]{other['content']}" for number, other in enumerate(others)
        )

    places = locate(text, [*shown, user("x")], render, "")
    assert len(places) == 2001
    assert text.characters < _bound(text, 2001)


# -- stop strings --------------------------------------------------------------------------------------


class Copied(str):
    """A text that counts how many of its characters are copied."""

    __slots__ = ("characters",)

    def __init__(self, _: str) -> None:
        self.characters = 0

    def __getitem__(self, place: SupportsIndex | slice) -> str:
        part = str.__getitem__(self, place)
        self.characters += len(part)
        return part


@pytest.mark.parametrize(("end", "length"), [("a", 2500), ("b", 2501), ("ba", 2502), ("c", 0)])
def test_a_stop_string_is_found_before_a_long_call_in_one_pass(end: str, length: int) -> None:
    text, more = Copied("a" * 5000 + end), Copied("a" * 2500 + "b" + "a" * 5000)
    assert overlap_of(text, more) == length
    assert text.characters + more.characters < 4 * len(text + more)


@given(st.text("ab", max_size=12), st.text("ab", max_size=12))
def test_what_a_turn_holds_of_the_close_is_the_longest_end_that_the_close_begins_with(text: str, more: str) -> None:
    lengths = range(min(len(text), len(more)) + 1)
    assert overlap_of(text, more) == max(length for length in lengths if text.endswith(more[:length]))


# -- marks ---------------------------------------------------------------------------------------------


@given(st.text(st.sampled_from([OPEN, CLOSE, "\U0001d202", "\U0001d203", "a"]), max_size=30))
def test_what_is_seen_before_a_character_is_the_text_without_its_marks(text: str) -> None:
    characters = [*range(len(text) + 1)]
    assert seen_before(text, characters) == [len(without_marks(text[:character])) for character in characters]
