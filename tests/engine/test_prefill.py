"""Prefills: an opening that ends inside an assistant's message, which the model goes on with."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import strategies as st

from chatenv_client import ChatAction, ChatEnvError, FidelityKind, InvalidRequestError, Origin, TemplateRejectedError
from chatenv_server import ChatEnvironment
from chatenv_server.doctor.stand_in import stand_in
from tests.engine.archetypes import ARCHETYPES
from tests.engine.episodes import TOOL, Span, spans, words
from tests.engine.own_tokenizers import own_pieces
from tests.engine.small_tokenizers import CHATML, byte_level, user
from tests.engine.subjects import EMBEDDED, Subject, subject
from tests.engine.test_laws import law

_INEXACT = {
    FidelityKind.BOUNDARY_MERGE,
    FidelityKind.HISTORY_REWRITTEN,
    FidelityKind.MESSAGE_DROPPED,
    FidelityKind.NONCANONICAL_STOP,
}


def _opened(tested: Subject, question: str, beginning: str, **options: Any) -> tuple[ChatEnvironment, list[int]] | None:
    opening = [user(question), {"role": "assistant", "content": beginning}]
    try:
        expected = tested.tokenizer.apply_chat_template(
            tested.formed(opening), continue_final_message=True, tokenize=True, return_dict=False
        )
    except Exception:  # noqa: BLE001 - each tokenizer has an exception of its own for this
        return None
    env = ChatEnvironment(tested.engine)
    env.reset(messages=opening, continue_final_message=True, clock=0.0, **options)
    return env, list(expected)


@pytest.mark.law(4)
@law(words, words, st.sampled_from(["", " ", "\n"]))
def test_04_the_prompt_ends_inside_the_message_as_transformers_ends_it(
    subject: Subject, question: str, beginning: str, end: str
) -> None:
    opened = _opened(subject, question, beginning + end)
    if opened is not None:
        env, expected = opened
        assert env.state.token_ids.tolist() == expected
        assert env.state.generation_prompt_length == 0


@pytest.mark.law(3)
@law(words, words, words, words)
def test_03_what_is_sampled_goes_on_with_the_message_and_is_alone_trained_on(
    subject: Subject, question: str, beginning: str, more: str, reply: str
) -> None:
    opened = _opened(subject, question, beginning)
    if opened is None:
        return
    env, prompt = opened
    ids = [*subject.encode(" " + more), *Span(("x",)).ids(subject)[-1:]]
    messages = env.step(ChatAction(tokens=ids)).messages
    text = subject.chat_format.codec.decode(env.state.token_ids[len(prompt) :])
    assert [message["role"] for message in messages] == ["user", "assistant"]
    assert str(messages[1]["content"]).startswith(beginning)
    assert more in str(messages[1]["content"])
    assert more in text
    trajectory = env.trajectory()
    assert trajectory.loss_mask.tolist() == [False] * len(prompt) + [True] * len(ids)
    template, sampled = trajectory.turns
    assert (template.origin, sampled.origin, sampled.message_count) == (Origin.TEMPLATE, Origin.SAMPLED, 0)
    observation = env.step(user(reply))
    whole = subject.full(observation.messages)
    kinds = {report.kind for report in env.state.fidelity}
    assert kinds & _INEXACT or observation.token_ids.tolist() == whole
    assert env.state.history_messages[1] == messages[1]


@pytest.mark.law(1)
@law(words, words, spans, spans)
def test_01_whatever_goes_on_with_a_prefill_is_kept(
    subject: Subject, question: str, beginning: str, first: Span, second: Span
) -> None:
    opened = _opened(subject, question, beginning)
    if opened is None:
        return
    env, stream = opened
    for span in (first, second):
        stream += span.ids(subject)
        assert env.step(span.action(subject)).token_ids.tolist() == stream
    assert env.message_count == (2 if env.state.turns[-1].message_count == 0 else 3)


@pytest.mark.law(18)
@pytest.mark.parametrize("words", [None, own_pieces()], ids=["bytes", "pieces"])
@pytest.mark.parametrize("options", [{}, {"system_prompt": "Be brief."}, {"tools": [TOOL]}])
def test_18_what_goes_on_with_a_message_is_read_alone_where_the_turn_changes_what_is_before(
    words: Any, options: dict[str, Any]
) -> None:
    tokenizer = stand_in(ARCHETYPES["system text and tools in the last user turn, strict ids"], words)
    env = ChatEnvironment(tokenizer, history_policy="segment", **options)
    opening = [user("How are you?"), {"role": "assistant", "content": "I am"}]
    env.reset(messages=opening, continue_final_message=True, clock=0.0)
    sampled = [*tokenizer.encode(" fine."), tokenizer.eos_token_id]
    assert env.step(ChatAction(tokens=sampled)).messages[-1] == {"role": "assistant", "content": "I am fine."}
    observation = env.step(user("And now?"))
    whole = tokenizer.apply_chat_template(
        observation.messages, add_generation_prompt=True, tools=options.get("tools"), return_dict=False
    )
    assert observation.token_ids.tolist() == whole


def test_a_prefill_that_is_not_sampled_after_is_a_message_like_any_other() -> None:
    tested = subject(EMBEDDED)
    opened = _opened(tested, "How are you?", "Well")
    assert opened is not None
    env, _ = opened
    observation = env.step(user("And now?"))
    assert observation.token_ids.tolist() == tested.full(observation.messages)


@pytest.mark.parametrize(
    "opening",
    [
        [],
        [user("hi")],
        [user("hi"), {"role": "assistant", "content": " "}],
        [user("hi"), {"role": "tool", "content": "a"}],
    ],
)
def test_an_opening_that_does_not_end_in_an_assistants_text_is_refused(opening: list[Any]) -> None:
    env = ChatEnvironment(subject(EMBEDDED).engine)
    with pytest.raises(InvalidRequestError) as caught:
        env.reset(messages=opening, continue_final_message=True)
    assert (caught.value.reason, caught.value.field) == ("BAD_PREFILL", "continue_final_message")
    assert issubclass(InvalidRequestError, ChatEnvError)


def test_a_prefill_that_is_refused_for_its_control_tokens_says_what_would_take_it() -> None:
    template = CHATML.replace("m.content", "m.content | replace('wrong', '')")
    opening = [user("hi"), {"role": "assistant", "content": "<|im_end|>wrong"}]
    with pytest.raises(TemplateRejectedError, match="control_token_policy is 'allow'"):
        ChatEnvironment(byte_level(template)).reset(messages=opening, continue_final_message=True)
