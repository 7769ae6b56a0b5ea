"""What `chatenv-rl` shows and sets of tasks, rewards and failures, against a server that answers by rote."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from chatenv_client import ChatObservation, Failure, FailureKind, ServerInfo, wire
from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client.models import Limits, MessageSnapshot, RowCount
from chatenv_client.tokens import EMPTY_TOKENS, TokenSnapshot, as_token_ids, fingerprint_of
from tests.client.strange_server import StrangeServer, constant
from tests.server.conftest import plain_environment
from tests.server.test_command import command

QUESTION = {"role": "user", "content": "Guess my number."}
GUESS = {"role": "assistant", "content": "7"}
HIGHER = {"role": "user", "content": "higher"}

INFO = ServerInfo(
    version="1",
    tokenizer_name="bytes",
    tokenizer_fingerprint="a",
    chat_template_fingerprint="b",
    vocabulary_size=259,
    token_id_limit=260,
    special_tokens=(),
    features=(),
    turn_parser="verbatim",
    limits=Limits(max_turns=9),
    uptime_seconds=1.0,
    live_episodes=0,
    live_tokens=0,
    tasks=("calc", "gsm"),
    row_counts=(RowCount("gsm", "train", 7473), RowCount("", "test", 2)),
)
STATE = pb.GetStateResponse(
    episode_id="e",
    step_count=1,
    tokens=[1, 2, 3],
    turns=[
        pb.Turn(origin=pb.ORIGIN_TEMPLATE, length=1, message_count=1),
        pb.Turn(
            origin=pb.ORIGIN_SAMPLED,
            start=1,
            length=1,
            step=1,
            first_message=1,
            message_count=1,
            reward=0.5,
            rewards=[pb.NamedReward(name="close", value=0.5), pb.NamedReward(name="found", value=0.0)],
        ),
        pb.Turn(origin=pb.ORIGIN_TEMPLATE, start=2, length=1, step=1, first_message=2, message_count=1),
    ],
    messages=[wire.message_to_proto(message) for message in (QUESTION, GUESS, HIGHER)],
    message_spans=[pb.MessageSpan(start=start, length=1) for start in range(3)],
    prompt_fingerprint=fingerprint_of(as_token_ids([1, 2, 3])),
    task="guess",
    turn_count=1,
    max_turns=5,
    turn_open=True,
    failure=pb.Failure(kind=pb.FAILURE_KIND_TOOL, reason="the \x1b[31m search was down"),
)


class Guessing:
    """Answers Reset and Step as the guessing game does."""

    def __init__(self) -> None:
        self.resets: list[pb.ResetRequest] = []

    def reset(self, request: bytes, _context: Any) -> bytes:
        self.resets.append(pb.ResetRequest.FromString(request))
        opening = ChatObservation(
            episode_id=self.resets[-1].episode_id,
            stream=TokenSnapshot(as_token_ids([1, 2, 3]), EMPTY_TOKENS),
            conversation=MessageSnapshot([QUESTION], 1),  # type: ignore[list-item]
            turns_left=2,
        )
        return response(pb.ResetResponse(), opening)

    def step(self, request: bytes, _context: Any) -> bytes:
        asked = pb.StepRequest.FromString(request)
        stream = [1, 2, 3, *asked.tokens, 4, 5]
        answer = ChatObservation(
            episode_id=asked.episode_id,
            step_count=1,
            stream=TokenSnapshot(as_token_ids(stream), EMPTY_TOKENS),
            conversation=MessageSnapshot([QUESTION, GUESS, HIGHER], 3),  # type: ignore[list-item]
            reward=0.5,
            rewards={"close": 0.5, "found": 0.0},
            turns_left=1,
            tokens_left=90,
            failure=Failure(FailureKind.JUDGE, "it was down") if len(asked.tokens) == 1 else None,
        )
        return response(pb.StepResponse(), answer)


def response(encoded: Any, observation: ChatObservation) -> bytes:
    wire.write_observation(encoded.observation, observation)
    return bytes(encoded.SerializeToString())


@pytest.fixture(scope="module")
def running() -> Iterator[StrangeServer]:
    server = StrangeServer()
    yield server
    server.stop()


@pytest.fixture
def server(running: StrangeServer) -> StrangeServer:
    running.answers.clear()
    running.answers |= {"GetState": constant(STATE), "GetServerInfo": constant(wire.info_to_proto(INFO))}
    return running


@pytest.fixture
def game(server: StrangeServer) -> Guessing:
    game = Guessing()
    server.answers |= {"Reset": game.reset, "Step": game.step}
    return game


Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def chatenv(server: StrangeServer) -> Run:
    def run(*arguments: str, typed: str = "") -> subprocess.CompletedProcess[str]:
        surroundings = plain_environment() | {"CHATENV_ADDRESS": server.address}
        return subprocess.run(
            command(*arguments), input=typed, capture_output=True, text=True, env=surroundings, timeout=30, check=False
        )

    return run


# What is shown.


def test_info_names_the_tasks_and_counts_their_rows(chatenv: Run) -> None:
    shown = dict(line.split("  ", 1) for line in chatenv("info").stdout.splitlines())
    told = {name: shown[name].strip() for name in ("tasks", "rows", "max turns", "max sampled tokens")}
    assert told == {
        "tasks": "calc, gsm",
        "rows": "7,473 train of gsm, 2 test",
        "max turns": "9",
        "max sampled tokens": "none",
    }
    assert json.loads(chatenv("info", "--json").stdout)["row_counts"][0] == {
        "task": "gsm",
        "split": "train",
        "count": 7473,
    }


def test_a_state_shows_the_task_its_turns_rewards_and_the_failure(chatenv: Run) -> None:
    shown = chatenv("state", "e").stdout
    assert shown.startswith(
        "e  1 steps, 3 tokens, failed\n"
        "task guess\n"
        "1 of 5 turns ended, another is open\n"
        "failed: tool: the \\x1b[31m search was down\n"
        "[0] given,"
    )
    assert "assistant: 7\n    reward 0.5 (close 0.5, found 0)\n[2] given," in shown
    told = json.loads(chatenv("state", "e", "--json").stdout)
    assert told["failure"] == {"kind": "tool", "reason": STATE.failure.reason}
    assert told["turns"][1]["rewards"] == {"close": 0.5, "found": 0.0}


def test_a_list_says_which_episodes_failed(chatenv: Run, server: StrangeServer) -> None:
    moment = {"seconds": int(time.time())}
    failed = pb.EpisodeSummary(episode_id="e", failed=True, created=moment, last_used=moment)
    server.answers["ListEpisodes"] = constant(pb.ListEpisodesResponse(episodes=[failed]))
    assert chatenv("episodes").stdout.endswith("s ago, failed\n")
    assert json.loads(chatenv("episodes", "--json").stdout)["failed"] is True


# A conversation with a task.


def test_a_task_is_played_by_sampled_turns_alone(chatenv: Run, game: Guessing) -> None:
    said = chatenv(
        *("chat", "--task", "guess", "--task-args", '{"most": 10}', "--row-id", "17"),
        *("--split", "test", "--max-turns", "2"),
        typed="/sampled 55 257\n",
    )
    assert said.returncode == 0, said.stderr
    (reset,) = game.resets
    asked = (reset.task, reset.task_args_json, reset.row_id, reset.split, reset.max_turns)
    assert asked == ("guess", '{"most":10}', "17", "test", 2)
    opening, answered = said.stdout.split("turns left: 2")
    assert "  user: Guess my number.\n" in opening
    assert "  assistant: 7\n  user: higher\n" in answered
    assert "+4 tokens = 7, reward 0.5 (close 0.5, found 0), turns left: 1, tokens left: 90\n" in answered


def test_a_step_that_failed_says_so_and_is_the_end(chatenv: Run, game: Guessing) -> None:
    assert "failed: judge: it was down; /reset starts another episode" in chatenv("chat", typed="/sampled 55\n").stdout
    _, step = chatenv("chat", "--json", "--row", "3", typed="/sampled 55\n").stdout.splitlines()
    told = json.loads(step)
    assert told["failure"] == {"kind": "judge", "reason": "it was down"}
    assert (told["rewards"], told["turns_left"], told["turn_open"]) == ({"close": 0.5, "found": 0.0}, 1, False)
    assert game.resets[-1].row == 3


@pytest.mark.parametrize(
    "arguments",
    [("--task-args", "{"), ("--task-args", "[1]"), ("--row", "1", "--row-id", "1"), ("--max-turns", "many")],
)
def test_what_no_task_can_be_opened_with_is_wrong_use(chatenv: Run, game: Guessing, arguments: tuple[str, ...]) -> None:
    done = chatenv("chat", *arguments)
    assert (done.returncode, done.stdout, game.resets) == (2, "", [])
    assert "Traceback" not in done.stderr


# Rewards and failures by hand.


def test_rewards_are_set_by_name_or_without_one(chatenv: Run, server: StrangeServer) -> None:
    asked: list[pb.SetRewardRequest] = []

    def note(request: bytes, _context: Any) -> bytes:
        asked.append(pb.SetRewardRequest.FromString(request))
        rewards = [pb.NamedReward(name=one.name, value=one.value) for one in asked[-1].rewards]
        return pb.SetRewardResponse(step=asked[-1].step or 1, reward=0.5, rewards=rewards).SerializeToString()

    server.answers["SetReward"] = note
    told = chatenv("reward", "e", "--step", "1", "found=1", "a=b=-0.5")
    assert (told.returncode, told.stdout) == (0, "step 1: reward 0.5 (found 1, a=b -0.5)\n")
    assert chatenv("reward", "e", "-0.5").stdout == "step 1: reward 0.5\n"
    said = json.loads(chatenv("reward", "e", "--turn", "0", "found=1", "--json").stdout)
    assert said == {"episode_id": "e", "step": 1, "reward": 0.5, "rewards": {"found": 1.0}}
    named = [pb.NamedReward(name="found", value=1.0), pb.NamedReward(name="a=b", value=-0.5)]
    assert asked == [
        pb.SetRewardRequest(episode_id="e", step=1, rewards=named),
        pb.SetRewardRequest(episode_id="e", step=1, reward=-0.5),
        pb.SetRewardRequest(episode_id="e", turn=0, rewards=named[:1]),
    ]


def test_a_failure_is_said_and_the_one_on_record_is_told(chatenv: Run, server: StrangeServer) -> None:
    asked: list[pb.FailEpisodeRequest] = []

    def note(request: bytes, _context: Any) -> bytes:
        asked.append(pb.FailEpisodeRequest.FromString(request))
        return pb.FailEpisodeResponse(failure=STATE.failure).SerializeToString()

    server.answers["FailEpisode"] = note
    told = chatenv("fail", "e", "--reason", "no answer came", "--kind", "judge")
    assert (told.returncode, told.stdout) == (0, "failed: tool: the \\x1b[31m search was down\n")
    said = json.loads(chatenv("fail", "e", "--reason", "?", "--json").stdout)
    assert said == {"episode_id": "e", "kind": "tool", "reason": STATE.failure.reason}
    assert [(one.failure.kind, one.failure.reason) for one in asked] == [
        (pb.FAILURE_KIND_JUDGE, "no answer came"),
        (pb.FAILURE_KIND_OTHER, "?"),
    ]


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("reward", "e"), 2, "required"),
        (("reward", "e", "found"), 2, "no number"),
        (("reward", "e", "found=much"), 2, "no number"),
        (("reward", "e", "found=1", "found=2"), 2, "second"),
        (("reward", "e", "found=1", "2"), 2, "no reward by name"),
        (("reward", "e", "found=nan"), 1, "BAD_REWARD"),
        (("reward", "e", "found=1", "--step", "1", "--turn", "0"), 2, "not allowed with"),
        (("fail", "e"), 2, "required"),
        (("fail", "e", "--reason", "?", "--kind", "crash"), 2, "crash"),
        (("fail", "e", "--reason", "x" * 5000), 1, "BAD_FAILURE"),
    ],
)
def test_what_cannot_be_set_is_told_in_one_line(chatenv: Run, arguments: tuple[str, ...], code: int, told: str) -> None:
    done = chatenv(*arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert told in done.stderr
    assert "Traceback" not in done.stderr
