"""What there is to play on a server, for trainers that want a list of examples: seeds, or the rows of its data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from chatenv_client.client import ChatEnv


def examples_of(
    address: str, token: str | None, seeds: int | None, reset: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """Of each example the options of a reset that are its own, by which the server knows it.

    Args:
        address: of the server.
        token: the server's, where it asks for one.
        seeds: one for each seed from 0 on. None: one for each row of the server's data.
        reset: options of all resets, of which `task` and `split` say which rows.

    Raises:
        InvalidRequestError: the server has no rows.
    """
    if seeds is not None:
        yield from ({"seed": seed} for seed in range(seeds))
        return
    with ChatEnv(address, token=token) as env:
        for index, _ in enumerate(env.list_rows(reset.get("task"), reset.get("split"))):
            yield {"row": index}
