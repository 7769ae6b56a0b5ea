"""Writes the table of settings into README.md, from the settings themselves.

Usage: ``python tools/write_settings.py``.
"""

from __future__ import annotations

from pathlib import Path

from chatenv_server.settings import settings_table

README = Path(__file__).resolve().parent.parent / "README.md"
BEGIN = "<!-- settings: begin (written by `make docs`) -->\n"
END = "<!-- settings: end -->"


def main() -> None:
    """Replace what stands between the marks."""
    text = README.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    README.write_text(before + BEGIN + settings_table() + end + after, encoding="utf-8")


if __name__ == "__main__":
    main()
