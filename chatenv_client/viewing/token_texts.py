"""What token ids stand for, from whatever is at hand: a client, an environment, a tokenizer, or nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from chatenv_client.models import Trajectory
from chatenv_client.models.token_text import DescribesTokens, TokenSource, TokenText


def texts_of(source: TokenSource, trajectory: Trajectory) -> dict[int, TokenText]:
    """What the tokens of a trajectory stand for, by id; those of which nothing is known are left out.

    Args:
        source: whoever knows. A tokenizer that has nothing but `decode` gives U+FFFD for a part of a character.
        trajectory: whose tokens.

    Raises:
        TypeError: the source knows nothing of tokens.
    """
    if source is None:
        return {}
    ids = np.unique(np.concatenate([segment.tokens for segment in trajectory.segments])).tolist()
    return {token_id: text for token_id, text in _described(source, ids).items() if text.text}


def _described(source: Any, ids: list[int]) -> dict[int, TokenText]:
    if isinstance(source, Mapping):
        return {token_id: source[token_id] for token_id in ids if token_id in source}
    if isinstance(source, DescribesTokens):
        return dict(zip(ids, source.describe_tokens(ids), strict=True))
    if hasattr(source, "decode"):
        added = {*getattr(source, "added_tokens_decoder", ()), *getattr(source, "all_special_ids", ())}
        return {one: TokenText(_decoded(source, one).encode(errors="replace"), one in added) for one in ids}
    raise TypeError(f"a {type(source).__name__} does not say what tokens stand for; give a ChatEnv or a tokenizer")


def _decoded(tokenizer: Any, token_id: int) -> str:
    """The text of a token inside of a text: many tokenizers take the first space of one away."""
    once, twice = str(tokenizer.decode([token_id])), str(tokenizer.decode([token_id, token_id]))
    return twice[len(once) :] if twice.startswith(once) else once
