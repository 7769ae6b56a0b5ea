"""Whatever a task does to what it is given, or to what it gave: the record stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from chatenv_client import ChatEnv, EpisodeClosedError, TaskError
from chatenv_server import Answer, ChatEnvironment, ModelTurn, Opening, Settings, Task, TaskEpisode, serve
from chatenv_server.engine import TokenEngine
from chatenv_server.tasks.choice import Tasks
from chatenv_server.tasks.loading import load_rows
from tests.tasks.ways import said

HI = {"role": "user", "content": "Hi"}


class Meddling(Task):
    """Writes into all that it can reach."""

    def open(self, episode: TaskEpisode) -> None:
        for message in episode.messages:
            message["content"] = "changed"
        episode.metadata["deep"]["er"] = 1
        if episode.tools:
            episode.tools[0]["function"]["name"] = "other"

    def answer(self, turn: ModelTurn) -> Answer:
        turn.tokens[:] = 1
        if turn.logprobs is not None:
            turn.logprobs.sort()
        turn.messages.clear()
        turn.message["content"] = "changed"
        turn.metadata["deep"]["er"] = 2
        return Answer(reward=1.0)


def test_what_a_task_writes_into_is_its_own(engine: TokenEngine, tmp_path: Path) -> None:
    settings = Settings(listen=("127.0.0.1:0",), store=f"sqlite://{tmp_path}/e.db", max_cached_tokens=1)
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    with serve(settings, engine=engine, task=Meddling) as server, ChatEnv(server.target) as env:
        opening = env.reset(messages=[HI], metadata={"deep": {}}, tools=tools).observation
        assert (opening.messages, opening.metadata) == ([HI], {"deep": {}})
        shown = env.step(said("abc", logprobs=[-1.0, -3.0, -2.0, 0.0])).observation
        assert shown.messages[-1] == {"role": "assistant", "content": "abc"}
        with ChatEnv(server.target) as other:  # makes the server forget, and read from its store
            other.reset(messages=[HI], metadata={"deep": {}})
        segment = env.trajectory().segments[0]
        turn = segment.turns[1]
        assert segment.tokens[turn.start : turn.stop].tolist() == [*b"abc", 257]
        assert segment.logprobs[turn.start : turn.stop].tolist() == [-1.0, -3.0, -2.0, 0.0]


def test_the_defaults_of_an_environment_are_nobodys_to_change(engine: TokenEngine) -> None:
    env = ChatEnvironment(engine, task=Meddling, messages=[HI], metadata={"deep": {}})
    for _ in range(2):
        observation = env.reset()
        assert (observation.messages, observation.metadata) == ([HI], {"deep": {}})


def test_what_a_task_answered_is_not_what_it_changes_later(engine: TokenEngine) -> None:
    class Sharing(Task):
        def __init__(self) -> None:
            self.shared: dict[str, Any] = {"n": 0}

        def answer(self, turn: ModelTurn) -> Answer:  # noqa: ARG002
            self.shared["n"] += 1
            if self.shared["n"] == 2:
                raise ConnectionError
            return Answer(metadata={"info": self.shared})

    env = ChatEnvironment(engine, task=Sharing)
    env.reset(messages=[HI])
    first = env.step(said("x"))
    with pytest.raises(TaskError):
        env.step(said("x"))
    assert first.metadata == {"info": {"n": 1}}
    assert env.fork(1).snapshot().entries[1].metadata_json == '{"info":{"n":1}}'


def test_numbers_are_kept_however_json_spelled_them(engine: TokenEngine, tmp_path: Path) -> None:
    class Sums(Task):
        def open(self, episode: TaskEpisode) -> Opening:
            assert episode.row is not None
            self.sum = episode.row["sum"]
            return Opening(messages=[HI])

        def answer(self, turn: ModelTurn) -> Answer:
            return Answer(reward=float(float(turn.text) == self.sum))

    path = tmp_path / "rows.jsonl"
    path.write_text('{"sum": 1.50}\n{"sum": 1e3}\n')
    tasks = Tasks({"sums": Sums}, load_rows([str(path)]))
    settings = Settings(listen=("127.0.0.1:0",), store=f"sqlite://{tmp_path}/e.db")
    with serve(settings, engine=engine, task=tasks) as server, ChatEnv(server.target) as env:  # type: ignore[arg-type]
        for row, text in enumerate(("1.5", "1000")):
            env.reset(row=row)
            assert env.step(said(text)).reward == 1.0


def test_a_closed_environment_takes_no_step_without_its_task(engine: TokenEngine) -> None:
    env = ChatEnvironment(engine, task=Meddling)
    env.reset(metadata={"deep": {}}, messages=[HI])
    env.step(said("x"))
    env.close()
    with pytest.raises(EpisodeClosedError, match="reset"):
        env.step(said("x"))
    assert env.trajectory().reward == 1.0
    env.reset(metadata={"deep": {}}, messages=[HI])
    assert env.step(said("x")).reward == 1.0
