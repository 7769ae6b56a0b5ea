"""Transforms under guard: their deadline, and results that cannot be sent."""

from __future__ import annotations

import threading
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from chatenv_client.errors import TransformError, TransformTimeoutError
from chatenv_client.models import ChatObservation
from chatenv_server.engine import TokenEngine
from chatenv_server.environment.environment import ChatEnvironment
from chatenv_server.environment.guard import TransformGuard

HI = {"role": "user", "content": "hi"}


@pytest.fixture
def guarded(engine: TokenEngine) -> Callable[..., ChatEnvironment]:
    """An environment with an episode, whose transform is under guard."""

    def guarded(transform: Any, timeout_s: float = 10.0) -> ChatEnvironment:
        environment = ChatEnvironment(engine, transform=TransformGuard(transform, timeout_s))
        environment.reset()
        return environment

    return guarded


def setting(**values: Any) -> Callable[[ChatObservation], ChatObservation]:
    """A transform that sets attributes."""

    def transform(observation: ChatObservation) -> ChatObservation:
        for name, value in values.items():
            setattr(observation, name, value)
        return observation

    return transform


@pytest.mark.parametrize("timeout_s", [0.0, 10.0])
def test_a_transform_within_its_deadline_has_its_way(guarded: Callable[..., ChatEnvironment], timeout_s: float) -> None:
    observation = guarded(setting(reward=Decimal("0.5"), metadata={"a": [1]}), timeout_s).step(HI)
    assert (observation.reward, observation.metadata) == (0.5, {"a": [1]})
    assert isinstance(observation.reward, float)


@pytest.mark.parametrize(
    "values",
    [
        {"reward": "much"},
        {"reward": [1.0, 2.0]},
        {"metadata": {"a": object()}},
        {"metadata": {"a": float("nan")}},
        {"terminated": "yes"},
    ],
)
def test_what_the_wire_cannot_carry_fails_the_step_and_not_the_answer(
    guarded: Callable[..., ChatEnvironment], values: dict[str, Any]
) -> None:
    environment = guarded(setting(**values))
    with pytest.raises(TransformError):
        environment.step(HI)
    assert environment.step_count == 0


def test_a_result_that_is_no_observation_is_refused(guarded: Callable[..., ChatEnvironment]) -> None:
    with pytest.raises(TransformError, match="NoneType"):
        guarded(lambda _: None).step(HI)


def test_what_a_transform_raises_is_the_cause(guarded: Callable[..., ChatEnvironment]) -> None:
    def transform(_observation: ChatObservation) -> ChatObservation:
        raise TimeoutError("of its own")

    with pytest.raises(TransformError) as refusal:
        guarded(transform).step(HI)
    assert isinstance(refusal.value.__cause__, TimeoutError)
    assert not isinstance(refusal.value, TransformTimeoutError)


def test_a_call_that_overran_takes_the_step_back_and_the_next_waits_for_it(
    guarded: Callable[..., ChatEnvironment],
) -> None:
    let_go, overlaps = threading.Event(), []
    at_work = threading.Lock()

    def transform(observation: ChatObservation) -> ChatObservation:
        overlaps.append(not at_work.acquire(blocking=False))
        let_go.wait(30)
        at_work.release()
        return observation

    environment = guarded(transform, 0.5)
    before = environment.state.token_ids.tolist()
    for _ in range(2):
        with pytest.raises(TransformTimeoutError):
            environment.step(HI)
    assert (environment.step_count, environment.state.token_ids.tolist()) == (0, before)
    assert overlaps == [False]
    let_go.set()
    with at_work:  # the call that overran is over
        pass
    assert environment.step(HI).step_count == 1
    assert overlaps == [False, False]
