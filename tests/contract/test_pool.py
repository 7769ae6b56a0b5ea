"""EpisodePool: episodes that share a pool are the same episodes as one by one, however many there are."""

from __future__ import annotations

import asyncio
import itertools
import random
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from chatenv_client import (
    ChatAction,
    ChatEnv,
    ChatObservation,
    DeadlineError,
    EpisodeLimitError,
    EpisodePool,
    FailureKind,
    InvalidRequestError,
    ServerInfo,
    Trajectory,
    UnavailableError,
    channel_options,
)
from tests.contract.conftest import Serving

HELLO = {"role": "user", "content": "Hello!"}
AGAIN = {"role": "user", "content": "And again?"}
CLOCK = 1_700_000_000.0
BAD = ChatAction(tokens=[-1])


@pytest.fixture
def policy(info: ServerInfo) -> Callable[[ChatObservation], Any]:
    """Says what follows from the seed and the step alone, after a while of its own."""
    special = {token.id for token in info.special_tokens}
    stop = next(token.id for token in info.special_tokens if token.stops)

    async def policy(observation: ChatObservation) -> Any:
        rng = random.Random(f"{observation.seed} {observation.step_count}")
        await asyncio.sleep(rng.random() / 100)
        if observation.step_count > (observation.seed or 0) % 5:
            return None
        if observation.messages[-1]["role"] == "assistant":
            return AGAIN
        ids = [token for token in (rng.randrange(info.vocabulary_size) for _ in range(9)) if token not in special]
        return ChatAction(tokens=[*ids, stop], logprobs=[-rng.random() for _ in [*ids, stop]])

    return policy


async def played(pool: EpisodePool, *arguments: Any, **options: Any) -> list[Trajectory]:
    return [trajectory async for trajectory in pool.run(*arguments, **options)]


def live(target: str) -> list[str]:
    """Episodes that are live on a server."""
    with ChatEnv(target) as env:
        return [episode.episode_id for episode in env.episodes()]


def test_episodes_of_a_pool_are_the_same_as_one_by_one(target: str, policy: Callable[..., Any]) -> None:
    rows: list[Any] = [{"messages": [HELLO], "seed": seed, "clock": CLOCK} for seed in range(60)]

    async def together() -> list[Trajectory]:
        async with EpisodePool(target) as pool:
            return await played(pool, rows, policy, in_flight=40)

    ended = sorted(asyncio.run(together()), key=lambda trajectory: trajectory.seed or 0)
    assert len(ended) == len(rows)
    with ChatEnv(target) as alone:
        for row, trajectory in zip(rows, ended, strict=True):
            observation = alone.reset(**row).observation
            while (action := asyncio.run(policy(observation))) is not None:
                observation = alone.step(action).observation
            expected = alone.trajectory()
            assert trajectory.tokens.tolist() == expected.tokens.tolist()
            assert trajectory.loss_mask.tolist() == expected.loss_mask.tolist()
            assert trajectory.logprobs.tobytes() == expected.logprobs.tobytes()
            assert trajectory.turns == expected.turns


def test_a_thousand_rollouts_whose_policy_takes_its_time_all_come_to_their_end(serving: Serving) -> None:
    async def slow(_: ChatObservation) -> Any:
        await asyncio.sleep(0.5)
        return ChatAction(tokens=[*b"Yes", 257])

    async def roll_out(target: str) -> Counter[str | None]:
        async with EpisodePool(target) as pool:
            rows: Iterator[Any] = ({"messages": [HELLO], "max_turns": 1} for _ in range(128))
            ended = await played(pool, rows, slow, group=8, in_flight=1024)
            assert all(trajectory.truncated for trajectory in ended)
            return Counter(trajectory.group for trajectory in ended)

    with serving() as target:
        groups = asyncio.run(roll_out(target))
        assert len(groups) == 128
        assert set(groups.values()) == {8}
        assert live(target) == []


class Counts(grpc.aio.UnaryUnaryClientInterceptor):
    """Counts calls by method."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()

    async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        self.calls[str(details.method).rpartition("/")[2].rstrip("'")] += 1
        return await continuation(details, request)


def test_what_is_ready_goes_along_in_one_call(target: str) -> None:
    counts = Counts()

    async def go() -> None:
        counted = grpc.aio.insecure_channel(target, channel_options(), interceptors=[counts])
        async with counted as channel, EpisodePool(channel) as pool:
            envs = await asyncio.gather(*(pool.reset(messages=[HELLO]) for _ in range(96)))
            counts.calls.clear()
            results = await asyncio.gather(*(env.step(AGAIN) for env in envs))
            assert [result.observation.step_count for result in results] == [1] * 96
            assert counts.calls == {"BatchStep": 3}

    asyncio.run(go())


def test_one_that_fails_spoils_no_other_and_may_go_on(target: str) -> None:
    async def go() -> None:
        async with EpisodePool(target) as pool:
            envs = await asyncio.gather(*(pool.reset(messages=[HELLO]) for _ in range(3)))
            actions: list[Any] = [AGAIN, BAD, AGAIN]
            first, bad, third = await asyncio.gather(*map(_step, envs, actions), return_exceptions=True)
            assert isinstance(bad, InvalidRequestError)
            assert (first.observation.step_count, third.observation.step_count) == (1, 1)  # type: ignore[union-attr]
            assert (await envs[1].step(AGAIN)).observation.step_count == 1

    async def _step(env: Any, action: Any) -> Any:
        return await env.step(action)

    asyncio.run(go())


# Room.


@pytest.mark.parametrize("settings", [{"max_concurrent_calls": 1}, {"max_episodes": 4}, {"max_batch_items": 3}])
def test_a_server_that_is_full_is_waited_for(
    serving: Serving, policy: Callable[..., Any], settings: dict[str, Any]
) -> None:
    async def go(target: str) -> int:
        async with EpisodePool(target) as pool:
            rows: list[Any] = [{"messages": [HELLO], "seed": seed} for seed in range(40)]
            return len(await played(pool, rows, policy, in_flight=20))

    with serving(settings) as target:
        assert asyncio.run(go(target)) == 40
        assert live(target) == []


def test_who_finds_no_room_waits_for_as_long_as_others_get_on(serving: Serving) -> None:
    async def slow(_: ChatObservation) -> None:
        await asyncio.sleep(0.05)

    async def go(target: str) -> int:
        async with EpisodePool(target, patience_s=2.0) as pool:
            return len(await played(pool, [{} for _ in range(160)], slow, in_flight=50))

    with serving({"max_episodes": 2}) as target:
        assert asyncio.run(go(target)) == 160


def test_a_step_that_finds_no_room_for_its_tokens_waits_for_others_to_end(serving: Serving) -> None:
    async def go(target: str) -> None:
        async with EpisodePool(target) as pool:
            long = await pool.reset(messages=[{"role": "user", "content": "x" * 300}])
            env = await pool.reset()
            stepping = asyncio.ensure_future(env.step(ChatAction(tokens=[*b"y" * 300, 257])))
            await asyncio.sleep(0.2)
            assert not stepping.done()
            await long.close()
            assert (await stepping).observation.step_count == 1

    with serving({"max_live_tokens": 600}) as target:
        asyncio.run(asyncio.wait_for(go(target), 20))


def test_but_not_for_ever(serving: Serving) -> None:
    async def go(target: str) -> None:
        async with EpisodePool(target, patience_s=0.1) as pool:
            await pool.reset()
            with pytest.raises(EpisodeLimitError):
                await pool.reset()

    with serving({"max_episodes": 1}) as target:
        asyncio.run(go(target))


def test_who_leaves_a_full_server_waits_no_longer_than_a_farewell_takes(serving: Serving) -> None:
    is_full, goes_on = threading.Event(), threading.Event()

    def wait(observation: ChatObservation) -> ChatObservation:
        if observation.step_count:
            is_full.set()
            assert goes_on.wait(30)
        return observation

    async def say(_: ChatObservation) -> Any:
        return HELLO

    async def go(target: str) -> None:
        async with EpisodePool(target) as pool:
            reading = asyncio.ensure_future(played(pool, [{}, {}], say))
            assert await asyncio.to_thread(is_full.wait, 20)  # a step has taken the one place that there is
            reading.cancel()
            await asyncio.wait([reading])
            await pool.close(timeout_s=0.1)

    with serving({"max_concurrent_calls": 1}, open_transform=lambda: wait) as target:
        asyncio.run(asyncio.wait_for(go(target), 15))
        goes_on.set()


def test_a_server_that_is_started_anew_on_its_store_is_waited_for(serving: Serving, tmp_path: Path) -> None:
    settings = {"store": f"sqlite:///{tmp_path}/episodes.db"}
    began, is_gone = asyncio.Event(), threading.Event()

    async def say(observation: ChatObservation) -> Any:
        if observation.step_count == 1:
            began.set()
            await asyncio.to_thread(is_gone.wait, 20)
        return HELLO

    async def go(target: str) -> list[Trajectory]:
        async with EpisodePool(target) as pool:
            rows: list[Any] = [{"seed": seed, "max_steps": 3} for seed in range(9)]
            playing = asyncio.ensure_future(played(pool, rows, say))
            await began.wait()
            await asyncio.to_thread(first.__exit__, None, None, None)
            is_gone.set()
            await asyncio.sleep(3)  # gRPC itself has given up by then
            assert not playing.done()
            with serving({**settings, "listen": (target,)}):
                return await playing

    first = serving(settings)
    ended = asyncio.run(go(first.__enter__()))
    assert sorted(trajectory.seed or 0 for trajectory in ended) == list(range(9))
    assert [len(trajectory.messages) for trajectory in ended] == [3] * 9


def test_one_that_was_never_there_is_not() -> None:
    async def go() -> None:
        async with EpisodePool("127.0.0.1:1") as pool:
            with pytest.raises(UnavailableError):
                await pool.reset()

    asyncio.run(asyncio.wait_for(go(), 20))


def test_no_more_episodes_are_in_flight_than_may_be(target: str) -> None:
    now, most = 0, 0

    async def count(_: ChatObservation) -> None:
        nonlocal now, most
        now, most = now + 1, max(most, now + 1)
        await asyncio.sleep(0.01)
        now -= 1

    async def go() -> None:
        async with EpisodePool(target) as pool:
            await played(pool, [{} for _ in range(30)], count, in_flight=7)

    asyncio.run(go())
    assert most == 7


def test_a_place_is_taken_again_as_soon_as_its_episode_ends(target: str) -> None:
    async def go() -> None:
        third_began = asyncio.Event()

        async def watch(observation: ChatObservation) -> None:
            if observation.seed == 2:
                third_began.set()

        async with EpisodePool(target) as pool, aclosing(pool.run(_endless(), watch, in_flight=1)) as run:
            assert (await anext(run)).seed == 0
            await third_began.wait()  # although nobody takes what has ended
            assert (await anext(run)).seed == 1

    asyncio.run(asyncio.wait_for(go(), 20))


async def _endless() -> AsyncIterator[Any]:
    for seed in itertools.count():
        yield {"seed": seed}


def test_an_episode_that_waits_holds_up_no_other(serving: Serving) -> None:
    goes_on = threading.Event()

    def wait_where_told(observation: ChatObservation) -> ChatObservation:
        if observation.step_count and observation.seed:
            assert goes_on.wait(20)
        return observation

    async def go(target: str) -> None:
        async with EpisodePool(target) as pool:
            *slow, quick = [await pool.reset(seed=seed) for seed in (1, 2, 3, 0)]
            waiting = []
            for env in slow:  # as many batches as are under way otherwise, and one more
                waiting.append(asyncio.ensure_future(env.step(HELLO)))
                await asyncio.sleep(0.1)
            assert (await quick.step(HELLO)).observation.step_count == 1
            goes_on.set()
            await asyncio.gather(*waiting)

    with serving(open_transform=lambda: wait_where_told) as target:
        asyncio.run(go(target))


# What ends a run.


def test_a_policy_that_raises_ends_the_run_with_its_error(serving: Serving) -> None:
    async def go(target: str) -> None:
        async def raises(observation: ChatObservation) -> None:
            if observation.seed == 5:
                raise ZeroDivisionError
            await asyncio.sleep(30)

        async with EpisodePool(target) as pool:
            with pytest.raises(ZeroDivisionError):
                await played(pool, [{"seed": seed} for seed in range(9)], raises)
            assert await asyncio.to_thread(live, target) == []

    with serving() as target:
        asyncio.run(go(target))


def test_or_ends_its_episode_as_failed_and_never_as_one_that_earned_nothing(target: str) -> None:
    async def go() -> list[Trajectory]:
        async def raises(observation: ChatObservation) -> Any:
            if observation.seed == 1:
                raise ConnectionResetError("the engine is gone")
            return BAD if observation.seed == 2 else None

        async with EpisodePool(target) as pool:
            rows: list[Any] = [{"seed": seed} for seed in range(3)]
            return sorted(await played(pool, rows, raises, errors="fail"), key=lambda each: each.seed or 0)

    good, raised, refused = asyncio.run(go())
    assert good.failure is None
    assert raised.failure == (FailureKind.SAMPLER, "ConnectionResetError: the engine is gone")
    assert refused.failure is not None
    assert refused.failure.kind is FailureKind.OTHER
    assert raised.reward is None


def test_an_error_of_any_text_is_on_record(target: str) -> None:
    async def raises(_: ChatObservation) -> None:
        raise ValueError("half \ud83d of a pair, and \0")

    async def go() -> list[Trajectory]:
        async with EpisodePool(target) as pool:
            return await played(pool, [{}], raises, errors="fail")

    (ended,) = asyncio.run(go())
    assert ended.failure == (FailureKind.SAMPLER, "ValueError: half \\ud83d of a pair, and \0")


@pytest.mark.skipif(sys.version_info < (3, 11), reason="a task cannot tell who was cancelled")
def test_a_policy_whose_request_was_cancelled_has_failed_and_nobody_has_closed_the_pool(target: str) -> None:
    async def is_cancelled(_: ChatObservation) -> None:
        request = asyncio.ensure_future(asyncio.sleep(20))
        request.cancel()
        await request

    async def go() -> list[Trajectory]:
        async with EpisodePool(target) as pool:
            with pytest.raises(RuntimeError, match="the policy or the rows waited for was cancelled"):
                await played(pool, [{}], is_cancelled)
            return await played(pool, [{}, {}], is_cancelled, errors="fail")

    for trajectory in asyncio.run(go()):
        assert trajectory.failure is not None
        assert trajectory.failure.kind is FailureKind.SAMPLER
        assert "was cancelled" in trajectory.failure.reason


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("row", [None, "a text"])
def test_a_row_that_is_no_mapping_is_refused_and_not_passed_over(target: str, row: Any, group: int) -> None:
    async def go() -> None:
        async with EpisodePool(target) as pool:
            with pytest.raises(TypeError, match="a row is a mapping"):
                await played(pool, [row, {}], _endless, group=group)

    asyncio.run(go())


def test_a_policy_cannot_close_the_pool_that_waits_for_it(serving: Serving) -> None:
    async def go(target: str) -> None:
        async with EpisodePool(target) as pool:

            async def closes(_: ChatObservation) -> None:
                await pool.close()

            with pytest.raises(RuntimeError, match="cannot close the pool"):
                await played(pool, [{}] * 3, closes)
            await pool.server_info()

    with serving() as target:
        asyncio.run(go(target))
        assert live(target) == []


@pytest.mark.parametrize("how", ["left", "cancelled", "closed"])
def test_who_stops_leaves_nothing_behind(serving: Serving, how: str) -> None:
    async def forever(observation: ChatObservation) -> Any:
        await asyncio.sleep(0.001)
        return HELLO if observation.seed or observation.step_count == 0 else None

    async def read(pool: EpisodePool) -> None:
        async with aclosing(pool.run(_endless(), forever, in_flight=20)) as run:
            async for _ in run:
                if how == "left":
                    return

    async def go(target: str) -> None:
        async with EpisodePool(target) as pool:
            reading = asyncio.ensure_future(read(pool))
            await asyncio.sleep(0.2)
            if how == "cancelled":
                reading.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await reading
            elif how == "closed":
                await pool.close()
                with pytest.raises(RuntimeError, match="the pool was closed"):
                    await reading
            else:
                await reading
        assert asyncio.all_tasks() == {asyncio.current_task()}

    with serving() as target:
        asyncio.run(go(target))
        assert live(target) == []


def test_a_reset_that_nobody_waits_for_any_more_leaves_no_episode(serving: Serving) -> None:
    async def go(target: str) -> None:
        async with EpisodePool(target) as pool:
            await pool.server_info()
            for rounds in range(12):  # of the loop, so that it is cancelled before, while and after it is answered
                opening = asyncio.ensure_future(pool.reset())
                for _ in range(rounds):
                    await asyncio.sleep(0.001)
                opening.cancel()
                await asyncio.gather(opening, return_exceptions=True)

    with serving() as target:
        asyncio.run(go(target))
        assert live(target) == []


# By hand.


def test_what_reset_gives_is_an_asynchronous_client(target: str) -> None:
    async def go() -> None:
        async with EpisodePool(target) as pool:
            async with await pool.reset(messages=[HELLO]) as env:
                assert env.observation.messages == [HELLO]
                await env.step(AGAIN)
                (fork,) = await env.fork()
                async with fork:
                    assert (await fork.step(AGAIN)).observation.step_count == 2
                assert (await env.trajectory()).messages == (HELLO, AGAIN)
                assert (await env.reset()).observation.step_count == 0
            with pytest.raises(RuntimeError, match="closed"):
                await env.reset()

    asyncio.run(go())


def test_a_client_of_a_pool_goes_on_with_an_episode_of_somebody_elses(target: str) -> None:
    async def go(episode_id: str) -> None:
        async with EpisodePool(target) as pool:
            client = pool.client()
            assert (await client.resume(episode_id)).observation.messages == [HELLO]
            await client.step(AGAIN)

    with ChatEnv(target) as env:
        env.reset(messages=[HELLO], episode_id="of-somebody-else")
        asyncio.run(go("of-somebody-else"))
        assert env.state().step_count == 1


def test_episodes_that_are_open_at_the_end_of_a_pool_are_ended(serving: Serving) -> None:
    async def go(target: str) -> None:
        async with EpisodePool(target) as pool:
            envs = await asyncio.gather(*(pool.reset() for _ in range(5)))
            assert len(await asyncio.to_thread(live, target)) == len(envs)

    with serving() as target:
        asyncio.run(go(target))
        assert live(target) == []


def test_who_waits_for_a_step_when_the_pool_is_closed_is_told(serving: Serving) -> None:
    goes_on = threading.Event()

    def wait(observation: ChatObservation) -> ChatObservation:
        assert observation.step_count == 0 or goes_on.wait(20)
        return observation

    async def go(target: str) -> None:
        async with EpisodePool(target) as pool:
            env = await pool.reset()
            stepping = asyncio.ensure_future(env.step(HELLO))
            await asyncio.sleep(0.1)
            with pytest.raises(DeadlineError):  # the episode is at work
                await pool.close(timeout_s=0.1)
        with pytest.raises(RuntimeError, match="the pool was closed"):
            await stepping
        goes_on.set()

    with serving(open_transform=lambda: wait) as target:
        asyncio.run(asyncio.wait_for(go(target), 20))


@pytest.mark.parametrize("options", [{"group": 0}, {"in_flight": 0}, {"errors": "ignore"}])
def test_what_is_no_run_is_refused(target: str, options: dict[str, Any]) -> None:
    async def go() -> None:
        async with EpisodePool(target) as pool:
            with pytest.raises(ValueError, match=next(iter(options))):
                await played(pool, [], _endless, **options)

    asyncio.run(go())


def test_several_episodes_of_a_row_cannot_have_one_id(target: str) -> None:
    async def go() -> None:
        async with EpisodePool(target) as pool:
            with pytest.raises(ValueError, match="leave out episode_id"):
                await played(pool, [{"episode_id": "mine"}], _endless, group=2)

    asyncio.run(go())
