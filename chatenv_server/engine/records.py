"""What an episode's log has written down, column by column. What of it counts is not told here, but by a head."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from chatenv_client.models import FidelityReport
from chatenv_client.tokens import Float32Array, GrowingArray, Int32Array
from chatenv_server.engine.conversation import SampledTurn
from chatenv_server.engine.turn_table import Extent, TurnTable


class Written(NamedTuple):
    """How much of each column counts."""

    tokens: int = 0
    logprobs: int = 0
    turns: int = 0
    starts: int = 0
    reports: int = 0


class Records:
    """The columns of one log. Each is written at a given place, over whatever lies from there on."""

    __slots__ = ("logprobs", "reports", "starts", "tokens", "turns")

    def __init__(self) -> None:
        self.tokens = GrowingArray(np.int32)
        self.logprobs = GrowingArray(np.float32)
        """Of the turns that have some, in stream order."""
        self.turns = TurnTable()
        self.starts = array("i")
        """First token of each message."""
        self.reports: list[FidelityReport] = []

    def write_template(
        self,
        at: Written,
        extent: Extent | None,
        tokens: Int32Array,
        starts: Sequence[int],
        reward: float | None,
        reports: Sequence[FidelityReport],
    ) -> Written:
        """Write what the template wrote; `extent` is None where that is nothing."""
        turns = at.turns if extent is None else self.turns.write_template(at.turns, extent, reward)
        if starts:
            self.starts[at.starts :] = array("i", starts)
        if reports:
            self.reports[at.reports :] = reports
        self.tokens.write(at.tokens, tokens)
        return Written(at.tokens + len(tokens), at.logprobs, turns, at.starts + len(starts), at.reports + len(reports))

    def write_sampled(
        self,
        at: Written,
        extent: Extent,
        tokens: Int32Array,
        turn: SampledTurn,
        logprobs: Float32Array | None,
        model_version: str,
        reports: Sequence[FidelityReport],
    ) -> Written:
        """Write a sampled span."""
        turns = self.turns.write_sampled(
            at.turns,
            extent,
            turn.stop_reason,
            prompted=turn.prompted,
            has_logprobs=logprobs is not None,
            model_version=model_version,
        )
        if logprobs is not None:
            self.logprobs.write(at.logprobs, logprobs)
        if reports:
            self.reports[at.reports :] = reports
        self.tokens.write(at.tokens, tokens)
        return Written(
            at.tokens + len(tokens),
            at.logprobs + (0 if logprobs is None else len(logprobs)),
            turns,
            at.starts,
            at.reports + len(reports),
        )
