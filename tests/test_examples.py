"""The examples, as a newcomer runs them, and their tasks as others use them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("chatenv_server", reason="the server extra is not installed", exc_type=ImportError)

from calculator import Arithmetic, calculate
from guessing_game import Guess

from chatenv_client import ChatAction
from chatenv_server import ChatEnvironment
from chatenv_server.tokenizer_files.byte_tokenizer import ByteTokenizer

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def lines_of(example: str) -> list[str]:
    """Run an example to its end; its lines."""
    command = [sys.executable, "-W", "error", str(EXAMPLES / f"{example}.py")]
    finished = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (finished.returncode, finished.stderr) == (0, "")
    return finished.stdout.splitlines()


def test_the_guessing_game_ends_when_the_number_is_found() -> None:
    lines = lines_of("guessing_game")
    assert lines[:3] == [
        "     user | I think of a number from 1 to 100. Guess it.",
        "assistant | Is it 50?",
        "     user | Lower.",
    ]
    assert "terminated; reward 1" in lines
    assert lines[-1] == "   step 7: found 1"


def test_the_calculator_runs_in_the_step_that_calls_it() -> None:
    lines = lines_of("calculator")
    assert lines[0] == "     user | What is 43 * (21 + 52)?"
    assert "     tool | 3139.0" in lines
    assert "terminated; reward 1.1" in lines
    assert lines[-1] == "   step 2: right 1, used the tool 1"


def test_the_word_game_is_played_by_two_models() -> None:
    pytest.importorskip("openai", reason="the extra `endpoint` is not installed")
    lines = lines_of("word_game")
    assert lines[1:4] == ["     user | apple", "assistant | elephant", "     user | tiger"]
    assert "truncated; reward 6" in lines


def test_the_tasks_of_the_examples_take_arguments_and_rows() -> None:
    rows = [{"question": "Six times seven?", "solution": 42}]
    env = ChatEnvironment(ByteTokenizer(), task={"guess": Guess, "sums": Arithmetic}, rows=rows)
    opening = env.reset(task="guess", task_args={"highest": 3})
    assert opening.messages[0].get("content") == "I think of a number from 1 to 3. Guess it."
    assert env.reset(task="sums", row=0).messages[0].get("content") == "Six times seven?"
    ended = env.step(ChatAction(tokens=[*b"It is 42.", 257]))
    assert (ended.rewards, ended.reward) == ({"right": 1.0, "used the tool": 0.0}, 1.0)


@pytest.mark.parametrize(
    ("expression", "value"), [("2 * (3 + 4)", 14), ("-2.5 - -1", -1.5), (" 1 / 4", 0.25), ("1 + 2 * 3", 7)]
)
def test_the_calculator_calculates(expression: str, value: float) -> None:
    assert calculate(expression) == value


@pytest.mark.parametrize(
    "expression",
    ["", "2 ** 99", "__import__('os')", "a", "1 +", "1; 2", "[1]", "1 < 2", "1 / 0", "9" * 201, "(" * 200],
)
def test_the_calculator_calculates_nothing_else(expression: str) -> None:
    with pytest.raises((ValueError, SyntaxError, ZeroDivisionError, MemoryError)):
        calculate(expression)


def test_a_guess_is_the_last_number_of_the_turn() -> None:
    env = ChatEnvironment(ByteTokenizer(), task=Guess)
    env.reset(seed=7)

    def said(text: str) -> Any:
        return env.step(ChatAction(tokens=[*text.encode(), 257])).messages[-1].get("content")

    assert [said("Is it 1, or 90?"), said("Is it 90, or 1?"), said("Hm."), said("9" * 5000)] == [
        *("Lower.", "Higher.", "That is no number.", "Lower."),
    ]
