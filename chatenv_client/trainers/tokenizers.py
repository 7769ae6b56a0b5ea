"""Whether a trainer has the server's tokenizer. With another one the ids are other words, and a run learns nonsense."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np

from chatenv_client.aio import AsyncChatEnv
from chatenv_client.models import ServerInfo
from chatenv_client.models.token_text import TokenText

_PROBES: Final = 256


def probes(server: ServerInfo) -> list[int]:
    """Ids to compare beside the control tokens, which tokenizers share that have no other token in common."""
    ids: list[int] = np.unique(np.linspace(0, server.vocabulary_size - 1, _PROBES).astype(int)).tolist()
    return ids


def check_tokenizer(tokenizer: Any, server: ServerInfo, described: Sequence[TokenText]) -> None:
    """Compare a trainer's tokenizer with the server's: its control tokens, and what some others stand for.

    Args:
        tokenizer: a tokenizer of Hugging Face, or a processor that has one.
        server: what the server says of itself.
        described: what it says of `probes(server)`.

    Raises:
        ValueError: it is another one.
    """
    tokenizer = getattr(tokenizer, "tokenizer", tokenizer)
    for token in server.special_tokens:
        if (own := _text_of(tokenizer, token.id)) != token.text:
            raise _another(token.id, token.text, own)
    compared = list(_compared(tokenizer, probes(server), described))
    different = [each for each in compared if each[1] != each[2]]
    if 2 * len(different) > len(compared):  # a few may differ by what a decoder does to spaces
        raise _another(*different[0])


async def compared_with(env: AsyncChatEnv, tokenizer: Any) -> ServerInfo:
    """What a server says of itself, once a trainer's tokenizer was compared with its own; None: there is none.

    Raises:
        ValueError: it is another one.
    """
    server = await env.server_info()
    if tokenizer is not None:
        check_tokenizer(tokenizer, server, await env.describe_tokens(probes(server)))
    return server


def check_stops(server: ServerInfo, eos_token_ids: Sequence[int]) -> None:
    """Compare what ends a turn of the trainer's sampler with what ends one of the server's.

    Raises:
        ValueError: nothing ends both.
    """
    if set(server.stop_ids).isdisjoint(eos_token_ids):
        what = f"the trainer ends a turn at the tokens {list(eos_token_ids)}, the server at {sorted(server.stop_ids)}"
        raise ValueError(f"{what}; set the model's generation_config.eos_token_id to one of the server's")


def _text_of(tokenizer: Any, token_id: int) -> str | None:
    return tokenizer.convert_ids_to_tokens(token_id) if token_id < len(tokenizer) else None


def _compared(tokenizer: Any, ids: Sequence[int], described: Sequence[TokenText]) -> Iterator[tuple[int, str, str]]:
    """(id, text of the server, text of the trainer) of tokens that are whole characters on the server."""
    for token_id, token in zip(ids, described, strict=True):
        text = token.text.decode(errors="replace").strip()
        if text and "\ufffd" not in text and not token.is_control:
            yield token_id, text, tokenizer.decode([token_id]).strip() if token_id < len(tokenizer) else ""


def _another(token_id: int, text: str, own: str | None) -> ValueError:
    what = f"token {token_id} is {text!r} for the server and {own!r} for the trainer"
    return ValueError(f"{what}; start the server with the model's own tokenizer")
