"""What a tokenizer object says of itself: its template, special tokens, stop tokens, size."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from chatenv_server.engine.added_tokens import AddedTokens

_END_OF_TEXT = re.compile(
    r"</s>|\W*(end[_▁ ]?of[_▁ ]?(text|sentence|sequence|turn|message|utterance)|eo[sdmt])(_id|_token)?\W*",
    re.IGNORECASE,
)


def template_of(tokenizer: Any, *, tools: bool = False) -> str | None:
    """A tokenizer's own chat template; the one for tool use, or the default, where it has several by name."""
    template = getattr(tokenizer, "chat_template", None)
    if isinstance(template, Mapping):
        return template.get("tool_use" if tools and "tool_use" in template else "default")
    return template


def special_tokens_of(tokenizer: Any) -> dict[str, str]:
    """The special tokens that templates read by name, such as bos_token."""
    return {
        name: str(text)
        for name, text in getattr(tokenizer, "special_tokens_map", {}).items()
        if not isinstance(text, list)
    }


def stop_ids_of(tokenizer: Any) -> frozenset[int]:
    """Ids that end a generation by the tokenizer's own account."""
    ids = getattr(tokenizer, "eos_token_id", None)
    if ids is None:
        return frozenset()
    return frozenset(int(token_id) for token_id in (ids if isinstance(ids, Iterable) else [ids]))


def end_of_text_ids(added: AddedTokens) -> frozenset[int]:
    """Ids of special tokens that end a text by their name.

    A model may stop at one that its chat template never writes, such as `<|endoftext|>` under ChatML, and the
    tokenizer alone does not say so.
    """
    return frozenset(i for i in added.special_ids if _END_OF_TEXT.fullmatch(added.texts[i]))


def vocabulary_size_of(tokenizer: Any) -> int:
    """How many tokens an object on the plain path knows; 2**31 - 1 where it does not tell."""
    try:
        return len(tokenizer)
    except TypeError:
        return int(getattr(tokenizer, "vocab_size", 2**31 - 1))
