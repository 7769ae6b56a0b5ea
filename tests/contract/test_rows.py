"""What training wants to know of an episode comes over the wire as it is in-process; and groups."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chatenv_client import AsyncChatEnv, ChatAction, ChatEnv, Trajectory, VectorChatEnv
from chatenv_client.wire import trajectory_to_proto
from tests.contract.conftest import start_server
from tests.untimed import untimed

QUESTION: Any = {"role": "user", "content": "Hello!"}
OPENING: dict[str, Any] = {
    "messages": [QUESTION, {"role": "assistant", "content": "Hi."}, QUESTION],
    "clock": 1_700_000_000.0,
    "seed": -3,
    "metadata": {"row": [1, {"a": 1.5}]},
    "group": "prompt 7 ☃",
    "episode_id": "told",
}
SAID = ChatAction(tokens=[72, 105], logprobs=[-0.5, -0.25])


def play(env: Any) -> None:
    env.reset(**OPENING)
    env.step(SAID)
    env.set_reward({"right": 1.0, "short": 0.25}, weights={"short": 2.0}, step=1)


def same(left: Trajectory, right: Trajectory) -> bool:
    alike = left.given_assistants == right.given_assistants
    return alike and untimed(trajectory_to_proto(left)) == untimed(trajectory_to_proto(right))


def test_every_face_tells_the_same_of_an_episode(target: str) -> None:
    server = pytest.importorskip("chatenv_server")
    tokenizer = pytest.importorskip("chatenv_server.tokenizer_files.byte_tokenizer").ByteTokenizer()
    here = server.ChatEnvironment(tokenizer)
    play(here)
    expected = here.trajectory(assistants=True)
    assert (expected.seed, expected.metadata, expected.group) == (-3, OPENING["metadata"], OPENING["group"])
    assert [message["role"] for message in expected.messages] == ["user", "assistant", "user", "assistant"]
    assert (expected.reward, expected.rewards) == (1.5, {"right": 1.0, "short": 0.25})
    assert expected.given_assistants is not None
    assert len(expected.given_assistants) == 1

    async def read() -> tuple[Trajectory, Trajectory]:
        async with AsyncChatEnv(target) as reader:
            await reader.resume("told")
            return await reader.trajectory(assistants=True), await reader.trajectory()

    with ChatEnv(target) as env:
        play(env)
        assert env.state().group == here.state.group == OPENING["group"]
        assert same(env.trajectory(assistants=True), expected)
        assert same(env.trajectory(), here.trajectory())
        whole, plain = asyncio.run(read())
        assert same(whole, expected)
        assert plain.given_assistants is None
    with VectorChatEnv(target, 1) as vector:
        vector.reset([OPENING])  # type: ignore[list-item]
        vector.step([SAID])
        vector.set_reward([{"right": 1.0, "short": 0.25}], weights={"short": 2.0}, step=[1])
        assert same(vector.trajectories(assistants=True)[0], expected)


def test_what_was_not_given_is_not_made_up(env: ChatEnv) -> None:
    env.reset()
    trajectory = env.trajectory()
    assert (trajectory.seed, trajectory.metadata, trajectory.group, trajectory.messages) == (None, {}, "", ())


@pytest.mark.parametrize("store", ["memory", "sqlite"])
def test_forks_and_snapshots_keep_the_group_and_forks_without_one_are_one(store: str, tmp_path: Path) -> None:
    url = "memory" if store == "memory" else f"sqlite:///{tmp_path}/episodes.db"
    with start_server({"store": url}) as address, ChatEnv(address) as env:
        env.reset(messages=[QUESTION], group="g")
        (fork,) = env.fork()
        assert fork.trajectory().group == "g"
        with ChatEnv.from_snapshot(address, env.export(), episode_id="copy") as copy:
            assert copy.trajectory().group == "g"
            (of_copy,) = copy.fork()
            assert of_copy.trajectory().group == "g"
        env.reset(messages=[QUESTION], episode_id="alone")
        one, other = env.fork(2)
        (of_fork,) = one.fork()
        assert env.trajectory().group == ""
        assert [each.trajectory().group for each in (one, other, of_fork)] == ["alone"] * 3
        assert [each.state().group for each in (one, other)] == ["alone"] * 2


def test_forks_in_process_are_grouped_as_on_a_server() -> None:
    server = pytest.importorskip("chatenv_server")
    env = server.ChatEnvironment(pytest.importorskip("chatenv_server.tokenizer_files.byte_tokenizer").ByteTokenizer())
    env.reset(messages=[QUESTION], episode_id="alone")
    assert env.fork().trajectory().group == "alone"
    env.reset(messages=[QUESTION], group="g")
    assert env.fork().trajectory().group == "g"


def test_groups_of_forks_have_the_groups_of_their_episodes_also_when_they_start_anew(target: str) -> None:
    with VectorChatEnv(target, 2, autoreset=True) as env:
        env.reset([{"messages": [QUESTION], "group": "g"}, {"messages": [QUESTION]}], max_turns=1)
        expected = ["g", "g", env.episode_ids[1], env.episode_ids[1]]
        with env.fork_groups(2) as groups:
            assert [each.group for each in groups.trajectories()] == expected
            ids = groups.episode_ids
            assert all(result.done for result in groups.step([SAID] * 4))
            groups.step([SAID] * 4)
            assert not set(ids) & set(groups.episode_ids)
            assert [each.group for each in groups.trajectories()] == expected


def test_numbers_of_numpy_in_metadata_are_taken_everywhere(env: ChatEnv) -> None:
    given = {"score": np.float32(0.5), "ids": np.arange(3), "flag": np.bool_(True)}
    expected = {"score": 0.5, "ids": [0, 1, 2], "flag": True}
    assert env.reset(metadata=given).observation.metadata == expected
    server = pytest.importorskip("chatenv_server")
    tokenizer = pytest.importorskip("chatenv_server.tokenizer_files.byte_tokenizer").ByteTokenizer()

    def shaping(observation: Any) -> Any:
        observation.metadata["shaped"] = np.arange(2)
        return observation

    here = server.ChatEnvironment(tokenizer, transform=shaping)
    assert here.reset(metadata=given).metadata == expected
    assert here.step(QUESTION).metadata == {**expected, "shaped": [0, 1]}
    assert here.trajectory().metadata == expected

    class Scores(server.Task):  # type: ignore[misc, name-defined]
        def answer(self, turn: Any) -> Any:  # noqa: ARG002
            return server.Answer(metadata={"seen": np.int64(3)}, terminated=True)

    with server.ChatEnvironment(tokenizer, task=Scores) as played:
        played.reset(messages=[QUESTION])
        assert played.step(ChatAction(tokens=[72], stop_reason="eos")).metadata == {"seen": 3}


def test_a_group_is_a_text(env: ChatEnv) -> None:
    with pytest.raises(TypeError, match="group"):
        env.reset(group=3)  # type: ignore[arg-type]
    server = pytest.importorskip("chatenv_server")
    tokenizer = pytest.importorskip("chatenv_server.tokenizer_files.byte_tokenizer").ByteTokenizer()
    with pytest.raises(ValueError, match="group"):
        server.ChatEnvironment(tokenizer).reset(group=3)
