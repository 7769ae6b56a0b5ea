"""Finds out where a sampled span goes on after a token that ends a turn, as a sampler without stop tokens makes it.

What stands there, a made-up user turn perhaps, is no part of the turn. Some templates write such tokens inside a turn
themselves; those are none.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, Final

import numpy as np

from chatenv_client.errors import TemplateRejectedError
from chatenv_client.tokens import Int32Array
from chatenv_server.engine.heads import Heads
from chatenv_server.engine.probe_messages import PROBE_CALL_ID, SENTINEL, assistant, calling

_RICH_TURNS: Final[tuple[dict[str, Any], ...]] = (
    assistant(SENTINEL),
    {**assistant(SENTINEL), "reasoning_content": SENTINEL},
    {**calling({"key": SENTINEL}), "content": SENTINEL, "reasoning_content": SENTINEL},
    calling({"key": SENTINEL}, ids=(PROBE_CALL_ID, "callZq7x2")),
)
"""Turns of several parts, between which a template may write tokens that end a turn elsewhere."""


class InnerStops:
    """The stop tokens of one bound template that no turn of it holds inside. Safe for threads.

    Args:
        stops: text of each stop token.
        heads: renders turns.
    """

    def __init__(self, stops: Mapping[int, str], heads: Heads) -> None:
        self._stops = {stop_id: text for stop_id, text in stops.items() if text}
        self._texts = tuple(self._stops.values())
        self._heads = heads

    def first(self, ids: Int32Array, text: str) -> int | None:
        """Index of the first token of a span that ends a turn although the span goes on; None nearly always.

        Args:
            ids: (n,) int32, the span.
            text: the span decoded, without its close.
        """
        for stop in self._texts:  # looked for in the text first, which takes a tenth of the time
            if stop in text:
                found = np.flatnonzero(np.isin(ids[:-1], self._ids))
                return int(found[0]) if len(found) else None
        return None

    @cached_property
    def _ids(self) -> list[int]:
        inside = set().union(*map(self._inside, _RICH_TURNS))
        return [stop_id for stop_id in self._stops if stop_id not in inside]

    def _inside(self, answer: dict[str, Any]) -> set[int]:
        """The stop tokens that the template writes in a turn and goes on after."""
        try:
            _, written = self._heads.asked_and_answered(answer)
        except TemplateRejectedError:
            return set()
        turn = written[written.find(SENTINEL) :]
        last = max((turn.rfind(text) for text in self._texts), default=-1)
        return {stop_id for stop_id, text in self._stops.items() if -1 < turn.find(text) < last}
