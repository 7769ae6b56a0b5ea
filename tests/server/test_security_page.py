"""Every line of docs/security.md that says what somebody can do names tests, and they are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
NOT_DEFENDED = "take long, or much memory"
"""The one line that promises nothing."""


@pytest.fixture(scope="module")
def lines() -> list[list[str]]:
    page = CHECKOUT / "docs" / "security.md"
    if not page.exists():
        pytest.skip("the documents are not here")
    section = page.read_text(encoding="utf-8").split("## Who can do what")[1].split("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| ")]
    return [row for row in rows if row[0] != "can"]


def test_each_line_says_what_comes_of_it_and_what_holds_it(lines: list[list[str]]) -> None:
    assert [row for row in lines if len(row) != 3] == [row for row in lines if row[0] == NOT_DEFENDED]
    assert len(lines) > 20


def test_each_test_that_holds_a_line_is_there(lines: list[list[str]]) -> None:
    texts = [path.read_text(encoding="utf-8") for path in (CHECKOUT / "tests").rglob("test_*.py")]
    there = {name for text in texts for name in re.findall(r"^def (test_\w+)", text, re.MULTILINE)}
    for row in lines:
        named = re.findall(r"`(test_\w+)`", row[-1])
        assert named or row[0] == NOT_DEFENDED
        assert set(named) <= there
