"""The page for those who write tasks: every block runs as printed, and prints what the page says."""

from __future__ import annotations

import dataclasses
import re
import warnings
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("chatenv_server", reason="the server extra is not installed", exc_type=ImportError)

from chatenv_server import Answer, End, ModelTurn, Opening, TaskEpisode
from chatenv_server.settings.settings import read_settings
from chatenv_server.tasks.loading import load_rows, load_tasks
from tests.engine.archetypes import ARCHETYPES
from tests.engine.own_tokenizers import own_bytes

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "tasks.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(python|text|sh)\n(.*?)```", PAGE, re.DOTALL)
NEEDS = {"McpTask": "mcp", "Endpoint": "openai"}
"""What a block with this word needs beside the server."""
MODEL = '"Qwen/Qwen2.5-0.5B-Instruct"'
TEMPLATE = "a default system prompt, results of tools in one user turn"
"""The one of ours that writes tools and calls as the page's model does."""


def test_every_block_runs_as_it_is_printed_and_prints_what_the_page_says(tmp_path: Path) -> None:
    tokenizer = own_bytes(template=ARCHETYPES[TEMPLATE])
    tokenizer.save_pretrained(tmp_path)
    names: dict[str, Any] = {}
    printed = StringIO()
    for kind, block in BLOCKS:
        if kind == "text":
            assert printed.getvalue() == block
        elif kind == "python":
            for word, module in NEEDS.items():
                if word in block:
                    pytest.importorskip(module, reason=f"{module} is not installed")
            printed = StringIO()
            with warnings.catch_warnings(), redirect_stdout(printed):
                warnings.simplefilter("error")
                exec(compile(block.replace(MODEL, repr(str(tmp_path))), "tasks.md", "exec"), names)
    assert sum(kind == "text" for kind, _ in BLOCKS) > 8


def rows_of(name: str) -> set[str]:
    """The first column of the table whose first heading is this."""
    table = PAGE.split(f"| `{name}` | ", 1)[1].split("\n\n", 1)[0]
    first = [line.split(" | ")[0] for line in table.splitlines()[2:]]
    return set(re.findall(r"`(\w+)`", " ".join(first)))


@pytest.mark.parametrize("kind", [TaskEpisode, Opening, ModelTurn, Answer], ids=lambda kind: kind.__name__)
def test_every_field_of_what_passes_between_task_and_server_is_explained(kind: Any) -> None:
    fields = {field.name for field in dataclasses.fields(kind)}
    assert rows_of(kind.__name__) == fields | ({"messages"} if kind is ModelTurn else set())


def test_every_end_is_explained() -> None:
    assert rows_of("End") == {end.value for end in End}


def test_the_servers_of_the_page_find_their_tasks_and_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("sums.jsonl", "held_out.jsonl"):
        tmp_path.joinpath(name).write_text('{"question": "1 + 1 = ?"}\n', encoding="utf-8")
    module = "from chatenv_server import Task\nclass Sums(Task):\n    def answer(self, turn): ...\nGsm = Calc = Sums\n"
    for name in ("sums.py", "my_tasks.py"):
        tmp_path.joinpath(name).write_text(module, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    shell = [line for kind, block in BLOCKS if kind == "sh" for line in block.splitlines() if "chatenv-server" in line]
    found = []
    for line in shell:
        settings = read_settings(line.partition("chatenv-server ")[2].split(), {})
        tasks = load_tasks(settings.task, load_rows(settings.rows))
        found.append((tasks.names, [(count.split, count.count) for count in tasks.rows.counts]))
    assert found == [(("Sums",), []), (("Sums",), [("test", 1), ("train", 1)]), (("gsm", "calc"), [])]
