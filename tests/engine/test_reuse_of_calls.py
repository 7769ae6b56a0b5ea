"""What is learnt of rounds in which a model calls a tool gives the streams and reports that rendering gives."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatenv_client import ChatAction, ChatEnvError, FidelityKind, Message
from chatenv_server import ChatEnvironment
from chatenv_server.doctor.reference import NotTakenError, Reference
from chatenv_server.doctor.sampling import sampled_ids, sampled_text
from chatenv_server.doctor.scenarios import TOOLS
from chatenv_server.doctor.stand_in import stand_in
from chatenv_server.engine import TokenEngine
from chatenv_server.engine.tail_encoder import WrittenTail
from chatenv_server.engine.tails import TailWriter
from tests.engine.archetypes import ARCHETYPES
from tests.engine.learning import render_every_time
from tests.engine.subjects import recorded_tokenizer

OPENING: Message = {"role": "user", "content": "What is it like there?"}
TOOL_ROUNDS = ARCHETYPES["a default system prompt, results of tools in one user turn"].replace(
    "{%- if loop.previtem.role", "{%- if m.tool_call_id %}{% endif %}{%- if loop.previtem.role"
)
FORGETS = "standin_qwen3_6"
"""A recorded tokenizer whose template strips thoughts, and writes none there, once a user has spoken."""
AS_TEXT = "arguments as text"
TEMPLATES = {**ARCHETYPES, "rounds": TOOL_ROUNDS, AS_TEXT: TOOL_ROUNDS.replace("arguments | tojson", "arguments")}


class Round(NamedTuple):
    """A call, its result, whether a user speaks after them, and whether the call is written without spaces."""

    city: str = "Bern"
    days: Any = 1
    content: str = ""
    result: str = "Sunny all day long"
    answers: bool = True
    user: bool = False
    tight: bool = False


@functools.cache
def engine_of(name: str) -> tuple[Reference, TokenEngine]:
    tokenizer = recorded_tokenizer(name) if name == FORGETS else stand_in(TEMPLATES[name])
    return Reference(tokenizer), TokenEngine.load(tokenizer)


CALLING = [name for name in TEMPLATES if {"tools", "tool_calls", "tool"} <= set(engine_of(name)[1].features)]
texts = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        ["Bern", " Bern ", "", "a", "</think>", "<think>so</think>", '"Bern"', "<|im_end|>", "Sunny all day"]
    ),
)
rounds = st.lists(
    st.builds(Round, texts, st.sampled_from([1, True, "1"]), texts, texts, st.booleans(), st.booleans(), st.booleans()),
    min_size=1,
    max_size=5,
)


def played(name: str, said: Sequence[Round], *, learning: bool) -> tuple[ChatEnvironment, list[Any]]:
    """An episode of such rounds, and what every step brought; what a template does not take ends it."""
    reference, engine = engine_of(name)
    env = ChatEnvironment(engine)
    env.reset(messages=[OPENING], tools=TOOLS, clock=0.0)
    if not learning:
        render_every_time(env)
    history: list[Message] = [OPENING]
    brought: list[Any] = []
    try:
        for number, one in enumerate(said):
            call = {"id": f"call{number:05d}", "type": "function"}
            function = {"name": "get_weather", "arguments": {"days": one.days, "city": one.city}}
            turn: Any = {"role": "assistant", "content": one.content, "tool_calls": [{**call, "function": function}]}
            result: Any = {"role": "tool", "content": one.result, "tool_call_id": call["id"]}
            text = sampled_text(reference, history, turn, [result], tools=True, prompt=True).text
            text = text.replace('": ', '":') if one.tight else text
            seen = env.step(ChatAction(tokens=sampled_ids(reference, env.state.token_ids.tolist(), text)))
            calls = seen.messages[-1].get("tool_calls", [])
            answered = calls[0]["id"] if calls and one.answers else "another"
            replies = [{**result, "tool_call_id": answered}, *([OPENING] if one.user else [])]
            for reply in replies:
                seen = env.step(reply)
                brought.append((seen.token_ids.tolist(), seen.fidelity))
            history += [turn, result, *([OPENING] if one.user else [])]
    except (ChatEnvError, NotTakenError) as error:
        brought.append(str(error))
    return env, brought


@pytest.mark.parametrize("name", [*CALLING, FORGETS])
def test_rounds_are_the_same_with_all_that_was_learnt_and_with_nothing(name: str) -> None:
    @settings(max_examples=60)
    @given(rounds)
    def holds(said: list[Round]) -> None:
        assert played(name, said, learning=True)[1] == played(name, said, learning=False)[1]

    holds()


@pytest.mark.parametrize("name", ["rounds", FORGETS])
def test_rounds_met_for_the_third_time_are_not_rendered(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine_of.cache_clear()
    written: list[Any] = []
    write = TailWriter.write

    def noted(writer: TailWriter, *arguments: Any) -> WrittenTail:
        written.append(arguments)
        return write(writer, *arguments)

    monkeypatch.setattr(TailWriter, "write", noted)
    for city in ("Bern", "Oslo", "Rome"):
        written.clear()
        played(
            name, [Round(f"{city} {number}", result=f"Sunny all day {number}") for number in range(4)], learning=True
        )
    assert not written


@pytest.mark.parametrize("name", ["rounds", AS_TEXT])
@pytest.mark.parametrize("tight", [False, True])
def test_a_call_that_the_template_writes_otherwise_is_told_from_one_that_it_does_not(name: str, tight: bool) -> None:
    engine_of.cache_clear()
    for _ in range(3):
        played(name, [Round(tight=tight)], learning=True)
    (_, reports), *_ = played(name, [Round("Oslo", tight=not tight)], learning=True)[1]
    assert [report.kind for report in reports] == ([] if tight else [FidelityKind.HISTORY_REWRITTEN])


def test_a_round_before_which_a_rewrite_was_pending_is_no_recording_of_one_before_which_none_was() -> None:
    engine_of.cache_clear()
    for number in range(3):
        played(FORGETS, [Round(result=f"Sunny {number}")] * 2, learning=True)
    *_, (_, reports) = played(FORGETS, [Round(), Round(user=True)], learning=True)[1]
    assert [report.message_index for report in reports] == [3, 1]


def test_a_result_that_answers_no_call_is_reported_although_one_that_does_was_learnt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine_of.cache_clear()
    played("rounds", [Round()] * 3, learning=True)
    (_, reports), *_ = played("rounds", [Round(answers=False)], learning=True)[1]
    assert [report.kind for report in reports] == [FidelityKind.TOOL_RESULT_UNMATCHED]
    monkeypatch.setattr(TailWriter, "unmatched", lambda *_: [])
    (_, reports), *_ = played("rounds", [Round(answers=False)], learning=True)[1]
    assert not reports
