"""Transforms under guard: their deadline, and results that cannot be sent."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from chatenv_client.errors import ChatEnvError, TransformError, TransformTimeoutError
from chatenv_client.models import ChatObservation, Failure, FailureKind
from chatenv_client.models.messages import EMPTY_CONVERSATION
from chatenv_client.tokens import EMPTY_SNAPSHOT
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


class Unreadable(Mapping[str, Any]):
    """Raises whatever is asked of it, as a tensor of two numbers does that is to be a float."""

    def _fail(self, *_: object) -> Any:
        raise SystemExit(3)

    __getitem__ = __len__ = __iter__ = __float__ = _fail


TWICE_ITSELF: dict[str, Any] = {}
TWICE_ITSELF["a"] = TWICE_ITSELF["b"] = TWICE_ITSELF


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
        {"metadata": {"a": "\ud800"}},
        {"metadata": {"\udc00": 1}},
        {"metadata": TWICE_ITSELF},
        {"metadata": Unreadable()},
        {"metadata": [1]},
        {"metadata": {"a": "x" * 2**20}},
        {"reward": float("nan")},
        {"reward": float("inf")},
        {"reward": "1.0"},
        {"reward": 10**400},
        {"reward": Unreadable()},
        {"terminated": "yes"},
        {"truncated": 1},
    ],
)
def test_what_the_wire_cannot_carry_fails_the_step_and_not_the_answer(
    guarded: Callable[..., ChatEnvironment], values: dict[str, Any]
) -> None:
    environment = guarded(setting(**values))
    with pytest.raises(TransformError):
        environment.step(HI)
    assert environment.step_count == 0


@pytest.mark.parametrize("anew", [False, True], ids=["the one it was given", "another"])
def test_of_what_a_transform_returns_only_the_outcome_counts(
    guarded: Callable[..., ChatEnvironment], anew: bool
) -> None:
    def meddles(observation: ChatObservation) -> ChatObservation:
        outcome: dict[str, Any] = {"reward": np.float32(0.5), "truncated": np.bool_(True), "metadata": {"a": 1}}
        returned = ChatObservation() if anew else observation
        for name, value in (WRONG | outcome).items():
            setattr(returned, name, value)
        return returned

    plain = guarded(lambda observation: observation).step(HI)
    observation = guarded(meddles).step(HI)
    assert (observation.reward, observation.done, observation.metadata) == (0.5, True, {"a": 1})
    assert [type(observation.reward), type(observation.truncated)] == [float, bool]
    assert observation.episode_id != WRONG["episode_id"]
    kept = [name for name in WRONG if name != "episode_id"]
    assert [shown(observation, name) for name in kept] == [shown(plain, name) for name in kept]
    assert observation.messages == [HI]


WRONG: dict[str, Any] = {
    "episode_id": "another",
    "step_count": 7,
    "stream": EMPTY_SNAPSHOT,
    "conversation": EMPTY_CONVERSATION,
    "generation_prompt_length": 9,
    "fidelity": ("not exact",),
    "prompt_fingerprint": "f" * 32,
    "seed": 3,
    "held_tokens": 100,
    "held_messages": 100,
    "segment": 100,
    "failure": Failure(FailureKind.OTHER, "no reason"),
    "turns_left": 100,
    "tokens_left": 100,
    "turn_open": True,
}
"""All that a transform could set and may not."""


def shown(observation: ChatObservation, name: str) -> Any:
    values = {"stream": observation.token_ids.tolist(), "conversation": observation.messages}
    return values.get(name, getattr(observation, name))


def test_a_transform_may_set_five_fields_and_these_are_the_others() -> None:
    names = {field.name for field in dataclasses.fields(ChatObservation)}
    assert names - WRONG.keys() == {"reward", "rewards", "terminated", "truncated", "metadata"}


@pytest.mark.parametrize("timeout_s", [0.0, 10.0])
@pytest.mark.parametrize("error", [SystemExit(3), GeneratorExit(), ChatEnvError("x", code="nonsense", reason="?")])
def test_whatever_a_transform_raises_is_a_transform_error(
    guarded: Callable[..., ChatEnvironment], timeout_s: float, error: BaseException
) -> None:
    def raises(_observation: ChatObservation) -> ChatObservation:
        raise error

    environment = guarded(raises, timeout_s)
    with pytest.raises(TransformError) as refusal:
        environment.step(HI)
    assert (type(refusal.value), refusal.value.code, refusal.value.__cause__) == (TransformError, "INTERNAL", error)
    assert environment.step_count == 0


def test_ctrl_c_is_the_users_and_not_the_transforms(guarded: Callable[..., ChatEnvironment]) -> None:
    def interrupted(_observation: ChatObservation) -> ChatObservation:
        raise KeyboardInterrupt

    environment = guarded(interrupted, 0.0)
    with pytest.raises(KeyboardInterrupt):
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
