"""Transforms that keep state: a step that fails leaves it as it was, and a snapshot brings it along."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import pytest

from chatenv_client import ChatObservation
from chatenv_client.errors import TransformError, TransformTimeoutError
from chatenv_server import ChatEnvironment, compose
from chatenv_server.engine import TokenEngine
from chatenv_server.environment.guard import TransformGuard
from tests.environment.conftest import QUESTION, said
from tests.environment.taken_elsewhere import snapshot_bytes


class Counter:
    """Counts its calls, and does what a test wants before it answers."""

    def __init__(self) -> None:
        self.calls: Any = 0

    def __call__(self, observation: ChatObservation) -> ChatObservation:
        self.calls += 1
        self.then()
        observation.reward = float(self.calls)
        return observation

    def then(self) -> None: ...

    def state_dict(self) -> Any:
        return {"calls": self.calls}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.calls = state["calls"]


def env_with(engine: TokenEngine, transform: Any) -> ChatEnvironment:
    env = ChatEnvironment(engine, transform=transform)
    env.reset(messages=[QUESTION], clock=0.0)
    return env


def test_a_step_whose_state_cannot_be_told_is_taken_back(engine: TokenEngine) -> None:
    class Mute(Counter):
        def state_dict(self) -> Any:
            if self.calls == 2:
                raise RuntimeError("no state")
            return super().state_dict()

    env = env_with(engine, Mute())
    env.step(said("Five."))
    before, answers = snapshot_bytes(env), list[ChatObservation]()
    with pytest.raises(TransformError, match="state_dict"):
        env.step(QUESTION, answer=answers.append)
    assert (snapshot_bytes(env), env.step_count, answers) == (before, 1, [])


@pytest.mark.parametrize("state", [{"calls": {1}}, [1, 2], {"calls": float("nan")}, None, {"calls": "x" * 2**20}])
def test_a_state_that_is_no_json_object_is_refused(engine: TokenEngine, state: Any) -> None:
    transform = Counter()
    env = env_with(engine, transform)
    transform.state_dict = lambda: state  # type: ignore[method-assign]
    with pytest.raises(TransformError, match="state_dict"):
        env.step(said("Five."))
    assert env.step_count == 0


def test_what_a_transform_gets_back_is_what_json_has_of_it(engine: TokenEngine) -> None:
    transform = Counter()
    env = env_with(engine, transform)
    transform.state_dict = lambda: {"calls": ({1: 2},)}  # type: ignore[method-assign]
    env.step(said("Five."))
    transform.then = lambda: 1 / 0  # type: ignore[assignment, method-assign]
    with pytest.raises(TransformError):
        env.step(QUESTION)
    assert transform.calls == [{"1": 2}]


def test_a_transform_that_overran_has_its_state_back_before_it_is_called_again(engine: TokenEngine) -> None:
    goes_on = threading.Event()

    class Slow(Counter):
        def then(self) -> None:
            if not goes_on.is_set():
                goes_on.wait(10)
                self.calls = 100

    env = env_with(engine, TransformGuard(Slow(), timeout_s=0.2))
    with pytest.raises(TransformTimeoutError):
        env.step(said("Five."))
    goes_on.set()
    assert env.step(said("Five.")).reward == 1.0


def test_an_episode_that_cannot_be_taken_up_leaves_the_one_before_and_its_state(engine: TokenEngine) -> None:
    class Particular(Counter):
        def load_state_dict(self, state: Mapping[str, Any]) -> None:
            if state["calls"] == 2:
                raise ValueError("not two")
            super().load_state_dict(state)

    source = env_with(engine, Counter())
    for _ in range(2):
        source.step(QUESTION)
    env = env_with(engine, Particular())
    env.step(said("Five."))
    before = snapshot_bytes(env)
    with pytest.raises(TransformError, match="the transform that kept its state") as caught:
        env.restore(source.snapshot())
    assert isinstance(caught.value.__cause__, ValueError)
    assert snapshot_bytes(env) == before
    assert env.step(said("Six.")).reward == 2.0


def test_a_fork_has_a_transform_of_its_own_with_the_state_of_its_step(engine: TokenEngine) -> None:
    env = env_with(engine, Counter())
    for _ in range(3):
        env.step(QUESTION)
    assert env.fork(1).step(QUESTION).reward == 2.0
    assert env.step(QUESTION).reward == 4.0


def test_a_chain_of_transforms_keeps_the_state_of_those_that_keep_some(engine: TokenEngine) -> None:
    def double(observation: ChatObservation) -> ChatObservation:
        observation.reward = 2 * (observation.reward or 0.0)
        return observation

    env = env_with(engine, compose(Counter(), double, Counter(), double))
    for _ in range(3):
        env.step(QUESTION)
    elsewhere = ChatEnvironment(engine, transform=compose(Counter(), double, Counter(), double))
    elsewhere.restore(env.snapshot())
    assert [one.step(QUESTION).reward for one in (env, elsewhere, env.fork(1))] == [8.0, 8.0, 4.0]
    assert env_with(engine, compose(double, double)).snapshot().entries[0].transform_state_json == ""


def test_a_transform_that_cannot_be_copied_cannot_be_forked(engine: TokenEngine) -> None:
    transform = Counter()
    env = env_with(engine, transform)
    transform.lock = threading.Lock()  # type: ignore[attr-defined]
    with pytest.raises(TransformError, match="copy"):
        env.fork()


def test_metadata_that_only_json_tells_apart_is_the_answers_own(engine: TokenEngine) -> None:
    def told(observation: ChatObservation) -> ChatObservation:
        observation.metadata = {"is": True}
        return observation

    env = ChatEnvironment(engine, transform=told)
    env.reset(messages=[QUESTION], metadata={"is": 1})
    env.step(said("Five."))
    assert ChatEnvironment(engine).restore(env.snapshot()).metadata["is"] is True
