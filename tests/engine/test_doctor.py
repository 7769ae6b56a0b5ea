"""`chatenv-rl doctor` as a person or a script runs it: a process of its own, its report, its exit code."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from chatenv_client import FidelityKind

CHECKOUT = Path(__file__).resolve().parents[2]

FORGETFUL = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{{ message.content if loop.last else message.content.split('</think>')[-1] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""It forgets what was thought, so some streams cannot be exact and have to say so."""

BROKEN = """
import sys
from dataclasses import replace

from chatenv_server.commands.cli import main
from chatenv_server.engine.template_renderer import TemplateRenderer

render = TemplateRenderer.tail


def careless(renderer, place, messages):
    # The newline behind a sampled turn is lost.
    tail = render(renderer, place, messages)
    return replace(tail, tokens=tail.tokens[1:])


TemplateRenderer.tail = careless
sys.exit(main(sys.argv[1:]))
"""


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """Runs Python on something, with the checkout to import from."""
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT), "COLUMNS": "120"}
    return subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, env=environment, timeout=50, check=False
    )


def doctor(*arguments: str) -> subprocess.CompletedProcess[str]:
    return run("-m", "chatenv_server.commands.cli", "doctor", *arguments)


def scenarios_by_verdict(report: dict[str, Any]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {"exact": [], "reported": [], "not taken": [], "inexact": []}
    for scenario in report["scenarios"]:
        found[scenario["verdict"]].append(scenario["name"])
    return found


@pytest.fixture(scope="module")
def embedded() -> subprocess.CompletedProcess[str]:
    """What the embedded tokenizer is found to be."""
    return doctor("bytes", "--json")


@pytest.fixture
def template(tmp_path: Path) -> str:
    """A file with a template that forgets."""
    file = tmp_path / "forgetful.jinja"
    file.write_text(FORGETFUL)
    return str(file)


@pytest.fixture
def folder(tmp_path: Path, conformance_dir: Path) -> Path:
    """A folder with a tokenizer and a template to examine."""
    shutil.copytree(conformance_dir / "tokenizers" / "tiny_bytes", tmp_path / "tokenizers" / "tiny_bytes")
    tmp_path.joinpath("templates").mkdir()
    shutil.copy(conformance_dir / "templates" / "phi3.jinja", tmp_path / "templates")
    return tmp_path


def test_the_embedded_tokenizer_is_exact_and_the_report_is_one_json_object(
    embedded: subprocess.CompletedProcess[str],
) -> None:
    assert (embedded.returncode, embedded.stderr) == (0, "")
    report = json.loads(embedded.stdout)
    assert (report["tokenizer"], report["sound"], report["exact_path"]) == ("bytes", True, True)
    assert report["template"]["stop_tokens"] == ["<|im_end|>", "<|endoftext|>"]
    found = scenarios_by_verdict(report)
    assert found["exact"]
    assert report["counts"] == {verdict: len(names) for verdict, names in found.items()}
    reported = {kind for scenario in report["scenarios"] for kind in scenario["reports"]}
    assert report["meanings"].keys() == reported <= {kind.value for kind in FidelityKind}


def test_a_person_reads_the_same_in_words(template: str) -> None:
    examined = doctor("bytes", "--template", template)
    assert (examined.returncode, examined.stderr) == (0, "")
    assert examined.stdout.startswith("bytes: 259 tokens, template ")
    assert "What the reports mean for training" in examined.stdout
    assert "What to do: " in examined.stdout
    assert "history_rewritten" in examined.stdout
    assert examined.stdout.rstrip().endswith("Every step is exact, or says why not.")
    assert "history_policy 'segment' gains" in examined.stdout


def test_another_template_is_examined_in_place_of_the_tokenizers_own(
    embedded: subprocess.CompletedProcess[str], template: str
) -> None:
    own, other = json.loads(embedded.stdout), json.loads(doctor("bytes", "--template", template, "--json").stdout)
    assert own["tokenizer_fingerprint"] == other["tokenizer_fingerprint"]
    assert own["template_fingerprint"] != other["template_fingerprint"]
    assert len(scenarios_by_verdict(other)["reported"]) > len(scenarios_by_verdict(own)["reported"])
    assert other["sound"]


def test_a_folder_gets_a_row_for_each_tokenizer_and_each_template(folder: Path) -> None:
    examined = doctor("--all", str(folder))
    assert (examined.returncode, examined.stderr) == (0, "")
    header, *rows, _, verdict = examined.stdout.rstrip().splitlines()
    assert header.split()[:2] == ["exact", "reported"]
    assert [row.split()[0] for row in rows] == ["tiny_bytes", "phi3"]
    assert verdict == "Every step is exact, or says why not."


def test_who_watches_at_a_terminal_sees_how_far_it_is(folder: Path) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "chatenv_server.commands.cli", "doctor", "--all", str(folder), "--json"],
        stdout=subprocess.PIPE,
        stderr=theirs,
        env=os.environ | {"PYTHONPATH": str(CHECKOUT)},
    )
    os.close(theirs)
    report, _ = process.communicate(timeout=50)
    assert [one["tokenizer"] for one in json.loads(report)["checkups"]] == ["tiny_bytes", "phi3"]
    assert os.read(ours, 1000).decode().split("\r\x1b[K") == ["", "1/2 tiny_bytes", "2/2 phi3", ""]
    os.close(ours)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["/no/such/tokenizer"], "'/no/such/tokenizer' does not exist"),
        (["bytes", "--template", "/no/such/template"], "/no/such/template"),
        (["--all", "/no/such/folder"], "/no/such/folder"),
        ([], "TOKENIZER"),
    ],
)
def test_what_cannot_be_examined_is_named_and_ends_with_2(arguments: list[str], said: str) -> None:
    refused = doctor(*arguments)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert said in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_template_that_is_no_jinja_is_refused_as_well(tmp_path: Path) -> None:
    file = tmp_path / "broken.jinja"
    file.write_text("{% if %}")
    refused = doctor("bytes", "--template", str(file))
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "not valid Jinja" in refused.stderr


def test_a_stream_that_is_inexact_and_does_not_say_so_ends_with_1() -> None:
    examined = run("-c", BROKEN, "doctor", "bytes", "--json")
    assert examined.returncode == 1, examined.stderr
    report = json.loads(examined.stdout)
    assert not report["sound"]
    inexact = [scenario for scenario in report["scenarios"] if scenario["verdict"] == "inexact"]
    assert len(inexact) == report["counts"]["inexact"] > 0
    assert all(scenario["faults"] for scenario in inexact)


def test_a_template_that_writes_sampled_turns_in_other_words_is_examined_to_the_end(tmp_path: Path) -> None:
    file = tmp_path / "shouting.jinja"
    file.write_text(FORGETFUL.replace("message.content if loop.last else message.content", "(message.content | upper)"))
    examined = doctor("bytes", "--template", str(file), "--json")
    assert examined.stderr == ""
    assert "turn cut off" in {scenario["name"] for scenario in json.loads(examined.stdout)["scenarios"]}


NONE_THAT_WRITES_TURNS = {
    "a text": ("# A project\n\nIt reads nothing.", "never reads `messages`"),
    "nothing": ("", "never reads `messages`"),
    "roles alone": ("{% for m in messages %}{{ m.role }}: {% endfor %}", "writes nothing of what a user says"),
    "users alone": (
        "{% for m in messages if m.role == 'user' %}{{ m.content }}\n{% endfor %}",
        "writes nothing of what an assistant says",
    ),
    "words of its own": ("{{ raise_exception('No ' + messages[0].role) }}", "takes no conversation"),
}


@pytest.mark.parametrize("text", NONE_THAT_WRITES_TURNS)
def test_what_is_no_chat_template_fails_and_is_told_so(text: str, tmp_path: Path) -> None:
    source, words = NONE_THAT_WRITES_TURNS[text]
    (tmp_path / "t.jinja").write_text(source)
    examined = doctor("bytes", "--template", str(tmp_path / "t.jinja"))
    assert (examined.returncode, examined.stderr) == (1, "")
    assert "Do not train on this" in examined.stdout
    assert words in examined.stdout
    report = json.loads(doctor("bytes", "--template", str(tmp_path / "t.jinja"), "--json").stdout)
    assert not report["sound"]
    assert words in report["refusal"]


def test_a_template_that_takes_conversations_with_an_argument_alone_is_no_template_of_none(tmp_path: Path) -> None:
    (tmp_path / "t.jinja").write_text("{{ motto + motto }}" + FORGETFUL)
    examined = doctor("bytes", "--template", str(tmp_path / "t.jinja"))
    assert examined.returncode == 1
    assert "no conversation comes as far as an answer" in examined.stdout


def test_one_template_of_a_folder_that_is_none_leaves_the_others_examined(tmp_path: Path) -> None:
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates" / "a.jinja").write_text("Read me.")
    (tmp_path / "templates" / "b.jinja").write_text(FORGETFUL)
    (tmp_path / "templates" / "c.jinja").write_text("{% for %}")
    examined = doctor("--all", str(tmp_path), "--json")
    assert examined.returncode == 1
    assert [one["sound"] for one in json.loads(examined.stdout)["checkups"]] == [False, True, False]


def test_a_template_under_which_nobody_can_be_answered_is_not_sound(tmp_path: Path) -> None:
    (tmp_path / "t.jinja").write_text("{{ messages[-1].content }}")
    examined = doctor("bytes", "--template", str(tmp_path / "t.jinja"))
    assert examined.returncode == 1
    assert "no conversation comes as far as an answer" in examined.stdout


def test_a_tokenizer_without_a_template_is_told_so(conformance_dir: Path) -> None:
    folder = str(conformance_dir / "tokenizers" / "gpt2")
    assert "This tokenizer has no chat template." in doctor(folder).stdout
    assert json.loads(doctor(folder, "--json").stdout)["lacks_template"]
    assert not json.loads(doctor("bytes", "--json").stdout)["lacks_template"]
