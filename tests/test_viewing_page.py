"""The page about pages: its blocks run as printed, and its commands are there."""

from __future__ import annotations

import argparse
import re
from contextlib import redirect_stdout
from importlib import resources
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("chatenv_server", reason="the server extra is not installed", exc_type=ImportError)

from chatenv_client.viewing.meanings import MEANINGS
from chatenv_server.commands import view

CHECKOUT = Path(__file__).resolve().parent.parent
PAGE = CHECKOUT.joinpath("docs", "viewing.md").read_text(encoding="utf-8")


def test_every_block_runs_as_it_is_printed_and_prints_what_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (said,) = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)
    names: dict[str, Any] = {}
    with redirect_stdout(StringIO()) as printed:
        exec(compile(block, "viewing.md", "exec"), names)
    assert printed.getvalue() == said
    assert "<title>" in tmp_path.joinpath("episode.html").read_text(encoding="utf-8")


def test_the_flags_that_are_shown_are_there() -> None:
    parser = argparse.ArgumentParser()
    view.add_arguments(parser)
    known = {flag for action in parser._actions for flag in action.option_strings}
    assert set(re.findall(r"--[a-z]+[a-z-]*", PAGE)) <= known


def test_every_key_that_the_page_explains_is_one_of_the_script() -> None:
    templates = resources.files("chatenv_client.viewing").joinpath("templates")
    script = templates.joinpath("episode_keys.js").read_text(encoding="utf-8")
    for key in ("j", "k", "r", "c"):
        assert re.search(rf"\b{key}: ", script)
        assert f"`{key}`" in PAGE


def test_what_reports_mean_is_markdown_without_what_a_page_cannot_show() -> None:
    for meaning in MEANINGS.values():
        assert not re.search(r"[*_<>]{2}|</?\w+>", " ".join(meaning))


def test_every_picture_is_small_and_there() -> None:
    pictures = re.findall(r"\]\((pictures/\S+)\)", PAGE)
    assert sorted(pictures) == sorted(f"pictures/{one.name}" for one in CHECKOUT.joinpath("docs", "pictures").iterdir())
    assert all(CHECKOUT.joinpath("docs", one).stat().st_size < 100_000 for one in pictures)
