"""The laws that docs/tokens.md states are the laws that tests cite, and a test named for a law cites it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).resolve().parent
STATED = re.compile(r"^(\d+)\. \*\*(\S[^*]*\.)\*\* ", re.MULTILINE)


def stated() -> list[tuple[int, str]]:
    """(number, title) of each law, in order."""
    text = (TESTS.parent / "docs" / "tokens.md").read_text(encoding="utf-8")
    section = text.split("\n## Laws\n")[1].split("\n## ")[0]
    return [(int(number), title) for number, title in STATED.findall(section)]


def citations() -> Iterator[tuple[str, list[int]]]:
    """The name of each test, and the laws that it cites by the marker `law`."""
    for source in TESTS.rglob("test_*.py"):
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                marks = " ".join(map(ast.unparse, node.decorator_list))
                yield node.name, [int(number) for number in re.findall(r"pytest\.mark\.law\((\d+)\)", marks)]


def test_the_laws_are_numbered_in_order_and_each_has_a_title_of_its_own() -> None:
    numbers, titles = zip(*stated(), strict=True)
    assert list(numbers) == list(range(1, len(numbers) + 1))
    assert len(set(titles)) == len(titles)


def test_each_law_is_cited_by_a_test_and_no_other_is() -> None:
    assert {number for _, cited in citations() for number in cited} == {number for number, _ in stated()}


def test_a_test_that_is_named_for_a_law_cites_it() -> None:
    named = [(name, int(found[1]), cited) for name, cited in citations() if (found := re.match(r"test_(\d\d)_", name))]
    assert [name for name, number, cited in named if cited != [number]] == []
