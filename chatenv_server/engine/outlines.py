"""Messages in outline: their roles, calls and shape, with one letter for every text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from chatenv_server.engine.forms import texts_of


def outline_of(
    message: Mapping[str, Any], index: int, tested_texts: Sequence[str], mark: Callable[[str], str] | None = None
) -> dict[str, Any]:
    """A message with one letter for each of its texts, and what the template looks for in them.

    Args:
        message: as it was given or read.
        index: its number in the conversation; neighbours get different letters.
        tested_texts: what the template looks for.
        mark: marks control-token strings in what is kept of a given message.
    """
    outline = dict(message)
    if "content" in message:
        own = "".join(texts_of(message))
        tested = "".join(text for text in tested_texts if text in own)
        if tested and mark is not None and message.get("role") != "assistant":
            tested = mark(tested)
        outline["content"] = tested + chr(ord("a") + index % 26) if message["content"] else message["content"]
    if message.get("reasoning_content"):
        outline["reasoning_content"] = "r"
    return outline
