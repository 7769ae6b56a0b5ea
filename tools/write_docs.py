"""Writes into the documents what the code states: the tables of settings, of reset's options and of errors.

Usage: ``python tools/write_docs.py``.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from chatenv_client import errors, reasons
from chatenv_client.errors import ChatEnvError
from chatenv_client.models import reset_options
from chatenv_client.reasons import Reason
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
    rows: dict[str, list[str]] = {}
    for reason, meaning in meanings().items():
        status, kind = raised_for(reason)
        rows.setdefault(status, []).append(f"| `{reason}` | `{kind.__name__}` | {meaning} |")
    for status, lines in rows.items():
        yield status, "\n".join(["| reason | exception | what happened, what to do |", "|---|---|---|", *lines, ""])


def reset_options_table() -> str:
    """The keywords of `reset`, each with the text under it in `ResetOptions`."""
    (options,) = (
        node
        for node in ast.parse(Path(reset_options.__file__).read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef) and node.name == reset_options.ResetOptions.__name__
    )
    rows = [
        f"| `{ast.unparse(option.target)}` | {' '.join(ast.literal_eval(text.value).split())} |"
        for option, text in zip(options.body, options.body[1:], strict=False)
        if isinstance(option, ast.AnnAssign) and isinstance(text, ast.Expr)
    ]
    return "\n".join(["| keyword | meaning |", "|---|---|", *rows, ""])


def meanings() -> dict[Reason, str]:
    """What happened and what to do, by reason: the text under each member of the enum."""
    (enum,) = (
        node
        for node in ast.parse(Path(reasons.__file__).read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef)
    )
    found = {}
    for member, text in zip(enum.body, enum.body[1:], strict=False):
        if isinstance(member, ast.Assign) and isinstance(text, ast.Expr):
            found[Reason(ast.literal_eval(member.value))] = " ".join(ast.literal_eval(text.value).split())
    return found


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
