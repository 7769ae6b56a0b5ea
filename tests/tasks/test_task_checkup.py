"""`chatenv-rl doctor TOKENIZER --task module:Class`: what an author is told of a task."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chatenv_server.commands import cli

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
TASKS = '''
from chatenv_client import Failure, FailureKind
from chatenv_server import Answer, Opening, Task
from chatenv_server.tasks.tool_task import ToolTask

def add(a: float, b: float) -> float:
    """Add two numbers.

    Args:
        a: The first number.
        b: The second number.
    """
    return a + b

class Adding(ToolTask):
    tools = (add,)
    def score(self, turn):
        return {"right": float(str(turn.row["sum"]) in turn.text)}

class Talks(Task):
    def __init__(self, says="Go on."):
        self.says = says
    def open(self, episode):
        return Opening(messages=[{"role": "user", "content": self.says}])
    def answer(self, turn):
        return Answer(messages=[{"role": "user", "content": self.says}])

class Raises(Talks):
    def answer(self, turn):
        return 1 / 0

class Opens(Talks):
    def open(self, episode):
        raise OSError("there is no data")

class Empty(Talks):
    def answer(self, turn):
        return Answer(messages=[{"role": "user"}])

class Breaks(Talks):
    def answer(self, turn):
        return Answer(failure=Failure(FailureKind.TOOL, "the sandbox is gone"))

class Silent(Talks):
    def answer(self, turn):
        return None

class Forgets(Talks):
    def open(self, episode):
        self.client = object()
        return super().open(episode)
'''
STRICT = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('take turns') }}"
    "{% endif %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""A template that takes a user and an assistant in alternation alone."""


@pytest.fixture(autouse=True)
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the tasks, rows and templates of these tests are."""
    tmp_path.joinpath("checked_tasks.py").write_text(TASKS, encoding="utf-8")
    tmp_path.joinpath("rows.jsonl").write_text('{"prompt": "1 + 2 = ?", "sum": 3}\n', encoding="utf-8")
    tmp_path.joinpath("strict.jinja").write_text(STRICT, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def doctor(*arguments: str) -> int:
    return cli.main(["doctor", "bytes", "--task", *arguments])


def test_a_task_that_is_sound_is_shown_turn_by_turn(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor("guessing_game:Guess") == 0
    said = capsys.readouterr().out
    assert said.startswith("Guess on bytes\n")
    assert "0 user                  'I think of a number from 1 to 100. Guess it.'" in said
    assert "2 model                 'Is it 42?'" in said
    assert "2 user                  'Lower.'" in said
    assert "reward                0 (found 0)" in said
    assert said.count("stream                exact") == 5
    assert said.endswith("What the task says is taken, and every prompt is exact, or says why not.\n")


def test_the_scripted_model_calls_a_tool_where_there_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor("checked_tasks:Adding", "--rows", "rows.jsonl", "--json") == 0
    opening, called, scored = json.loads(capsys.readouterr().out)["turns"]
    assert opening["answered"][0]["content"] == "1 + 2 = ?"
    assert [(message["role"], message["content"]) for message in called["answered"]] == [("tool", "2")]
    assert scored["rewards"] == {"right": 0.0}
    assert opening["is_exact"]
    assert called["is_exact"]


@pytest.mark.parametrize(
    ("task", "told"),
    [
        ("Raises", ["TASK_FAILED: the task raised", "ZeroDivisionError: division by zero, in answer", "Mend the task"]),
        ("Opens", ["TASK_FAILED: the task raised", "OSError: there is no data, in open", "Mend the task"]),
        ("Empty", ["TASK_ANSWER_REJECTED", "the message has no content", "Mend the task"]),
    ],
)
def test_a_task_that_fails_is_told_what_is_wrong_and_where(
    task: str, told: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert doctor(f"checked_tasks:{task}") == 1
    said = " ".join(capsys.readouterr().out.split())
    assert [one for one in told if one not in said] == []


def test_an_answer_that_the_template_does_not_take_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor("checked_tasks:Talks", "--template", "strict.jinja") == 0
    assert doctor("checked_tasks:Adding", "--rows", "rows.jsonl", "--template", "strict.jinja") == 0
    Path("twice.py").write_text(
        "from checked_tasks import *\n"
        "class Twice(Talks):\n"
        "    def answer(self, turn):\n"
        "        return Answer(messages=[{'role': 'user', 'content': one} for one in 'ab'])\n",
        encoding="utf-8",
    )
    capsys.readouterr()
    assert doctor("twice:Twice", "--template", "strict.jinja") == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "TASK_ANSWER_REJECTED" in said
    assert "take turns" in said


@pytest.mark.parametrize(
    ("task", "end"),
    [
        ("Breaks", "The episode failed: tool: the sandbox is gone."),
        ("Silent", "The task said nothing for the model to answer, so the caller has to speak next."),
        ("Talks", "It was played for 4 turns."),
    ],
)
def test_how_the_episode_ended_is_said(task: str, end: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor(f"checked_tasks:{task}") == 0
    assert end in capsys.readouterr().out


def test_state_that_no_fork_could_have_is_pointed_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor("checked_tasks:Forgets") == 0
    assert "keeps what is not JSON" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["bytes", "--task", "checked_tasks:None_of_these"], "cannot be loaded"),
        (["bytes", "--task", "checked_tasks:Talks", "--task-args", "[1]"], "is a JSON object"),
        (["bytes", "--task", "checked_tasks:Talks", "--rows", "none.jsonl"], "cannot be read: No such file"),
        (["--all", ".", "--task", "checked_tasks:Talks"], "goes with one TOKENIZER"),
    ],
)
def test_wrong_use_is_told_in_a_line(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", *arguments]) == 2
    assert told in capsys.readouterr().err


def test_keywords_of_the_task_are_those_of_a_reset(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor("checked_tasks:Talks", "--task-args", '{"says": "Well?"}') == 0
    assert "'Well?'" in capsys.readouterr().out
    assert doctor("checked_tasks:Talks", "--task-args", '{"saying": "Well?"}') == 1
    assert "BAD_TASK" in capsys.readouterr().out
