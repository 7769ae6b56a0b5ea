"""An episode that was taken elsewhere is the same episode: laws of snapshot, restore and fork, on every tokenizer."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from chatenv_client import ChatAction, ChatEnvError
from chatenv_server import ChatEnvironment
from tests.engine.episodes import Plan
from tests.engine.generated_templates import Traits, loaded, source_of, traits
from tests.engine.subjects import EMBEDDED, Subject
from tests.engine.subjects import subject as load_subject
from tests.engine.test_laws import law
from tests.environment.taken_elsewhere import (
    Counting,
    at_one_time,
    begun,
    episodes,
    observed,
    pieces,
    plain_twin,
    shown,
    snapshot_bytes,
    take,
)


def _begun(subject: Subject, plan: Plan, *, transformed: bool) -> ChatEnvironment:
    env = begun(subject, plan, transformed=transformed)
    assume(env is not None)
    assert env is not None
    return env


def _restored(env: ChatEnvironment, *, transformed: bool = False) -> ChatEnvironment:
    other = ChatEnvironment(env.engine, transform=Counting() if transformed else None)
    other.restore(env.snapshot().SerializeToString())
    return other


def check_forks(subject: Subject, plan: Plan, *, transformed: bool) -> None:
    env = _begun(subject, plan, transformed=transformed)
    past: list[Any] = [(shown(env), snapshot_bytes(env))]
    for step in plan.steps:
        answer = take(env, subject, step)
        if isinstance(answer, str):
            assert snapshot_bytes(env) == past[-1][1], "a refused step left something behind"
        else:
            past.append((shown(env), snapshot_bytes(env)))
    for at_step, (expected, snapshot) in enumerate(past):
        assert snapshot_bytes(env, at_step) == snapshot
        fork = env.fork(at_step)
        assert shown(fork) == expected
        assert snapshot_bytes(fork) == snapshot
        assert fork.state.forked_from == ("e", at_step)


def check_going_on(subject: Subject, plan: Plan, at: int, *, transformed: bool) -> None:
    with at_one_time:
        env = _begun(subject, plan, transformed=transformed)
        for step in plan.steps[:at]:
            take(env, subject, step)
        others = [env.fork(), _restored(env, transformed=transformed)]
        for step in plan.steps[at:]:
            answer = take(env, subject, step)
            for other in others:
                assert take(other, subject, step) == answer
                assert shown(other) == shown(env)
                assert snapshot_bytes(other) == snapshot_bytes(env)


@law(episodes(), st.booleans(), st.booleans())
def test_a_fork_is_what_the_episode_was_after_that_step(
    subject: Subject, plan: Plan, transformed: bool, plain: bool
) -> None:
    check_forks(plain_twin(subject) if plain else subject, plan, transformed=transformed)


@law(episodes(), st.integers(0, 6), st.booleans(), st.booleans())
def test_original_fork_and_restored_go_on_alike(
    subject: Subject, plan: Plan, at: int, transformed: bool, plain: bool
) -> None:
    check_going_on(plain_twin(subject) if plain else subject, plan, at, transformed=transformed)


@given(traits, episodes(), st.integers(0, 6))
@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
def test_so_it_is_on_templates_that_nobody_thought_of(template: Traits, plan: Plan, at: int) -> None:
    try:
        engine, tokenizer = loaded(source_of(template))
    except ValueError:
        assume(False)
    check_going_on(Subject("generated", tokenizer, engine), plan, at, transformed=False)
    check_forks(Subject("generated", tokenizer, engine), plan, transformed=False)


@law(episodes(), st.booleans())
def test_a_restored_episode_gives_the_snapshot_that_it_came_from(
    subject: Subject, plan: Plan, transformed: bool
) -> None:
    env = _begun(subject, plan, transformed=transformed)
    answers = [step for step in (take(env, subject, step) for step in plan.steps) if not isinstance(step, str)]
    snapshot = env.snapshot().SerializeToString(deterministic=True)
    other = ChatEnvironment(subject.engine, transform=Counting() if transformed else None)
    answer = observed(other.restore(snapshot))
    assert other.snapshot().SerializeToString(deterministic=True) == snapshot
    assert not answers or answer == answers[-1]
    assert b"".join(piece.SerializeToString() for piece in pieces(env)) == env.snapshot().SerializeToString()


@given(st.lists(st.sampled_from(["said", "asked", "changed"]), max_size=6), st.sampled_from(["append", "segment"]))
def test_an_episode_whose_model_said_control_tokens_is_restored_after_any_segment(acts: list[str], policy: str) -> None:
    subject = load_subject(EMBEDDED)
    env = ChatEnvironment(subject.engine, history_policy=policy, control_token_policy="allow")
    env.reset(messages=[{"role": "user", "content": "Hi"}], clock=0.0)
    start, end = (subject.tokenizer.convert_tokens_to_ids(token) for token in ("<|im_start|>", "<|im_end|>"))
    for act in ("said", "asked", "changed", "said", "asked", *acts):
        if act == "said":
            env.step(ChatAction(tokens=[start, *b"a", end]))
        else:
            again = env.message_count - 1 if act == "changed" else None
            env.step({"role": "user", "content": f"Question {env.step_count}"}, replace_from=again)
        other = _restored(env)
        assert shown(other) == shown(env)
        assert snapshot_bytes(other) == snapshot_bytes(env)


_short = st.sampled_from(["", " ", "\n", "x", "why", "x x"])
_said = st.tuples(st.just("said"), st.sampled_from(["", "x", " "]), st.booleans())
_written = st.lists(
    st.builds(
        lambda role, text: {"role": role, "content": text}, st.sampled_from(["user", "tool", "assistant"]), _short
    ),
    min_size=1,
    max_size=2,
)
_REPLACED = ("given", [{"role": "user", "content": "why"}], 2)
_given = st.tuples(st.just("given"), _written, st.none() | st.integers(0, 5))


@pytest.mark.parametrize("name", [EMBEDDED, "own_runs_of_white_space", "own_tokens_strip"])
@given(st.lists(_said | _given, min_size=1, max_size=6), st.sampled_from(["append", "segment"]))
@settings(max_examples=60)
@example(
    [("said", "", True), ("said", "", False), ("given", [{"role": "tool", "content": "x"}], None), _REPLACED], "segment"
)
def test_texts_too_short_to_be_found_have_the_same_spans_after_a_reload(
    name: str, acts: list[tuple[str, Any, Any]], policy: str
) -> None:
    subject = load_subject(name)
    end = subject.tokenizer.eos_token_id
    with at_one_time:
        env = ChatEnvironment(subject.engine, history_policy=policy, control_token_policy="allow")
        env.reset(messages=[{"role": "user", "content": "Hi"}], clock=0.0)
        for kind, what, how in acts:
            other, count = _restored(env), env.message_count
            for each in (env, other):
                with suppress(ChatEnvError):
                    if kind == "said":
                        tokens = subject.tokenizer.encode(what, add_special_tokens=False)
                        each.step(ChatAction(tokens=[*tokens, end] if how else tokens, stop_reason="length"))
                    else:
                        each.step(what, replace_from=None if how is None else min(how, count))
            assert shown(other) == shown(env)


@pytest.mark.parametrize("messages", [[], [{"role": "system", "content": "Own."}, {"role": "user", "content": "Hi"}]])
def test_an_opening_is_taken_up_with_the_system_prompt_that_it_has(messages: list[Any]) -> None:
    env = ChatEnvironment(load_subject(EMBEDDED).engine, system_prompt="Default.")
    env.reset(messages=messages, clock=0.0)
    assert shown(_restored(env)) == shown(env)
