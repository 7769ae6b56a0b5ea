"""Tasks that answer: what a caller sees of them, in every way to play."""

from __future__ import annotations

import asyncio
import math
import random
import threading
import time
from collections import UserDict
from collections.abc import Mapping
from typing import Any

import grpc
import numpy as np
import pytest

from chatenv_client import (
    ChatEnv,
    Failure,
    FailureKind,
    InvalidRequestError,
    Origin,
    TaskAnswerError,
    TaskError,
    TaskTimeoutError,
    Verdict,
)
from chatenv_server import Answer, End, ModelTurn, Opening, Settings, Task, TaskEpisode, serve
from chatenv_server.engine import TokenEngine
from tests.tasks.conftest import Play
from tests.tasks.ways import said

HI = {"role": "user", "content": "Hi"}


class Guess(Task):
    """The game of the README."""

    def open(self, episode: TaskEpisode) -> Opening:
        self.secret = random.Random(episode.seed).randint(1, 100)
        return Opening(messages=[{"role": "user", "content": "Guess my number."}])

    async def answer(self, turn: ModelTurn) -> Answer:
        guess = int(str(turn.message["content"]))
        if guess == self.secret:
            return Answer(rewards={"found": 1.0}, terminated=True)
        hint = "higher" if guess < self.secret else "lower"
        return Answer(messages=[{"role": "user", "content": hint}], rewards={"found": 0.0})


class Plain(Guess):
    """The same without asyncio."""

    def answer(self, turn: ModelTurn) -> Answer:  # type: ignore[override]
        return asyncio.run(super().answer(turn))


@pytest.mark.parametrize("task", [Guess, Plain])
def test_the_model_speaks_and_the_task_answers_in_the_same_step(play: Play, task: type[Task]) -> None:
    secret = random.Random(3).randint(1, 100)
    with play(task) as player:
        opening = player.reset(seed=3)
        assert opening.messages == [{"role": "user", "content": "Guess my number."}]
        low, high, steps, last = 1, 100, 0, opening
        while not last.terminated:
            guess = (low + high) // 2
            last = player.step(said(str(guess)))
            steps += 1
            assert last.step_count == steps
            assert last.reward == float(guess == secret)
            assert last.rewards == {"found": last.reward}
            hint = last.messages[-1]["content"]
            low, high = (guess + 1, high) if hint == "higher" else (low, guess - 1)
        assert last.messages[-1] == {"role": "assistant", "content": str(secret)}
        assert player.audit().verdict is Verdict.EXACT
        trajectory = player.trajectory()
        sampled = [turn for turn in trajectory.turns if turn.origin is Origin.SAMPLED]
        assert [turn.rewards for turn in sampled] == [{"found": 0.0}] * (steps - 1) + [{"found": 1.0}]
        assert trajectory.reward == 1.0
        assert trajectory.terminated


class Given(Task):
    """Answers what a test gives it."""

    given: Any = None

    def answer(self, turn: ModelTurn) -> Any:
        given = type(self).given
        return given(turn) if callable(given) else given


def answering(given: Any) -> type[Given]:
    """A task that answers so."""
    return type("Given", (Given,), {"given": staticmethod(given) if callable(given) else given})


def test_a_task_is_not_asked_for_messages_nor_for_what_was_aborted(play: Play) -> None:
    turns: list[ModelTurn] = []
    with play(answering(turns.append)) as player:
        player.reset(messages=[HI])
        player.step(HI)
        assert player.step(said("Never", stop=False, stop_reason="abort")).turn_open
        assert turns == []
        assert not player.step(said(" mind.", logprobs=[-1.0] * 7)).turn_open
        assert [turn.text for turn in turns] == ["Never mind."]
        assert turns[0].tokens.tolist() == [*b"Never mind.", 257]
        assert turns[0].logprobs is None
        assert (turns[0].step_count, turns[0].turn_count) == (3, 1)
        player.step(HI)
        player.step(said("Well", stop=False, stop_reason="length", logprobs=[-2.0] * 4))
        assert turns[1].logprobs is not None
        assert turns[1].logprobs.tolist() == [-2.0] * 4
        assert (turns[1].turn_count, turns[1].stop_reason.value) == (2, "length")


def test_the_reward_is_the_weighted_sum_of_its_components(play: Play) -> None:
    answer = Answer(rewards={"right": np.float32(1.0), "short": 2}, weights={"short": 0.25})
    with play(answering(answer)) as player:
        player.reset(messages=[HI])
        shown = player.step(said("x"))
        assert (shown.reward, shown.rewards) == (1.5, {"right": 1.0, "short": 2.0})
        assert type(shown.reward) is float
        turn = player.trajectory().turns[1]
        assert (turn.reward, turn.rewards) == (1.5, {"right": 1.0, "short": 2.0})


WRONG_ANSWERS: list[Any] = [
    "a text",
    Answer(reward=math.nan),
    Answer(reward="much"),  # type: ignore[arg-type]
    Answer(rewards={"": 1.0}),
    Answer(rewards={"a": math.inf}),
    Answer(rewards={"a": 1.0}, weights={"b": 1.0}),
    Answer(metadata={"a": object()}),
    Answer(metadata=[1]),  # type: ignore[arg-type]
    Answer(metadata="ab"),  # type: ignore[arg-type]
    Answer(metadata={1: 2}),  # type: ignore[dict-item]
    Answer(metadata={"a": [{None: 2}]}),
    Answer(terminated="no"),  # type: ignore[arg-type]
    Answer(truncated=3),  # type: ignore[arg-type]
    Answer(terminated=np.array([True])),  # type: ignore[arg-type]
    Answer(failure="no"),  # type: ignore[arg-type]
    lambda _turn: Answer(failure=Failure(FailureKind.TOOL, "gone"), terminated=True),
    lambda _turn: Answer(failure=Failure(FailureKind.TOOL, "gone"), truncated=True),
    Answer(messages=3),  # type: ignore[arg-type]
    lambda _turn: 1 / 0,
    lambda _turn: np.zeros(3).item(),
]


@pytest.mark.parametrize("given", WRONG_ANSWERS, ids=lambda one: type(one).__name__ + str(WRONG_ANSWERS.index(one)))
def test_what_a_task_answers_wrongly_fails_the_step_and_is_no_reward(play: Play, given: Any) -> None:
    task = answering(given)
    with play(task) as player:
        before = player.reset(messages=[HI])
        with pytest.raises(TaskError) as caught:
            player.step(said("x"))
        assert (caught.value.reason, caught.value.code) == ("TASK_FAILED", "INTERNAL")
        assert player.state().token_ids.tolist() == before.tokens
        task.given = Answer(reward=1.0)
        assert player.step(said("x")).reward == 1.0


def test_a_bool_of_numpy_ends_an_episode_as_any_other(play: Play) -> None:
    with play(answering(Answer(terminated=np.bool_(True)))) as player:  # type: ignore[arg-type]
        player.reset(messages=[HI])
        assert player.step(said("x")).terminated is True


class Unreadable(UserDict[str, Any]):
    """Fails when it is read."""

    def __iter__(self) -> Any:
        raise ConnectionError("the sandbox is gone")


@pytest.mark.parametrize(
    "metadata", [[1], "ab", 3, {"a": {1}}, {"a": math.nan}, {1: 2}, Unreadable()], ids=lambda one: type(one).__name__
)
def test_metadata_of_an_opening_that_cannot_be_is_the_tasks_failure(play: Play, metadata: Any) -> None:
    class Opens(Given):
        wrong = True

        def open(self, episode: TaskEpisode) -> Opening:  # noqa: ARG002
            return Opening(messages=[HI], metadata=metadata if Opens.wrong else {"a": 1})

    with play(Opens) as player:
        with pytest.raises(TaskError) as caught:
            player.reset()
        assert (caught.value.reason, caught.value.code) == ("TASK_FAILED", "INTERNAL")
        Opens.wrong = False
        assert player.reset().metadata == {"a": 1}


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user"}],
        [{"role": "", "content": "x"}],
        [{"role": "assistant", "content": "x", "tool_calls": [{"function": {}}]}],
        [{"role": "user", "content": 3}],
    ],
)
def test_messages_that_cannot_be_are_the_tasks_fault(play: Play, messages: list[Any]) -> None:
    task = answering(Answer(messages=messages))
    with play(task) as player:
        player.reset(messages=[HI])
        with pytest.raises(TaskAnswerError) as caught:
            player.step(said("x"))
        assert caught.value.reason == "TASK_ANSWER_REJECTED"
        assert player.state().step_count == 0
        task.given = None
        assert player.step(said("x")).reward is None


def test_a_task_that_takes_too_long_fails_the_step(play: Play) -> None:
    release = threading.Event()

    def wait(turn: ModelTurn) -> Answer:
        release.wait(10)
        return Answer(reward=float(turn.step_count))

    with play(answering(wait), task_timeout=0.3) as player:
        player.reset(messages=[HI])
        with pytest.raises(TaskTimeoutError) as caught:
            player.step(said("x"))
        assert (caught.value.reason, caught.value.code) == ("TASK_TIMEOUT", "DEADLINE_EXCEEDED")
        assert player.state().step_count == 0
        release.set()
        assert player.step(said("x")).reward == 1.0


def test_an_async_task_that_takes_too_long_fails_the_step(play: Play) -> None:
    class Slow(Task):
        seconds = 10.0

        async def answer(self, turn: ModelTurn) -> Answer:
            await asyncio.sleep(Slow.seconds)
            return Answer(reward=float(turn.step_count))

    with play(Slow, task_timeout=0.3) as player:
        player.reset(messages=[HI])
        began = time.monotonic()
        with pytest.raises(TaskTimeoutError):
            player.step(said("x"))
        assert time.monotonic() - began < 5
        Slow.seconds = 0.0
        assert player.step(said("x")).reward == 1.0


def test_what_a_task_knows_is_taken_back_with_the_step(play: Play) -> None:
    class Counting(Task):
        fails = True

        def __init__(self) -> None:
            self.asked = 0

        def answer(self, turn: ModelTurn) -> Answer:  # noqa: ARG002
            self.asked += 1
            if Counting.fails:
                raise ConnectionError("the sandbox is down")
            return Answer(reward=float(self.asked))

    with play(Counting) as player:
        player.reset(messages=[HI])
        for _ in range(2):
            with pytest.raises(TaskError):
                player.step(said("x"))
        Counting.fails = False
        assert player.step(said("x")).reward == 1.0


def test_a_failure_ends_the_episode_and_is_no_reward(play: Play) -> None:
    failure = Failure(FailureKind.TOOL, "the search index is gone")
    with play(answering(Answer(failure=failure))) as player:
        player.reset(messages=[HI])
        shown = player.step(said("x"))
        assert (shown.failure, shown.terminated, shown.truncated, shown.reward) == (failure, False, False, None)
        assert player.trajectory().failure == player.state().failure == failure
        with pytest.raises(Exception, match="is over"):
            player.step(said("x"))


def test_turns_and_sampled_tokens_are_limited(play: Play) -> None:
    with play(answering(Answer(messages=[HI]))) as player:
        shown = player.reset(messages=[HI], max_turns=2, max_sampled_tokens=100)
        assert (shown.turns_left, shown.tokens_left) == (2, 100)
        shown = player.step(said("x", stop=False, stop_reason="abort"))
        assert (shown.turns_left, shown.tokens_left, shown.truncated) == (2, 99, False)
        shown = player.step(said("y"))
        assert (shown.turns_left, shown.tokens_left, shown.truncated) == (1, 97, False)
        shown = player.step(said("z"))
        assert (shown.turns_left, shown.truncated, shown.terminated) == (0, True, False)
        assert player.state().turn_count == 2
        player.reset(messages=[HI], max_sampled_tokens=2)
        shown = player.step(said("x"))
        assert (shown.tokens_left, shown.truncated) == (0, True)


def test_what_a_task_opens_with_takes_the_place_of_the_callers(play: Play) -> None:
    class Opens(Task):
        def open(self, episode: TaskEpisode) -> Opening:
            assert episode.row is not None
            text = f"{episode.row['question']} {episode.messages[0]['content']} {episode.metadata['a']} {episode.seed}"
            return Opening(messages=[{"role": "user", "content": text}], metadata={"b": 2})

        def answer(self, turn: ModelTurn) -> Answer:
            assert turn.row is not None
            return Answer(reward=float(turn.text == turn.row["answer"]), metadata={"c": 3}, terminated=True)

    rows = [{"id": "first", "question": "1+1?", "answer": "2"}, {"question": "2+2?", "answer": "4"}]
    with play(Opens, rows=rows) as player:
        opening = player.reset(messages=[HI], metadata={"a": 1}, seed=5, row=1)
        assert [m["content"] for m in opening.messages] == ["2+2? Hi 1 5"]
        assert opening.metadata == {"a": 1, "b": 2}
        shown = player.step(said("4"))
        assert (shown.reward, shown.metadata) == (1.0, {"a": 1, "b": 2, "c": 3})
        assert player.reset(messages=[HI], metadata={"a": 1}, row_id="first").messages[0]["content"].startswith("1+1?")
        for wrong in ({"row": 2}, {"row_id": "x"}, {"row": 0, "row_id": "first"}, {"row": 0, "split": "test"}):
            with pytest.raises(InvalidRequestError) as caught:
                player.reset(messages=[HI], metadata={"a": 1}, **wrong)
            assert caught.value.reason == "BAD_ROW"


def test_a_task_may_open_with_a_system_message_where_the_caller_gives_none(play: Play) -> None:
    opening = [{"role": "system", "content": "Own."}, HI]

    class Own(Given):
        def open(self, episode: TaskEpisode) -> Opening:  # noqa: ARG002
            return Opening(messages=opening)

    with play(Own, system_prompt="Default.") as player:
        assert player.reset().messages == opening
        with pytest.raises(InvalidRequestError) as caught:
            player.reset(system_prompt="Given.")
        assert caught.value.reason == "SYSTEM_PROMPT_TWICE"


def test_several_tasks_are_chosen_by_name(play: Play) -> None:
    class Says(Task):
        def __init__(self, word: str = "a", times: int = 1) -> None:
            self.word = word * times

        def answer(self, turn: ModelTurn) -> Answer:  # noqa: ARG002
            return Answer(messages=[{"role": "user", "content": self.word}])

    def loud(word: str) -> Task:
        return Says(word.upper())

    with play({"says": Says, "loud": loud}) as player:
        player.reset(messages=[HI], task="says", task_args={"word": "b", "times": 3})
        assert player.step(said("x")).messages[-1]["content"] == "bbb"
        assert player.state().task == "says"
        player.reset(messages=[HI], task="loud", task_args={"word": "b"})
        assert player.step(said("x")).messages[-1]["content"] == "B"
        wrong: Mapping[str, Any]
        for wrong in ({}, {"task": "none"}, {"task": "says", "task_args": {"words": 1}}, {"task": "loud"}):
            with pytest.raises(InvalidRequestError) as caught:
                player.reset(messages=[HI], **wrong)
            assert caught.value.reason == "BAD_TASK"


class Closing(Task):
    """Tells when it is closed."""

    ended: list[End]

    def answer(self, turn: ModelTurn) -> Answer:  # noqa: ARG002
        return Answer(terminated=True)

    async def close(self, reason: End) -> None:
        type(self).ended.append(reason)


def test_a_task_is_closed_once_whatever_ends_its_episode(play: Play) -> None:
    task = type("Closes", (Closing,), {"ended": []})
    with play(task) as player:
        player.reset(messages=[HI], episode_id="one")
        player.reset(messages=[HI], episode_id="one")
        assert settled(task, 1) == [End.RESET]
        player.step(said("x"))
        player.close()
        player.close()
        assert settled(task, 2) == [End.RESET, End.CLOSED]
    assert settled(task, 3) == [End.RESET, End.CLOSED]


def test_a_task_is_closed_where_nobody_ends_its_episode(play: Play) -> None:
    task = type("Closes", (Closing,), {"ended": []})
    with play(task) as player:
        player.reset(messages=[HI], episode_id="one")
    assert settled(task, 1) in ([End.CLOSED], [End.STOPPED])


def settled(task: Any, count: int) -> list[End]:
    """Why tasks were closed, once so many were."""
    until = time.monotonic() + 10
    while len(task.ended) < count and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(0.05)
    return list(task.ended)


def test_a_turn_of_the_model_is_one_round_trip(engine: TokenEngine) -> None:
    called: list[str] = []

    class Counting(grpc.UnaryUnaryClientInterceptor):
        def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
            called.append(client_call_details.method.rpartition("/")[2])
            return continuation(client_call_details, request)

    settings = Settings(listen=("127.0.0.1:0",))
    with serve(settings, engine=engine, task=Guess) as server, grpc.insecure_channel(server.target) as channel:
        with ChatEnv(grpc.intercept_channel(channel, Counting())) as env:
            env.reset(seed=3)
            for guess in (1, 100, 2):
                env.step(said(str(guess)))
        assert called == ["Reset", "Step", "Step", "Step", "CloseEpisode"]
