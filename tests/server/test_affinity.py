"""Several servers behind one target: with affinity an episode's calls go to one of them, by a hash of its id."""

from __future__ import annotations

import asyncio
import itertools
import signal
from collections.abc import Iterator

import grpc
import pytest

from chatenv_client import (
    AsyncChatEnv,
    ChatEnv,
    EpisodeUnknownError,
    InvalidRequestError,
    VectorChatEnv,
    channel_options,
)
from tests.server.conftest import Launch, Serve, ServerProcess

HI = {"role": "user", "content": "hi"}
EPISODES = 48
"""Enough that one of three servers stays without any in one of a hundred million runs."""


@pytest.fixture
def addresses(serve: Serve) -> list[str]:
    return [serve().addresses[0] for _ in range(3)]


@pytest.fixture
def target(addresses: list[str]) -> str:
    return "ipv4:" + ",".join(addresses)


@pytest.fixture
def episodes(target: str) -> Iterator[list[ChatEnv]]:
    """Clients of one channel, each with an episode of three steps that the servers share."""
    with grpc.insecure_channel(target, channel_options(affinity=True)) as channel:
        yield play(channel)


def play(channel: grpc.Channel) -> list[ChatEnv]:
    envs = [ChatEnv(channel, affinity=True) for _ in range(EPISODES)]
    for number, env in enumerate(envs):
        env.reset(episode_id=f"episode-{number}")
    for _, env in itertools.product(range(3), envs):
        env.step(HI)
    return envs


def holders(addresses: list[str], episode_id: str | None) -> list[str]:
    """The servers that know an episode."""
    assert episode_id is not None
    return [address for address in addresses if knows(address, episode_id)]


def knows(address: str, episode_id: str) -> bool:
    with grpc.insecure_channel(address) as channel:
        try:
            ChatEnv(channel).resume(episode_id)
        except EpisodeUnknownError:
            return False
    return True


def test_each_episode_lives_on_one_server_and_every_server_has_some(
    episodes: list[ChatEnv], addresses: list[str]
) -> None:
    known = [holders(addresses, env.episode_id) for env in episodes]
    assert {len(each) for each in known} == {1}
    assert {each[0] for each in known} == set(addresses)


def test_another_client_finds_the_episode_by_its_id(episodes: list[ChatEnv], target: str) -> None:
    for env in episodes:
        assert env.episode_id is not None
        with ChatEnv(target, affinity=True) as other:
            assert other.resume(env.episode_id).observation.step_count == 3


def test_a_killed_server_takes_its_own_episodes_along_and_no_others(launch: Launch) -> None:
    servers = {server.addresses[0]: server for server in (launch(), launch(), launch())}
    with grpc.insecure_channel("ipv4:" + ",".join(servers), channel_options(affinity=True)) as channel:
        envs = play(channel)
        homes = [holders(list(servers), env.episode_id)[0] for env in envs]
        kill(servers[homes[0]])
        for home, env in zip(homes, envs, strict=True):
            if home == homes[0]:
                with pytest.raises(EpisodeUnknownError, match="the server was restarted"):
                    env.step(HI)
            else:
                assert env.step(HI).observation.step_count == 4


def kill(server: ServerProcess) -> None:
    server.tell(signal.SIGKILL)
    server.ended()


def test_without_affinity_all_calls_go_to_one_server(target: str, addresses: list[str]) -> None:
    with grpc.insecure_channel(target, channel_options()) as channel:
        envs = [ChatEnv(channel) for _ in range(EPISODES)]
        for env in envs:
            env.reset()
        assert len({holder for env in envs for holder in holders(addresses, env.episode_id)}) == 1


def test_the_asynchronous_client_sticks_too(target: str, addresses: list[str]) -> None:
    async def play() -> list[str | None]:
        ids = []
        for _ in range(EPISODES):
            env = AsyncChatEnv(target, affinity=True)
            await env.reset()
            await env.step(HI)
            ids.append(env.episode_id)
        return ids

    known = [holders(addresses, episode_id) for episode_id in asyncio.run(play())]
    assert {len(each) for each in known} == {1}
    assert {each[0] for each in known} == set(addresses)


def test_the_episodes_of_a_vector_client_live_together(target: str, addresses: list[str]) -> None:
    homes = set()
    for _ in range(EPISODES):
        with VectorChatEnv(target, 3, affinity=True) as env:
            env.reset()
            env.step([HI, HI, HI])
            (home,) = {tuple(holders(addresses, episode_id)) for episode_id in env.episode_ids}
            homes.add(home)
    assert homes == {(address,) for address in addresses}


def test_an_id_that_no_header_could_carry_is_refused_like_any_bad_id(target: str) -> None:
    with ChatEnv(target, affinity=True) as env, pytest.raises(InvalidRequestError) as refused:
        env.reset(episode_id="één\n")
    assert refused.value.field == "episode_id"


def test_forks_stay_on_the_server_of_their_episode(target: str, addresses: list[str]) -> None:
    with ChatEnv(target, affinity=True) as env:
        env.reset(messages=[HI])
        forks = env.fork(12)
        family = [*forks, *forks[0].fork(12)]
        for fork in family:
            assert fork.step(HI).observation.step_count == 1
        known = [holders(addresses, fork.episode_id) for fork in family]
        assert known == [holders(addresses, env.episode_id)] * 24
        for fork in family:
            fork.close()
    with VectorChatEnv(target, 2, affinity=True) as vector:
        vector.reset(messages=[HI])
        with vector.fork_groups(8) as groups:
            groups.step([HI] * 16)


def test_an_import_lives_where_the_calls_of_its_id_go(target: str) -> None:
    with ChatEnv(target, affinity=True) as env:
        env.reset(messages=[HI])
        snapshot = env.export()
    for number in range(12):
        with ChatEnv.from_snapshot(target, snapshot, episode_id=f"copy-{number}", affinity=True) as copy:
            copy.step(HI)
            with ChatEnv(target, affinity=True) as other:
                assert other.resume(f"copy-{number}").observation.step_count == 1
