"""A step whose answer is lost on the way is answered again: through a proxy that cuts the line at the worst moment."""

from __future__ import annotations

import contextlib
from typing import Any

import grpc
import pytest

from chatenv_client import ChatEnv, StepResult, UnavailableError
from tests.contract.conftest import Sampler
from tests.contract.cutting_proxy import CuttingProxy

HELLO = {"role": "user", "content": "Hello!"}


def answer_to(client: ChatEnv, action: Any) -> StepResult:
    """Asks until it is answered: a line that was cut may take a moment to be seen as cut."""
    while True:
        with contextlib.suppress(UnavailableError):
            return client.step(action)


def test_the_client_asks_again_by_itself_and_the_step_applies_once(
    env: ChatEnv, proxy: CuttingProxy, sample: Sampler
) -> None:
    with ChatEnv(proxy.address) as unlucky:
        episode_id = unlucky.reset(messages=[HELLO]).observation.episode_id
        script: list[Any] = [sample(), HELLO, sample()]
        for index, action in enumerate(script):
            env.resume(episode_id)
            proxy.cut_when(lambda count=index + 1: env.state().step_count == count)  # type: ignore[misc]
            result = unlucky.step(action)
            assert result.observation.step_count == index + 1
            assert result.observation.token_ids.tolist() == env.state().token_ids.tolist()
        assert proxy.cuts == 3


def test_who_asks_again_by_hand_is_answered_from_the_record(env: ChatEnv, proxy: CuttingProxy, sample: Sampler) -> None:
    action = sample()
    with grpc.insecure_channel(proxy.address, [("grpc.enable_retries", 0)]) as channel:
        unlucky = ChatEnv(channel)
        episode_id = unlucky.reset(messages=[HELLO]).observation.episode_id
        env.resume(episode_id)
        proxy.cut_when(lambda: env.state().step_count == 1)
        with pytest.raises(UnavailableError):
            unlucky.step(action)
        assert answer_to(unlucky, action).observation.step_count == 1
        assert answer_to(unlucky, HELLO).observation.token_ids.tolist() == env.state().token_ids.tolist()


def test_a_reward_and_a_failure_whose_answers_are_lost_are_set_once(
    env: ChatEnv, proxy: CuttingProxy, sample: Sampler
) -> None:
    with ChatEnv(proxy.address) as unlucky:
        episode_id = unlucky.reset(messages=[HELLO]).observation.episode_id
        unlucky.step(sample())
        env.resume(episode_id)
        proxy.cut_when(lambda: env.trajectory().reward == 0.5)
        assert unlucky.set_reward({"judge": 0.5}, step=1).reward == 0.5
        proxy.cut_when(lambda: env.trajectory().failure is not None)
        assert unlucky.fail("the engine died").reason == "the engine died"
        assert proxy.cuts == 2
        assert env.trajectory().turns[1].rewards == {"judge": 0.5}
