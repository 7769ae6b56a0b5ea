"""The form of the code: no two files import each other, and no class is too long to be read at once."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("chatenv_client", "chatenv_server")
LONGEST_CLASS = 249
"""Lines, docstrings included."""


def modules(package: str) -> dict[str, ast.Module]:
    """Every module of a package by its name."""
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): ast.parse(path.read_text())
        for path in (ROOT / package).rglob("*.py")
        if "_generated" not in path.parts
    }


def imported_by(module: ast.Module, known: set[str]) -> Iterator[str]:
    for node in ast.walk(module):
        if isinstance(node, ast.ImportFrom) and node.module in known:
            named = {f"{node.module}.{alias.name}" for alias in node.names} & known
            yield from named or {node.module}


@pytest.mark.parametrize("package", PACKAGES)
def test_no_two_files_import_each_other(package: str) -> None:
    found = modules(package)
    imports = {name: set(imported_by(module, set(found))) for name, module in found.items()}
    assert sum(map(len, imports.values())) > len(imports)
    list(TopologicalSorter(imports).static_order())  # raises CycleError, which names them


@pytest.mark.parametrize("package", PACKAGES)
def test_no_class_is_too_long_to_be_read_at_once(package: str) -> None:
    classes = [
        (f"{name}.{node.name}", (node.end_lineno or 0) - node.lineno + 1)
        for name, module in modules(package).items()
        for node in ast.walk(module)
        if isinstance(node, ast.ClassDef)
    ]
    assert len(classes) > 100
    assert [(name, lines) for name, lines in classes if lines > LONGEST_CLASS] == []
