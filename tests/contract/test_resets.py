"""A reset or an import that is refused changes nothing: the episode before goes on."""

from __future__ import annotations

import asyncio
import copy
import pickle
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest

from chatenv_client import (
    AsyncChatEnv,
    ChatAction,
    ChatEnv,
    ChatEnvError,
    EpisodeClosedError,
    EpisodeLimitError,
    EpisodeSnapshot,
    VectorChatEnv,
)

Serving = Callable[..., AbstractContextManager[str]]
HELLO: Any = {"role": "user", "content": "Hello!"}


class Blocking:
    """Calls a client as if each were awaited."""

    def __init__(self, env: ChatEnv) -> None:
        self.env = env

    def __getattr__(self, name: str) -> Any:
        async def call(*values: Any, **keywords: Any) -> Any:
            return getattr(self.env, name)(*values, **keywords)

        return call


@pytest.fixture(params=["blocking", "async"])
def drive(request: pytest.FixtureRequest, target: str) -> Callable[..., None]:
    """Drives a client of one kind."""

    def drive(work: Any, at: str = target) -> None:
        async def driven() -> None:
            if request.param == "async":
                async with AsyncChatEnv(at) as env:
                    await work(env)
            else:
                with ChatEnv(at) as blocking:
                    await work(Blocking(blocking))

        asyncio.run(driven())

    return drive


REFUSED: Any = [{"max_steps": 0}, {"episode_id": "no id"}, {"messages": [{"role": "user"}]}, {"task": "nobody"}]


@pytest.mark.parametrize("wrong", REFUSED, ids=lambda wrong: next(iter(wrong)))
def test_a_refused_reset_leaves_the_episode_before_as_it_was(drive: Callable[..., None], wrong: Any) -> None:
    async def work(env: Any) -> None:
        before = (await env.reset(messages=[HELLO])).observation.fingerprint()
        with pytest.raises(ChatEnvError):
            await env.reset(**wrong)
        shown = (await env.step({"role": "user", "content": "Still here?"})).observation
        assert shown.step_count == 1
        assert shown.fingerprint() != before

    drive(work)


def test_a_refused_import_leaves_it_too(drive: Callable[..., None]) -> None:
    async def work(env: Any) -> None:
        await env.reset(messages=[HELLO])
        broken = EpisodeSnapshot.FromString((await env.export()).SerializeToString())
        broken.entries[0].prompt_fingerprint = "0" * 32
        with pytest.raises(ChatEnvError):
            await env.import_episode(broken, "other")
        assert (await env.step(HELLO)).observation.step_count == 1

    drive(work)


def test_an_answered_reset_has_ended_the_episode_before(drive: Callable[..., None], target: str) -> None:
    async def work(env: Any) -> None:
        first = (await env.reset()).observation.episode_id
        second = (await env.reset()).observation.episode_id
        assert first != second
        with ChatEnv(target) as other, pytest.raises(EpisodeClosedError):
            other.resume(first)
        assert (await env.step(HELLO)).observation.episode_id == second
        assert (await env.reset(episode_id=second)).observation.step_count == 0
        assert (await env.step(HELLO)).observation.step_count == 1

    drive(work)


def test_where_there_is_no_room_for_both_the_one_before_is_closed_first(
    drive: Callable[..., None], serving: Serving
) -> None:
    async def work(env: Any) -> None:
        for _ in range(3):
            await env.reset(messages=[HELLO])
        assert (await env.step(HELLO)).observation.step_count == 1
        with ChatEnv(address) as another, pytest.raises(EpisodeLimitError):
            another.reset()

    with serving({"max_episodes": 1}) as address:
        drive(work, at=address)


# What can be sent to another process.


def test_observations_are_pickled_as_they_are_shown(target: str) -> None:
    server = pytest.importorskip("chatenv_server")
    tokenizer = pytest.importorskip("chatenv_server.tokenizer_files.byte_tokenizer").ByteTokenizer()
    here = server.ChatEnvironment(tokenizer)
    with ChatEnv(target) as env:
        for step in (lambda e: e.reset(messages=[HELLO], clock=0.0, seed=1), *STEPS):
            for result in (step(here), step(env)):
                shown = getattr(result, "observation", result)
                for copied in (pickle.loads(pickle.dumps(shown)), copy.deepcopy(shown)):
                    assert copied.messages == shown.messages
                    assert copied.token_ids.tolist() == shown.token_ids.tolist()
                    assert copied.fingerprint() == shown.fingerprint()
                    assert (copied.reward, copied.step_count, copied.seed) == (shown.reward, shown.step_count, 1)
        early = pickle.dumps(env.observation)
        env.step({"role": "user", "content": "a secret"})
        assert b"a secret" not in early
        assert b"a secret" in pickle.dumps(env.observation)


STEPS: Any = [
    lambda env: env.step(ChatAction(tokens=[72, 105, 257], logprobs=[-1.0, -1.0, -1.0])),
    lambda env: env.step(HELLO),
    lambda env: env.step(ChatAction(tokens=[72], stop_reason="abort")),
]


def test_an_observation_of_an_earlier_step_has_no_later_message_when_it_is_pickled(env: ChatEnv) -> None:
    shown = env.reset(messages=[HELLO]).observation
    env.step({"role": "user", "content": "a secret"})
    assert b"a secret" not in pickle.dumps(shown)
    assert pickle.loads(pickle.dumps(shown)).messages == [HELLO]


def test_a_client_says_how_to_go_about_it_where_it_cannot_be_pickled(target: str) -> None:
    async def asynchronous() -> None:
        async with AsyncChatEnv(target) as env:
            with pytest.raises(TypeError, match="`resume` the episode"):
                pickle.dumps(env)

    asyncio.run(asynchronous())
    with ChatEnv(target) as env, VectorChatEnv(target, 2) as many:
        for client in (env, many):
            with pytest.raises(TypeError, match="send what it was opened with and `episode_id`"):
                pickle.dumps(client)
