"""Tasks are closed exactly once, with what they know at the end, whatever comes between."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from chatenv_client import ChatEnv, ChatEnvError, EpisodeClosedError, TaskError, TaskTimeoutError
from chatenv_server import Answer, ChatEnvironment, End, ModelTurn, Settings, Task, TaskEpisode, serve
from chatenv_server.engine import TokenEngine
from chatenv_server.running.process import RunningServer
from tests.tasks.conftest import settled
from tests.tasks.ways import WAYS, playing, said

Served = Callable[..., RunningServer]
HI = {"role": "user", "content": "Hi"}


class Boxes(Task):
    """Takes a box at each turn, and frees all that it knows of at the end."""

    taken: int
    freed: list[tuple[int, str]]
    fails: Callable[[], object]

    def open(self, episode: TaskEpisode) -> None:  # noqa: ARG002
        self.own: list[int] = []
        self._take()

    def answer(self, turn: ModelTurn) -> Answer:  # noqa: ARG002
        self._take()
        type(self).fails()
        return Answer(reward=1.0)

    def _take(self) -> None:
        self.own.append(type(self).taken)
        type(self).taken += 1

    def close(self, reason: End) -> None:
        type(self).freed += [(box, str(reason)) for box in self.own]


@pytest.fixture
def boxes() -> Any:
    """A task of this test's own."""
    return type("Boxes", (Boxes,), {"taken": 0, "freed": [], "fails": staticmethod(lambda: None)})


@pytest.fixture
def served(tmp_path: Path, engine: TokenEngine) -> Iterator[Served]:
    """Servers on one SQLite file."""
    with ExitStack() as stack:

        def served(task: Any, **settings: Any) -> RunningServer:
            made = {"listen": ("127.0.0.1:0",), "store": f"sqlite://{tmp_path}/episodes.db", **settings}
            return stack.enter_context(serve(Settings(**made), engine=engine, task=task))

        yield served


def test_in_process_a_finish_gives_the_trajectory_and_closes_the_task_once(engine: TokenEngine, boxes: Any) -> None:
    with ChatEnvironment(engine, task=boxes) as env:
        env.reset(messages=[HI])
        env.step(said("x"))
        expected = env.trajectory()
        for _ in range(2):
            trajectory = env.finish()
            assert (trajectory.tokens.tolist(), trajectory.turns) == (expected.tokens.tolist(), expected.turns)
            assert boxes.freed == [(0, "closed"), (1, "closed")]
        with pytest.raises(EpisodeClosedError):
            env.step(said("x"))
    assert len(boxes.freed) == 2


def test_several_processes_close_each_box_once(served: Served, boxes: Any) -> None:
    one, other = served(boxes), served(boxes)
    with ChatEnv(one.target) as a, ChatEnv(other.target) as b:
        plans = ["reset a, step b, close a", "reset a, reset b, close a", "reset a, reset b, reset a, close a"]
        plans += ["reset a, step b, finish a, finish b", "reset b, step a, finish a, reset a, finish a, close a"]
        for number, calls in enumerate(plans):
            name, clients = f"e{number}", {"a": a, "b": b}
            for call in calls.split(", "):
                what, _, who = call.partition(" ")
                if what == "reset":
                    clients[who].reset(messages=[HI], episode_id=name)
                elif what == "step":
                    clients[who].resume(name)
                    clients[who].step(said("x"))
                    a.resume(name)
                elif what == "finish":
                    clients[who].finish()
                else:
                    one._backend.episodes.close(name)  # type: ignore[union-attr]
        assert settled(lambda: len(boxes.freed) == boxes.taken)
        time.sleep(0.1)
        assert sorted(box for box, _ in boxes.freed) == list(range(boxes.taken))


def test_a_call_that_overran_is_waited_for_before_its_task_is_closed(served: Served, boxes: Any) -> None:
    goes_on = threading.Event()
    boxes.fails = staticmethod(lambda: goes_on.wait(10))
    with ChatEnv(served(boxes, task_timeout=0.2, store="memory").target) as env:
        env.reset(messages=[HI])
        with pytest.raises(TaskTimeoutError):
            env.step(said("x"))
    time.sleep(0.5)
    assert boxes.freed == []
    goes_on.set()
    assert settled(lambda: boxes.freed) == [(0, "closed")]  # the step was taken back, and with it what it knew


def test_a_server_that_stops_closes_no_task_while_it_answers(served: Served, boxes: Any) -> None:
    asked, goes_on, freed_early = threading.Event(), threading.Event(), []

    def answer() -> None:
        asked.set()
        goes_on.wait(10)
        freed_early.extend(boxes.freed)

    boxes.fails = staticmethod(answer)
    server = served(boxes, store="memory")
    env = ChatEnv(server.target)
    env.reset(messages=[HI])

    def step() -> None:
        with pytest.raises(ChatEnvError):
            env.step(said("x"))

    calling = threading.Thread(target=step)
    calling.start()
    assert asked.wait(10)
    stopping = threading.Thread(target=server.stop, args=[0.2])
    stopping.start()
    time.sleep(0.5)
    goes_on.set()
    stopping.join(10)
    calling.join(10)
    assert settled(lambda: boxes.freed)
    assert freed_early == []


def test_an_episode_that_cannot_be_read_back_expires_all_the_same(served: Served, boxes: Any) -> None:
    first = served({"old": boxes}, idle_timeout=0.5)
    ChatEnv(first.target).reset(messages=[HI], episode_id="e")
    first.stop(0)
    with ChatEnv(served({"new": boxes}, idle_timeout=0.5, max_episodes=1).target) as env:
        assert settled(lambda: not list(env.episodes()))
        env.reset(messages=[HI])


def test_a_reset_that_nobody_can_keep_frees_what_it_opened(served: Served, boxes: Any, tmp_path: Path) -> None:
    class Long(boxes):  # type: ignore[misc]
        def open(self, episode: TaskEpisode) -> None:
            super().open(episode)
            self.text = "x" * 2**20

    Long.freed = boxes.freed
    with ChatEnv(served(Long).target) as env:
        with pytest.raises(TaskError, match="cannot be kept"):
            env.reset(messages=[HI])
        assert settled(lambda: boxes.freed) == [(0, "refused")]
    boxes.freed.clear()
    with ChatEnv(served(boxes).target) as env:
        lock = sqlite3.connect(tmp_path / "episodes.db")
        lock.execute("BEGIN IMMEDIATE")
        with pytest.raises(ChatEnvError):
            env.reset(messages=[HI], timeout_s=7)  # longer than the server is patient with its file
        assert settled(lambda: boxes.freed)[0][1] == "refused"
        lock.rollback()
        lock.close()


@pytest.mark.parametrize("way", WAYS)
def test_a_limit_that_cuts_off_an_aborted_turn_has_it_told(engine: TokenEngine, way: str) -> None:
    heard: list[str] = []

    class Hears(Task):
        def answer(self, turn: ModelTurn) -> Answer:
            heard.append(turn.text)
            return Answer(reward=1.0)

    with playing(way, engine, task=Hears) as player:
        player.reset(messages=[HI], max_sampled_tokens=4)
        assert player.step(said("ab", stop=False, stop_reason="abort")).reward is None
        last = player.step(said("cd", stop=False, stop_reason="abort"))
        assert (last.truncated, last.reward, heard) == (True, 1.0, ["abcd"])
