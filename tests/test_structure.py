"""The form of the code: no two files import each other, and no class is too long to be read at once."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import chatenv_client
import chatenv_server

PAGE = Path(__file__).resolve().parents[1] / "docs" / "architecture.md"
FOLDERS = {package.__name__: Path(str(package.__file__)).parent for package in (chatenv_client, chatenv_server)}
"""Of both packages, as they are imported here."""
PACKAGES = tuple(FOLDERS)
LONGEST_CLASS = 249
"""Lines, docstrings included."""
UNNAMED = {"__init__.py", "__main__.py", "_version.py"}
"""Files that tell by their names what they are."""


def rows() -> list[str]:
    """Files and folders of both packages in the order in which the page on the architecture has them."""
    page = PAGE.read_text(encoding="utf-8").split("\n## Where things are")[1]
    named = [re.findall(r"`([^`]+)`", row) for row in re.findall(r"^\| (`.*?) \|", page, re.MULTILINE)]
    return [name.rstrip("/") for names in named for name in names]


def parts(package: str) -> set[str]:
    """Files and folders right in a package."""
    found = {
        path.name for path in FOLDERS[package].iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()
    }
    return found - UNNAMED - {"_generated"}


def modules(package: str) -> dict[str, ast.Module]:
    """Every module of a package by its name."""
    found = {}
    for path in FOLDERS[package].rglob("*.py"):
        if "_generated" not in path.parts:
            name = ".".join((package, *path.relative_to(FOLDERS[package]).with_suffix("").parts))
            found[name.removesuffix(".__init__")] = ast.parse(path.read_text(encoding="utf-8"))
    return found


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


def test_every_part_has_a_row_on_the_page_of_the_architecture() -> None:
    named = rows()
    client, server = named[named.index("chatenv_client") + 1 :], named[named.index("chatenv_server") + 1 :]
    client = client[: client.index("chatenv_server")]
    assert (set(client), set(server)) == (parts("chatenv_client"), parts("chatenv_server"))
    assert len(named) == len(client) + len(server) + 3


def test_each_part_of_the_server_imports_only_those_below_it_on_the_page() -> None:
    named = rows()
    below = named[named.index("chatenv_server") + 1 :]
    order = {name.removesuffix(".py"): index for index, name in enumerate(["__main__", *below])}
    found = modules("chatenv_server")
    uses = {
        (name.split(".")[1], used.split(".")[1])
        for name, module in found.items()
        for used in imported_by(module, set(found))
        if name.count(".") and used.count(".")
    }
    assert len(uses) > 50
    assert [(one, other) for one, other in uses if order[one] > order[other]] == []
