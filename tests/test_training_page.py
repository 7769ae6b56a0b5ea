"""The page for those who train: every block runs as printed, and prints what the page says."""

from __future__ import annotations

import dataclasses
import re
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("chatenv_server", reason="the server extra is not installed", exc_type=ImportError)

from chatenv_client import Split, Trajectory

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "training.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(python|text)\n(.*?)```", PAGE, re.DOTALL)


def test_every_block_runs_as_it_is_printed_and_prints_what_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    printed = StringIO()
    for kind, block in BLOCKS:
        if kind == "text":
            assert printed.getvalue() == block
        else:
            printed = StringIO()
            with redirect_stdout(printed):
                exec(compile(block, "training.md", "exec"), names)


def rows_of(heading: str) -> set[str]:
    """The first column of the table whose first heading is this."""
    table = PAGE.split(f"| {heading} | ", 1)[1].split("\n\n", 1)[0]
    return set(re.findall(r"`(\w+)`", " ".join(line.split(" | ")[0] for line in table.splitlines()[2:])))


def test_every_part_of_a_trajectory_is_explained() -> None:
    fields = {field.name for field in dataclasses.fields(Trajectory)} - {"episode_id", "given_assistants"}
    properties = {name for name, value in vars(Trajectory).items() if isinstance(value, property) and name[0] != "_"}
    assert rows_of("`Trajectory`") == fields | properties


def test_every_part_of_a_split_is_explained() -> None:
    assert rows_of("`Split`") == set(Split._fields)


def test_every_column_of_a_file_is_explained() -> None:
    schema = pytest.importorskip("chatenv_client.exports.parquet", exc_type=ImportError).SCHEMA
    assert rows_of("column") == set(schema.names)
    segment = {field.name for field in schema.field("segments").type.value_type}
    assert rows_of("of each segment") == segment | {"logprobs_base64"}
