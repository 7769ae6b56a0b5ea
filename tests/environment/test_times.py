"""When turns came: milliseconds since the reset, which go wherever the episode goes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatenv_client import InvalidRequestError, Trajectory, read_trajectories, write_trajectories
from chatenv_client.wire import trajectory_from_proto, trajectory_to_proto
from chatenv_server import Answer, ChatEnvironment, Task
from chatenv_server.engine import TokenEngine
from chatenv_server.environment.times import MOST_MS
from chatenv_server.tokenizer_files.byte_tokenizer import ByteTokenizer
from tests.environment.conftest import QUESTION, said

_KEPT = Path(__file__).parents[1] / "data" / "snapshots" / "format_1_eventful.binpb"


class Clock:
    """The machine's clock, which goes on when a test says so."""

    def __init__(self) -> None:
        self.ms = 1_700_000_000_000

    def time_ns(self) -> int:
        return self.ms * 1_000_000


@pytest.fixture
def clock() -> Iterator[Clock]:
    clock = Clock()
    with mock.patch("time.time_ns", clock.time_ns):
        yield clock


def times(shown: Any) -> list[int | None]:
    """When each turn came, in all segments."""
    segments = shown.segments if isinstance(shown, Trajectory) else [shown.state]
    return [turn.at_ms for segment in segments for turn in segment.turns]


@pytest.fixture
def env(engine: TokenEngine, clock: Clock) -> ChatEnvironment:
    """An episode whose task takes 40 ms, and whose model takes 700, 800 and 900 ms."""

    class Slow(Task):
        def answer(self, turn: Any) -> Answer:  # noqa: ARG002 - it answers anything
            clock.ms += 40
            return Answer([{"role": "user", "content": "Go on."}])

    env = ChatEnvironment(engine, task=Slow)
    env.reset(messages=[QUESTION], clock=0.0)
    for took in (700, 800, 900):
        clock.ms += took
        env.step(said("5"))
    return env


TIMES = [0, 700, 740, 1540, 1580, 2480, 2520]
"""Of the opening, and of each turn and what the task answered."""


def test_a_turn_came_with_its_step_and_an_answer_when_it_was_there(env: ChatEnvironment) -> None:
    assert times(env) == times(env.trajectory()) == TIMES


def test_a_restored_episode_has_the_times_and_goes_on_from_the_same_reset(env: ChatEnvironment, clock: Clock) -> None:
    snapshot = env.snapshot().SerializeToString()
    clock.ms += 3_600_000
    env.restore(snapshot)
    assert times(env) == TIMES
    env.step(said("6"))
    assert times(env) == [*TIMES, 3_602_520, 3_602_560]


def test_a_fork_shares_the_times_of_what_it_shares(env: ChatEnvironment, clock: Clock) -> None:
    clock.ms += 1_000
    fork = env.fork(at_step=2)
    assert times(fork) == TIMES[:5]
    fork.step(said("6"))
    assert times(fork) == [*TIMES[:5], 3_520, 3_560]
    assert times(env) == TIMES


def test_pieces_of_a_store_have_the_times(engine: TokenEngine, clock: Clock) -> None:
    env, other = ChatEnvironment(engine, keeps_journal=False), ChatEnvironment(engine)
    env.reset(messages=[QUESTION])
    pieces = [env.newest_piece()]
    for action in (said("5"), {"role": "user", "content": "Why?"}, said("So.")):
        clock.ms += 500
        env.step(action)
        pieces.append(env.newest_piece())
    other.restore(b"".join(pieces))
    assert times(other) == times(env) == [0, 500, 1_000, 1_500]


def test_a_segment_came_with_the_step_that_began_it(engine: TokenEngine, clock: Clock) -> None:
    env = ChatEnvironment(engine)
    env.reset(messages=[QUESTION])
    for action, replaced in ((said("5"), None), ({"role": "user", "content": "Why?"}, 0), (said("So."), None)):
        clock.ms += 500
        env.step(action, replace_from=replaced)
    assert times(env.trajectory()) == [0, 500, 1_000, 1_500]


def test_a_step_that_is_taken_back_leaves_no_time(engine: TokenEngine, clock: Clock) -> None:
    env = ChatEnvironment(engine)
    env.reset(messages=[QUESTION])

    def fail(_: Any) -> None:
        raise OSError("nobody is there to tell")

    clock.ms += 10
    with pytest.raises(OSError, match="nobody"):
        env.step(said("5"), answer=fail)
    clock.ms += 10
    env.step(said("5"))
    assert times(env) == [0, 20]


_gaps = st.lists(st.integers(-3_000, 3_000) | st.sampled_from([2**31, -(2**31)]), min_size=1, max_size=8)


@given(_gaps)
def test_times_never_go_back_even_where_the_machines_clock_does(gaps: list[int]) -> None:
    clock, env = Clock(), ChatEnvironment(ByteTokenizer())
    with mock.patch("time.time_ns", clock.time_ns):
        env.reset(messages=[QUESTION])
        for number, gap in enumerate(gaps):
            clock.ms += gap
            env.step({"role": "user", "content": "Why?"} if number % 2 else said("5"))
            env.restore(env.snapshot())
        told = [at_ms for at_ms in times(env) if at_ms is not None]
    assert len(told) == len(gaps) + 1
    assert told == sorted(told)
    assert told[0] == 0
    assert told[-1] <= MOST_MS


def test_an_episode_of_which_nobody_knows_the_reset_has_no_times(engine: TokenEngine) -> None:
    env = ChatEnvironment(engine)
    env.restore(_KEPT.read_bytes())
    env.step({"role": "user", "content": "And on?"})
    env.step(said("On."))
    assert set(times(env.trajectory())) == {None}


@pytest.mark.parametrize("altered", ["step", "answer", "late", "opening"])
def test_a_snapshot_whose_times_go_back_is_refused(env: ChatEnvironment, altered: str) -> None:
    snapshot = env.snapshot()
    if altered == "step":
        snapshot.entries[2].at_ms = 739
    elif altered == "answer":
        snapshot.entries[2].answered_at_ms = 0
    elif altered == "late":
        snapshot.entries[3].answered_at_ms = MOST_MS + 1
    else:
        snapshot.entries[0].answered_at_ms = 0
    with pytest.raises(InvalidRequestError, match="the snapshot cannot be read"):
        env.restore(snapshot)
    assert times(env) == TIMES


def test_two_plays_of_a_conversation_are_equal_whenever_their_turns_came(engine: TokenEngine, clock: Clock) -> None:
    plays = [ChatEnvironment(engine), ChatEnvironment(engine)]
    for took, play in enumerate(plays):
        play.reset(messages=[QUESTION])
        clock.ms += took
        play.step(said("5"))
    one, other = (play.trajectory() for play in plays)
    assert one.turns == other.turns
    assert times(one) != times(other)


@pytest.mark.parametrize("kind", [".jsonl", ".parquet"])
def test_times_go_there_and_back(env: ChatEnvironment, engine: TokenEngine, kind: str, tmp_path: Path) -> None:
    if kind == ".parquet":
        pytest.importorskip("pyarrow")
    untold = ChatEnvironment(engine)
    untold.restore(_KEPT.read_bytes())
    path = tmp_path / f"episodes{kind}"
    write_trajectories(path, [env.trajectory(), untold.trajectory()])
    known, unknown = read_trajectories(path)
    assert times(known) == TIMES
    assert set(times(unknown)) == {None}


def test_times_travel_and_0_is_not_unknown(env: ChatEnvironment) -> None:
    assert times(trajectory_from_proto(trajectory_to_proto(env.trajectory()))) == TIMES
