"""What a token of a vocabulary stands for."""

from __future__ import annotations

from typing import NamedTuple


class TokenText(NamedTuple):
    """What a token stands for."""

    text: bytes
    """Its bytes: UTF-8, or a part of a character. Empty where the tokenizer does not tell."""
    is_control: bool = False
    """Whether it is of the tokenizer's added vocabulary: a token that no plain text is encoded to."""
