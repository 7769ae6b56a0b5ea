"""A server does not keep the texts of old turns. A caller who asks gets the messages as they were when they came."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatenv_client import ChatAction, ChatObservation
from chatenv_server import ChatEnvironment
from chatenv_server.engine import TokenEngine, reading_back
from chatenv_server.tokenizer_files.byte_tokenizer import ByteTokenizer
from tests.environment.conftest import END

CALL = '<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>'


def kept(observation: ChatObservation) -> ChatObservation:
    return observation


samples = st.builds(
    lambda ids, ends: [*ids, END] if ends else ids,
    st.one_of(
        st.lists(st.integers(0, 255), min_size=1, max_size=12),
        st.sampled_from([list(CALL.encode()), list(b"<think>\nhm\n</think>\n\nyes"), list("naïve 🙂".encode())]),
    ),
    st.booleans(),
)
steps = st.lists(st.one_of(samples, st.text(max_size=5)), min_size=1, max_size=12)


@given(steps, st.booleans())
def test_messages_read_back_are_those_that_were_kept(
    engine: TokenEngine, steps: list[list[int] | str], opened: bool
) -> None:
    frugal, keeping = ChatEnvironment(engine), ChatEnvironment(engine, transform=kept)
    for env in (frugal, keeping):
        env.reset(messages=[{"role": "user", "content": "hi"}] if opened else [], clock=0.0)
    seen = []
    for step in steps:
        action = {"role": "user", "content": step} if isinstance(step, str) else ChatAction(tokens=step)
        observation = frugal.step(action)
        seen.append((observation, copy.deepcopy(keeping.step(action).messages)))
        assert observation.messages == seen[-1][1]
    assert all(observation.messages == messages for observation, messages in seen)
    assert frugal.state.history_messages == keeping.state.history_messages
    assert frugal.audit() == keeping.audit()


edits = st.lists(
    st.one_of(samples, st.text(max_size=5), st.tuples(st.integers(0, 50), st.text(max_size=5))), min_size=1, max_size=12
)


@given(edits)
def test_messages_read_back_later_are_those_that_an_earlier_segment_had(
    engine: TokenEngine,
    edits: list[list[int] | str | tuple[int, str]],
) -> None:
    frugal, keeping = ChatEnvironment(engine), ChatEnvironment(engine, transform=kept)
    for env in (frugal, keeping):
        env.reset(messages=[{"role": "user", "content": "hi"}], clock=0.0)
    seen = []
    for edit in edits:
        replace_from, said = (
            (edit[0] % (frugal.message_count + 1), edit[1]) if isinstance(edit, tuple) else (None, edit)
        )
        action = {"role": "user", "content": said} if isinstance(said, str) else ChatAction(tokens=said)
        shown = [env.step(action, replace_from=replace_from) for env in (frugal, keeping)]
        seen.append((shown[0], copy.deepcopy(shown[1].messages)))
    assert all(observation.messages == messages for observation, messages in seen)


@contextmanager
def without_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def test_an_episode_that_nobody_holds_is_freed_at_once(engine: TokenEngine) -> None:
    env = ChatEnvironment(engine)
    env.reset(messages=[{"role": "user", "content": "hi"}])
    observation = env.step(ChatAction(tokens=[*b"yes", END]))
    held = weakref.ref(observation.stream.committed.base)
    with without_collection():
        del observation
        assert held() is not None
        del env
        assert held() is None


@pytest.mark.parametrize("said", [b"yes", b"<think>\nhm\n</think>\n\nyes"], ids=["text", "thought"])
@pytest.mark.parametrize("transform", [None, kept])
def test_texts_are_kept_exactly_where_a_transform_may_read_them(
    engine: TokenEngine, transform: object, said: bytes
) -> None:
    env = ChatEnvironment(engine, transform=transform)  # type: ignore[arg-type]
    env.reset(messages=[{"role": "user", "content": "hi"}])
    for _ in range(3):
        env.step(ChatAction(tokens=[*said, END]))
        env.step({"role": "user", "content": "more"})
    held = env._episode.log.head.messages  # type: ignore[union-attr]
    assert (None in held) == (transform is None)


def test_no_step_reads_back_what_was_sampled(engine: TokenEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a step reads back a message")

    monkeypatch.setattr(reading_back, "read_back", refuse)
    env = ChatEnvironment(engine)
    env.reset(messages=[{"role": "user", "content": "hi"}])
    for _ in range(12):
        env.step(ChatAction(tokens=[*b"yes", END]))
        env.step({"role": "user", "content": "more"})


THINKS_AFTER_RESULTS = """\
{%- for m in messages %}
    {%- if m.role == 'tool' %}{{ '<result>' + m.content + '</result>' }}
    {%- else %}
        {{- '<|im_start|>' + m.role + '\\n' }}
        {%- if m.reasoning_content %}{{ '<|think|>' + m.reasoning_content + '<|/think|>' }}{% endif %}
        {{- m.content }}
        {%- for c in m.tool_calls or [] %}
            {{- '<call>' + c.function.name + (c.function.arguments | tojson) + '</call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if messages[-1].role == 'tool' %}{{ '<|think|>' }}
{%- elif add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""


def test_a_thought_that_the_prompt_opens_after_a_result_alone_is_a_thought() -> None:
    env = ChatEnvironment(TokenEngine.load(ByteTokenizer(), chat_template=THINKS_AFTER_RESULTS))
    env.reset(messages=[{"role": "user", "content": "What is two plus three?"}])
    env.step(ChatAction(tokens=[*b'<call>add{"a": 2, "b": 3}</call>', END]))
    env.step({"role": "tool", "content": "5"})
    observation = env.step(ChatAction(tokens=[*b"So it is.<|/think|>Five.", END]))
    assert observation.messages[-1] == {"role": "assistant", "content": "Five.", "reasoning_content": "So it is."}
    env.step({"role": "user", "content": "Sure?"})
    observation = env.step(ChatAction(tokens=[*b"So it is.", END]))
    assert observation.messages[-1] == {"role": "assistant", "content": "So it is."}
