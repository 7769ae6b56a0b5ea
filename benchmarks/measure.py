"""Figures: medians of interleaved rounds, with their spread."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

Contestant = Callable[[], float]


@dataclass(frozen=True)
class Figure:
    """One measured thing."""

    name: str
    unit: str
    rounds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """The middle round."""
        return statistics.median(self.rounds)

    @property
    def spread(self) -> tuple[float, float]:
        """The least and the greatest round."""
        return min(self.rounds), max(self.rounds)


def interleave(contestants: Mapping[str, Contestant], rounds: int, unit: str) -> dict[str, Figure]:
    """Let all contestants run once a round, in turn, so that a busy moment of the machine hits none alone."""
    figures = {name: Figure(name, unit) for name in contestants}
    names = list(contestants)
    for number in range(rounds):
        # Each round begins with another one: who comes first meets the coldest caches.
        for name in names[number % len(names) :] + names[: number % len(names)]:
            figures[name].rounds.append(contestants[name]())
    return figures


def ratio(of: Figure, to: Figure) -> list[float]:
    """`of` / `to`, round by round: what they have in common, a loaded machine for one, falls out."""
    return [one / other for one, other in zip(of.rounds, to.rounds, strict=True)]
