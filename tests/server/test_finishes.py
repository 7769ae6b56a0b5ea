"""Episodes that end with a last answer: what it tells is what is on record, whoever else is at work on them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from chatenv_client import errors
from chatenv_client.models import ChatAction
from chatenv_server.engine import TokenEngine
from chatenv_server.environment.environment import ChatEnvironment
from chatenv_server.episodes.budget import Budget
from chatenv_server.episodes.episodes import Episodes
from chatenv_server.stores.sqlite import SqliteStore
from chatenv_server.tasks.task import Answer, End, ModelTurn, Task

SAMPLED = ChatAction(tokens=[*b"Hi!", 257])
Process = Callable[[], Episodes]


@pytest.fixture
def process(engine: TokenEngine, tmp_path: Path) -> Iterator[Process]:
    """Opens the episodes of one more process on one store."""
    with contextlib.ExitStack() as opened:

        def process() -> Episodes:
            file = opened.enter_context(contextlib.closing(SqliteStore(tmp_path / "store.db")))
            return Episodes(lambda: ChatEnvironment(engine), Budget(100, 10**6), store=file)

        yield process


@pytest.fixture(params=["memory", "sqlite"])
def episodes(request: pytest.FixtureRequest, engine: TokenEngine, process: Process) -> Episodes:
    if request.param == "sqlite":
        return process()
    return Episodes(lambda: ChatEnvironment(engine), Budget(100, 10**6))


def steps(environment: ChatEnvironment) -> bytes:
    """An answer that says how many steps were taken."""
    return b"%d steps" % environment.step_count


def test_what_another_process_steps_while_it_is_read_is_in_the_answer(process: Process) -> None:
    one, other = process(), process()
    one.reset({"episode_id": "e"})
    told: list[bytes] = []

    def tell(environment: ChatEnvironment) -> bytes:
        if not told:
            other.step("e", SAMPLED)
        told.append(steps(environment))
        return told[-1]

    assert one.finish("e", tell) == b""
    assert told == [b"0 steps", b"1 steps"]
    assert other.finish("e", steps) == b"1 steps"


def test_only_the_end_that_the_store_took_closes_the_task(engine: TokenEngine, tmp_path: Path) -> None:
    closed: list[int] = []

    class Counting(Task):
        count = 0

        def answer(self, turn: ModelTurn) -> Answer:  # noqa: ARG002
            self.count += 1
            return Answer(reward=1.0)

        def close(self, reason: End) -> None:  # noqa: ARG002
            closed.append(self.count)

    with contextlib.closing(SqliteStore(tmp_path / "store.db")) as file:

        def opened() -> ChatEnvironment:
            return ChatEnvironment(engine, task=Counting, keeps_journal=False)

        one, other = (Episodes(opened, Budget(100, 10**6), store=file, closes_tasks=True) for _ in range(2))
        one.reset({"episode_id": "e"})

        def tell(environment: ChatEnvironment) -> bytes:
            if not environment.step_count:
                other.step("e", SAMPLED)
            return steps(environment)

        one.finish("e", tell)
        assert one.close_tasks(10)
        assert closed == [1]


def test_what_another_process_finishes_while_it_is_read_is_told_as_that_one_did(process: Process) -> None:
    one, other = process(), process()
    one.reset({"episode_id": "e"})

    def tell(_: ChatEnvironment) -> bytes:
        assert other.finish("e", lambda _: b"the other's") == b""
        return b"ours"

    assert one.finish("e", tell) == b"the other's"


def test_a_step_on_what_another_process_has_finished_finds_no_episode(process: Process) -> None:
    one, other = process(), process()
    one.reset({"episode_id": "e"})
    other.finish("e", steps)
    with pytest.raises(errors.EpisodeClosedError):
        one.step("e", SAMPLED)
    assert one.finish("e", steps) == b"0 steps"


def test_an_answer_that_fails_ends_nothing(episodes: Episodes) -> None:
    episodes.reset({"episode_id": "e"})
    with pytest.raises(ZeroDivisionError):
        episodes.finish("e", lambda _: b"x" * (1 // 0))
    assert episodes.step("e", SAMPLED).step_count == 1
    assert episodes.finish("e", steps) == b""
    assert episodes.finish("e", steps) == b"1 steps"


def test_of_many_that_finish_at_once_one_does_and_all_are_told_the_same(episodes: Episodes) -> None:
    episodes.reset({"episode_id": "e"})
    made: list[bytes] = []

    def tell(_: ChatEnvironment) -> bytes:
        made.append(b"answer %d" % len(made))
        return made[-1]

    with ThreadPoolExecutor(8) as threads:
        kept = list(threads.map(lambda _: episodes.finish("e", tell), range(40)))
    assert made == [b"answer 0"]
    assert sorted(kept) == [b"", *[b"answer 0"] * 39]
    assert (episodes.live_episodes, episodes.held_episodes, episodes.held_tokens) == (0, 0, 0)
