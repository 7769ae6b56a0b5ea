"""Writes the table of settings into the documents that hold it, from the settings themselves.

Usage: ``python tools/write_settings.py``.
"""

from __future__ import annotations

from pathlib import Path

from chatenv_server.settings.settings import settings_table

CHECKOUT = Path(__file__).resolve().parent.parent
DOCUMENTS = (CHECKOUT / "README.md", CHECKOUT / "docs" / "operations.md")
BEGIN = "<!-- settings: begin (written by `make docs`) -->\n"
END = "<!-- settings: end -->"


def main() -> None:
    """Replace what stands between the marks."""
    for document in DOCUMENTS:
        before, _, rest = document.read_text(encoding="utf-8").partition(BEGIN)
        _, end, after = rest.partition(END)
        document.write_text(before + BEGIN + settings_table() + end + after, encoding="utf-8")


if __name__ == "__main__":
    main()
