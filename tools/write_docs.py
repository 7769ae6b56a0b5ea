"""Writes into the documents what the code states: the tables of settings, reset's options, errors, failures, reports.

Usage: ``python tools/write_docs.py``.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from chatenv_client import errors, reasons
from chatenv_client.errors import ChatEnvError
from chatenv_client.models import (
    ENGINE_WORDS,
    FailureKind,
    ResetOptions,
    StopReason,
    failure,
    reset_options,
    stop_reason,
)
from chatenv_client.reasons import Reason
from chatenv_client.viewing.meanings import MEANINGS
from chatenv_server.settings.settings import settings_table

CHECKOUT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([CHECKOUT / "README.md", *CHECKOUT.glob("docs/*.md")])


def main() -> None:
    """Bring every document up to date."""
    for document in DOCUMENTS:
        document.write_text(up_to_date(document.read_text(encoding="utf-8")), encoding="utf-8")


def up_to_date(document: str) -> str:
    """The document with every table between two marks as the code states it now."""
    for name, table in tables():
        before, begin, rest = document.partition(f"<!-- {name}: begin (written by `make docs`) -->\n")
        _, end, after = rest.partition(f"<!-- {name}: end -->")
        document = before + begin + table + end + after if end else document
    return document


def tables() -> Iterator[tuple[str, str]]:
    """(name of its marks, Markdown) of every table."""
    yield "settings", settings_table()
    yield "reset options", reset_options_table()
    yield "failure kinds", failure_kinds_table()
    yield "stop reasons", stop_reasons_table()
    yield "fidelity reports", reports_table()
    rows: dict[str, list[str]] = {}
    for reason, meaning in meanings().items():
        status, kind = raised_for(reason)
        rows.setdefault(status, []).append(f"| `{reason}` | `{kind.__name__}` | {meaning} |")
    for status, lines in rows.items():
        yield status, "\n".join(["| reason | exception | what happened, what to do |", "|---|---|---|", *lines, ""])


def reset_options_table() -> str:
    """The keywords of `reset`, each with the text under it where it is defined."""
    said = {name: text for name, _, text in _documented(reset_options) if name in ResetOptions.__annotations__}
    rows = [f"| `{name}` | {text} |" for name, text in said.items()]
    return "\n".join(["| keyword | meaning |", "|---|---|", *rows, ""])


def failure_kinds_table() -> str:
    """The kinds of failures, each with the text under it."""
    rows = [f"| `{value}` | {text} |" for _, value, text in _documented(failure) if value in set(FailureKind)]
    return "\n".join(["| kind | what broke |", "|---|---|", *rows, ""])


def reports_table() -> str:
    """What fidelity reports mean."""
    rows = [f"| `{kind.name}` | {' | '.join(meaning)} |" for kind, meaning in MEANINGS.items()]
    return "\n".join(
        ["| report | what happened | what it means for training | what to do |", "|---|---|---|---|", *rows, ""]
    )


def stop_reasons_table() -> str:
    """What engines say of a turn's end, by what it means here."""
    said = {value: text for name, value, text in _documented(stop_reason) if name in StopReason.__members__}
    rows = [
        f"| `{reason.value}` | {said[reason.value]} | {', '.join(f'`{word}`' for word in words)} |"
        for reason, words in ENGINE_WORDS.items()
    ]
    return "\n".join(["| stop reason | meaning | words for it |", "|---|---|---|", *rows, ""])


def meanings() -> dict[Reason, str]:
    """What happened and what to do, by reason: the text under each member of the enum."""
    return {Reason(value): text for _, value, text in _documented(reasons)}


def _documented(module: ModuleType) -> Iterator[tuple[str, Any, str]]:
    """(name, value, text) of what the classes of a module define with a text under it; None: it has no value."""
    body = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8")).body
    for node in (each for each in body if isinstance(each, ast.ClassDef)):
        for member, text in zip(node.body, node.body[1:], strict=False):
            if isinstance(member, ast.Assign | ast.AnnAssign) and isinstance(text, ast.Expr):
                target = member.targets[0] if isinstance(member, ast.Assign) else member.target
                value = None if member.value is None else ast.literal_eval(member.value)
                yield ast.unparse(target), value, " ".join(ast.literal_eval(text.value).split())


def raised_for(reason: Reason) -> tuple[str, type[ChatEnvError]]:
    """(gRPC status, exception) of a reason."""
    if reason is Reason.INTERNAL:
        return "INTERNAL", errors.UnexpectedStatusError
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ChatEnvError)]
    own = [kind for kind in kinds if kind.default_reason is reason and kind is not ChatEnvError]
    # The last is the most special: a class takes over its base's reason.
    kind = own[-1] if own else errors.InvalidRequestError
    return kind.code, kind


if __name__ == "__main__":
    main()
