"""An episode from its reset to its trajectory."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from chatenv_client import (
    AsyncChatEnv,
    ChatAction,
    ChatEnv,
    EpisodePool,
    FailureKind,
    InvalidRequestError,
    ResetOptions,
    Trajectory,
)
from chatenv_client.tokens import Int32Array
from chatenv_client.trainers.playing import play, play_async, play_in_pool, play_side_by_side
from chatenv_server import Settings, serve
from tests.trainers.tasks import said

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "trainers.md"
WAYS = ("alone", "asyncio", "in a pool", "side by side")


def played(way: str, address: str, turns: Iterable[ChatAction | None], **options: Any) -> Trajectory:
    """An episode in which the model says these turns one after the other."""
    left = iter(turns)
    made: ResetOptions = {**options}  # type: ignore[typeddict-item]

    def sample(_: Int32Array) -> ChatAction | None:
        return next(left)

    async def sample_async(prompt: Int32Array) -> ChatAction | None:
        return sample(prompt)

    async def play_it() -> Trajectory:
        if way == "in a pool":
            async with EpisodePool(address) as pool:
                return await play_in_pool(pool, sample_async, **options)
        async with AsyncChatEnv(address) as env:
            return await play_async(env, sample_async, **options)

    if way in ("asyncio", "in a pool"):
        return asyncio.run(play_it())
    with ChatEnv(address) as env:
        if way == "alone":
            return play(env, sample, **options)
        (trajectory,) = play_side_by_side([env], lambda prompts: [sample(prompt) for prompt in prompts], [made])
        return trajectory


@pytest.mark.parametrize("way", WAYS)
def test_an_episode_is_played_to_its_end(address: str, way: str) -> None:
    trajectory = played(way, address, [said("ab"), said("cde")], seed=3)
    assert trajectory.terminated
    assert trajectory.reward == 5.0
    assert bytes(trajectory.tokens[trajectory.loss_mask].tolist()[:2]) == b"ab"
    assert trajectory.loss_mask.sum() == len("ab") + len("cde") + 2


@pytest.mark.parametrize("way", WAYS)
def test_an_aborted_turn_goes_on(address: str, way: str) -> None:
    turns = [ChatAction(tokens=[*b"ab"], stop_reason="abort"), said("cd")]
    assert played(way, address, turns, task_args={"turns": 1}).reward == 4.0


@pytest.mark.parametrize("way", WAYS)
def test_a_sampler_may_leave_an_episode_before_its_end(address: str, way: str) -> None:
    trajectory = played(way, address, [said("ab"), None], task_args={"turns": 3})
    assert not trajectory.terminated
    assert trajectory.failure is None
    assert trajectory.reward == 2.0


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("breaks_at", [-1, 0, 1])
def test_what_breaks_is_the_failure_of_the_episode_and_no_reward(address: str, way: str, breaks_at: int) -> None:
    trajectory = played(way, address, [said("ab"), said("cd")], task_args={"breaks_at": breaks_at})
    assert trajectory.failure is not None
    assert trajectory.failure.kind is FailureKind.TASK
    assert trajectory.reward is None
    assert all(row.reward is None for row in trajectory.samples())
    assert len(trajectory.samples()) == (breaks_at == 1)


@pytest.mark.parametrize("way", WAYS)
def test_an_episode_that_is_gone_is_a_failure(address: str, way: str) -> None:
    name = f"gone {way}".replace(" ", "-")

    def going() -> Iterator[ChatAction]:
        yield said("ab")
        other = ChatEnv(address)
        other.reset(episode_id=name)
        other.close()
        yield said("cd")

    trajectory = played(way, address, going(), episode_id=name)
    assert trajectory.failure is not None
    assert "the episode was closed" in trajectory.failure.reason
    assert trajectory.samples() == []


def test_an_episode_that_cannot_be_opened_does_not_end_the_one_before(address: str) -> None:
    with ChatEnv(address) as env:
        before = env.reset().observation.episode_id
        assert play(env, lambda _: said("ab"), task_args={"breaks_at": -1}).failure is not None
        assert env.trajectory().episode_id == before
        assert env.trajectory().failure is None


@pytest.mark.parametrize("way", WAYS)
def test_a_mistake_of_the_caller_is_raised(address: str, way: str) -> None:
    with pytest.raises(InvalidRequestError):
        played(way, address, [], row=7)


@pytest.mark.parametrize("way", WAYS)
def test_what_the_sampler_raises_is_raised(address: str, way: str) -> None:
    def stopping() -> Iterator[ChatAction]:
        yield said("ab")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        played(way, address, stopping())


def test_a_turn_that_nobody_answers_is_the_last_one() -> None:
    with serve(Settings(listen=("127.0.0.1:0",))) as server:
        for way in WAYS:
            trajectory = played(way, server.target, [said("4")], messages=[{"role": "user", "content": "2 + 2?"}])
            assert trajectory.loss_mask.sum() == 2
            assert trajectory.reward is None


def test_side_by_side_one_that_breaks_spoils_no_other(address: str) -> None:
    options: list[Any] = [
        {"task_args": {"turns": n, "breaks_at": at}} for n, at in ((1, None), (3, 1), (2, -1), (3, None))
    ]
    envs = [ChatEnv(address) for _ in options]
    rounds = []

    def sample(prompts: Sequence[Int32Array]) -> list[ChatAction]:
        rounds.append(len(prompts))
        return [said("a" * (1 + index)) for index in range(len(prompts))]

    trajectories = play_side_by_side(envs, sample, options)
    for env in envs:
        env.close()
    assert rounds == [3, 2, 1]
    assert [trajectory.failure is None for trajectory in trajectories] == [True, False, False, True]
    assert [trajectory.reward for trajectory in trajectories] == [1.0, None, None, 3.0 + 2.0 + 1.0]


def test_the_page_of_trainers_plays_an_episode_as_printed(address: str) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(block.replace("localhost:50051", address), PAGE.name, "exec"), names)
    assert names["trajectory"].loss_mask.sum() == 4
