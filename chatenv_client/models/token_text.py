"""What a token of a vocabulary stands for, and who knows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable


class TokenText(NamedTuple):
    """What a token stands for."""

    text: bytes
    """Its bytes: UTF-8, or a part of a character. Empty where the tokenizer does not tell."""
    is_control: bool = False
    """Whether it is of the tokenizer's added vocabulary: a token that no plain text is encoded to."""


@runtime_checkable
class DescribesTokens(Protocol):
    """Whoever knows what tokens stand for: `ChatEnv` of its server's, `ChatEnvironment` of its own."""

    def describe_tokens(self, ids: Iterable[int]) -> Sequence[TokenText]:
        """What each token stands for."""


TokenSource: TypeAlias = "DescribesTokens | Mapping[int, TokenText] | Any | None"
"""A `DescribesTokens`, texts by id, or a Hugging Face tokenizer. None: nothing is known but ids."""
