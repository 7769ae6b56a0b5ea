"""Tasks whose episodes are forked, exported, kept by a store, and taken up by another process."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chatenv_client import ChatEnv, Failure, FailureKind, Origin, TaskError, TaskMissingError
from chatenv_server import Answer, ChatEnvironment, End, ModelTurn, Opening, Settings, Task, TaskEpisode, serve
from chatenv_server.engine import TokenEngine
from chatenv_server.running.process import RunningServer
from tests.tasks.conftest import settled
from tests.tasks.ways import said

Served = Callable[..., RunningServer]
HI = {"role": "user", "content": "Hi"}


class Counting(Task):
    """Counts its turns."""

    ended: list[End]

    def open(self, episode: TaskEpisode) -> Opening:
        self.count = 0
        return Opening(messages=[{"role": "user", "content": f"Go {episode.seed}"}])

    def answer(self, turn: ModelTurn) -> Answer:  # noqa: ARG002
        self.count += 1
        return Answer(messages=[{"role": "user", "content": str(self.count)}], rewards={"count": self.count})

    def close(self, reason: End) -> None:
        type(self).ended.append(reason)


@pytest.fixture
def task() -> type[Counting]:
    """A task of this test's own."""
    return type("Counting", (Counting,), {"ended": []})


@pytest.fixture
def served(tmp_path: Path, engine: TokenEngine, task: type[Counting]) -> Iterator[Served]:
    """Servers of the task on one store."""
    with ExitStack() as stack:

        def served(**settings: Any) -> RunningServer:
            made = {"listen": ("127.0.0.1:0",), "store": f"sqlite://{tmp_path}/episodes.db", **settings}
            return stack.enter_context(serve(Settings(**made), engine=engine, task=task))

        yield served


def test_a_fork_has_a_task_of_its_own_with_the_state_of_its_step(engine: TokenEngine, task: type[Counting]) -> None:
    env = ChatEnvironment(engine, task=task)
    env.reset(seed=1)
    for _ in range(3):
        env.step(said("x"))
    fork = env.fork(1)
    assert fork.step(said("y")).messages[-1]["content"] == "2"
    assert env.step(said("y")).messages[-1]["content"] == "4"
    assert fork.audit() == env.audit()


def test_a_snapshot_brings_the_task_where_it_was(engine: TokenEngine, task: type[Counting]) -> None:
    env = ChatEnvironment(engine, task=task)
    env.reset(seed=1, max_turns=9)
    for _ in range(2):
        env.step(said("x"))
    env.set_reward({"judge": 0.5, "count": 7}, step=1, weights={"judge": 2.0})
    taken = ChatEnvironment(engine, task=task)
    observation = taken.restore(env.snapshot())
    assert (observation.rewards, observation.turns_left) == ({"count": 2.0}, 7)
    assert taken.snapshot() == env.snapshot()
    assert taken.trajectory().turns == env.trajectory().turns
    assert taken.trajectory().turns[1].reward == 8.0
    assert taken.step(said("x")).messages[-1]["content"] == "3"
    with pytest.raises(TaskMissingError, match="has no task 'Counting'"):
        ChatEnvironment(engine).restore(env.snapshot())


def test_a_task_that_keeps_what_is_not_json_says_so_where_that_matters(engine: TokenEngine) -> None:
    class Holding(Task):
        def open(self, episode: TaskEpisode) -> None:  # noqa: ARG002
            self.lock = threading.Lock()

        def answer(self, turn: ModelTurn) -> Answer:  # noqa: ARG002
            return Answer(reward=1.0)

    env = ChatEnvironment(engine, task=Holding)
    env.reset(messages=[HI])
    assert env.step(said("x")).reward == 1.0
    with pytest.raises(TaskError, match="state_dict"):
        env.fork()


def test_a_store_refuses_a_task_that_it_cannot_keep(served: Served, task: type[Counting]) -> None:
    def lock(self: Counting, turn: ModelTurn) -> Answer:  # noqa: ARG001
        self.lock = threading.Lock()  # type: ignore[attr-defined]
        return Answer()

    with ChatEnv(served().target) as env:
        env.reset(seed=1)
        task.answer = lock  # type: ignore[method-assign]
        with pytest.raises(TaskError, match="state_dict"):
            env.step(said("x"))
        assert env.state().step_count == 0
        del task.answer
        assert env.step(said("x")).observation.messages[-1]["content"] == "1"


def test_another_process_takes_an_episode_up_with_its_task(served: Served, task: type[Counting]) -> None:
    one, other = served(), served()
    with ChatEnv(one.target) as env:
        env.reset(seed=2, episode_id="e")
        env.step(said("x"))
        with ChatEnv(other.target) as there:
            there.resume("e")
            assert there.step(said("y")).observation.messages[-1]["content"] == "2"
            assert there.set_reward({"judge": 3.0}, step=1).rewards == {"count": 1.0, "judge": 3.0}
        env.resume("e")
        assert env.step(said("z")).observation.messages[-1]["content"] == "3"
        sampled = [turn for turn in env.trajectory().turns if turn.origin is Origin.SAMPLED]
        assert [turn.reward for turn in sampled] == [4.0, 2.0, 3.0]
        assert task.ended == []
    assert settled(lambda: task.ended) == [End.CLOSED]


def test_a_server_without_the_task_says_so_and_leaves_the_episode(
    served: Served, engine: TokenEngine, tmp_path: Path
) -> None:
    with ChatEnv(served().target) as env:
        env.reset(seed=2, episode_id="e")
        env.step(said("x"))
        settings = Settings(listen=("127.0.0.1:0",), store=f"sqlite://{tmp_path}/episodes.db")
        with serve(settings, engine=engine) as other, ChatEnv(other.target) as there:
            with pytest.raises(TaskMissingError) as caught:
                there.resume("e")
            assert (caught.value.reason, caught.value.code) == ("TASK_MISSING", "FAILED_PRECONDITION")
        assert env.step(said("x")).observation.messages[-1]["content"] == "2"


def test_rewards_and_failures_outlive_the_process(served: Served) -> None:
    failure = Failure(FailureKind.SAMPLER, "the engine died")
    with ChatEnv(served().target) as env:
        env.reset(seed=2, episode_id="e")
        env.step(said("x"))
        env.set_reward(2.5, turn=0)
        env.set_reward(2.5, turn=0)
        assert env.fail(failure.reason, failure.kind) == failure
        assert env.fail("another", FailureKind.OTHER) == failure
        with ChatEnv(served().target) as there:
            there.resume("e")
            trajectory = there.trajectory()
            assert (trajectory.failure, trajectory.reward, trajectory.turns[1].reward) == (failure, None, 3.5)
            there.set_reward({"late": 1.0}, step=1)
            assert there.trajectory().turns[1].reward == 4.5
            assert [one.failed for one in there.episodes()] == [True]


def test_who_expires_an_episode_closes_its_task(served: Served, task: type[Counting]) -> None:
    one = served(idle_timeout=0.5)
    ChatEnv(one.target).reset(seed=2, episode_id="e")
    one.stop(0)
    assert task.ended == []
    served(idle_timeout=0.5)
    assert settled(lambda: task.ended) == [End.EXPIRED]
    time.sleep(0.6)
    assert task.ended == [End.EXPIRED]


def test_who_closes_or_resets_an_episode_of_another_process_closes_its_task(
    served: Served, task: type[Counting]
) -> None:
    one, other = served(), served()
    with ChatEnv(one.target) as env, ChatEnv(other.target) as there:
        env.reset(seed=2, episode_id="e")
        env.step(said("x"))
        there.reset(seed=2, episode_id="e")
        assert settled(lambda: task.ended) == [End.RESET]
        env.resume("e")
        env.close()
        assert settled(lambda: len(task.ended) == 2)
        assert task.ended == [End.RESET, End.CLOSED]


def test_a_server_that_stops_closes_the_tasks_that_end_with_it(served: Served, task: type[Counting]) -> None:
    server = served(store="memory")
    ChatEnv(server.target).reset(seed=2, episode_id="e")
    server.stop(1)
    assert settled(lambda: task.ended) == [End.STOPPED]


def keeping(value: Any) -> type[Task]:
    """A task with such an attribute."""

    class Keeps(Task):
        def open(self, episode: TaskEpisode) -> None:  # noqa: ARG002
            self.kept = value

        def answer(self, turn: ModelTurn) -> Answer:  # noqa: ARG002
            return Answer(reward=1.0)

    return Keeps


NOT_JSON = [(1,), {1}, np.int64(1), np.zeros(2), math.inf, math.nan, {1: 2}, object()]


@pytest.mark.parametrize("value", NOT_JSON, ids=lambda value: type(value).__name__)
def test_a_task_with_attributes_that_are_not_json_plays_on_and_cannot_be_forked(
    engine: TokenEngine, value: Any
) -> None:
    env = ChatEnvironment(engine, task=keeping(value))
    env.reset(messages=[HI])
    assert env.step(said("x")).reward == 1.0
    with pytest.raises(TaskError, match="keeps what is not JSON"):
        env.fork()


def nested(levels: int) -> Any:
    value: Any = []
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize("value", ["x" * 2**20, nested(64), "\ud800"], ids=["long", "deep", "surrogate"])
def test_a_state_that_json_cannot_hold_is_the_tasks_failure(tmp_path: Path, engine: TokenEngine, value: Any) -> None:
    store = f"sqlite://{tmp_path}/episodes.db"
    with (
        serve(Settings(listen=("127.0.0.1:0",)), engine=engine, task=keeping(value)) as server,
        serve(Settings(listen=("127.0.0.1:0",), store=store), engine=engine, task=keeping(value)) as kept,
        ChatEnv(server.target) as env,
        ChatEnv(kept.target) as there,
    ):
        env.reset(messages=[HI])
        assert env.step(said("x")).reward == 1.0
        calls: list[Callable[[], Any]] = [env.fork, env.export, lambda: there.reset(messages=[HI])]
        for call in calls:
            with pytest.raises(TaskError, match="what the task knows cannot be kept") as caught:
                call()
            assert caught.value.reason == "TASK_FAILED"


def test_each_fork_closes_an_instance_of_its_own(engine: TokenEngine, task: type[Counting]) -> None:
    with ChatEnvironment(engine, task=task) as env:
        env.reset(seed=1)
        with env.fork():
            pass
        assert task.ended == [End.CLOSED]
    assert task.ended == [End.CLOSED, End.CLOSED]


def test_an_async_task_cannot_play_an_async_task_in_process(engine: TokenEngine) -> None:
    class Inner(Task):
        async def answer(self, turn: ModelTurn) -> Answer:  # noqa: ARG002
            return Answer(reward=1.0)

    class Outer(Task):
        async def answer(self, turn: ModelTurn) -> Answer:  # noqa: ARG002
            inner = ChatEnvironment(engine, task=Inner)
            inner.reset(messages=[HI])
            with pytest.raises(RuntimeError, match="async"):
                inner.step(said("x"))
            return Answer(reward=2.0)

    env = ChatEnvironment(engine, task=Outer)
    env.reset(messages=[HI])
    assert env.step(said("x")).reward == 2.0
