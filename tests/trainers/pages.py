"""What the pages of trainers tell a reader to write, to be run as printed."""

from __future__ import annotations

import re
from pathlib import Path

PAGES = Path(__file__).resolve().parent.parent.parent / "docs" / "trainers"


def block_of(page: str, language: str, address: str) -> str:
    """The only block of a language on a page, for the server at an address."""
    text = PAGES.joinpath(f"{page}.md").read_text(encoding="utf-8")
    (block,) = re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)
    return str(block).replace("localhost:50051", address)
