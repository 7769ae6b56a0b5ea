"""When turns came is told over the wire, and survives the server."""

from __future__ import annotations

from pathlib import Path

from chatenv_client import ChatAction, ChatEnv
from tests.contract.conftest import start_server


def times(env: ChatEnv) -> list[int]:
    trajectory, state = env.trajectory(), env.state()
    assert [turn.at_ms for turn in trajectory.turns] == [turn.at_ms for turn in state.turns]
    return [turn.at_ms for turn in state.turns if turn.at_ms is not None]


def play(env: ChatEnv) -> None:
    env.step(ChatAction(tokens=[72, 105, 257]))
    env.step({"role": "user", "content": "And?"})


def test_each_turn_says_when_it_came(env: ChatEnv) -> None:
    env.reset(messages=[{"role": "user", "content": "Hello!"}])
    play(env)
    play(env)
    told = times(env)
    assert (len(told), told[0]) == (5, 0)
    assert told == sorted(told)


def test_times_survive_a_restart_and_an_episode_that_is_taken_elsewhere(tmp_path: Path) -> None:
    stored = {"store": f"sqlite:///{tmp_path}/episodes.db"}
    with start_server(stored) as address:
        env = ChatEnv(address)
        env.reset(messages=[{"role": "user", "content": "Hello!"}], episode_id="kept")
        play(env)
        before, snapshot = times(env), env.export()
        env.detach()
    with start_server(stored) as address, ChatEnv(address) as env:
        env.resume("kept")
        assert times(env) == before
        (fork,) = env.fork()
        assert times(fork) == before
        play(env)
        assert times(env)[:3] == before
        assert times(env) == sorted(times(env))
    with start_server() as address, ChatEnv.from_snapshot(address, snapshot) as copy:
        assert times(copy) == before
