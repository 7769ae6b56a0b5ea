"""What has to be reached, and whether it was: ratios of figures from one run."""

from __future__ import annotations

import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks import keeping_up, processes, segments, stores, tasks, user_code
from benchmarks.growth import Growth
from benchmarks.measure import Figure, ratio
from benchmarks.memory import EPISODE_TOKENS
from benchmarks.segments import Segments
from benchmarks.stores import Stores
from benchmarks.tasks import Tasks
from benchmarks.templates import Measured
from benchmarks.turns import PLAIN, WITH_TOOLS

PEER = {128: 8, 1024: 12}
"""By sampled tokens a turn: how many times the peer's Steps."""
_OF_MEMORY = {
    "sqlite": dict(zip(stores.WAYS, (0.6, 0.75, 0.6), strict=True)),
    "redis": dict(zip(stores.WAYS, (0.5, 0.6, 0.5), strict=True)),
}
"""By store and way: the least share of the memory store's rate."""
CHEAP = 0.8
"""Of transformers' time: what a turn may take under two thirds of all templates."""


@dataclass(frozen=True)
class Bar:
    """One bar and what was measured."""

    subject: str
    what: str
    limit: float
    unit: str
    is_floor: bool
    """Whether the measured value has to be at least the limit, or at most."""
    rounds: list[float]
    least_work: list[float] = field(default_factory=list)
    """What a server reaches that does the least work behind the same transport; empty where that says nothing."""

    @property
    def median(self) -> float:
        """The middle round."""
        return statistics.median(self.rounds)

    @property
    def is_met(self) -> bool:
        """Whether the middle round reaches it."""
        return self.median >= self.limit if self.is_floor else self.median <= self.limit


def of_throughput(subject: str, figures: Mapping[str, Figure]) -> list[Bar]:
    """Bars on Steps a second with 128 tokens a turn."""

    def bar(what: str, of: str, to: str, limit: float, least: str = "") -> Bar:
        least_work = ratio(figures[least], figures[to]) if least else []
        return Bar(subject, what, limit, "x", True, ratio(figures[of], figures[to]), least_work)

    bars = [
        bar("unary Step, 64 episodes, against the bare echo", "unary", "floor unary", 0.7, "least work behind unary"),
        bar(
            "StreamSteps, 64 episodes, against the bare stream echo",
            "stream",
            "floor stream",
            0.6,
            "least work behind stream",
        ),
        bar("StreamSteps against our own unary", "stream", "unary", 1.5),
    ]
    if "batch of 256" in figures:
        bars.append(bar("BatchStep of 256 against the ceiling of work", "batch of 256", "ceiling of work", 0.6))
    return bars


def of_keeping_up(subject: str, sampled_tokens: int, figures: Mapping[str, Figure]) -> list[Bar]:
    """Bars on VectorChatEnv beside recorded bytes, with 128 tokens a turn, and beside the peer."""
    episodes = f"VectorChatEnv of {keeping_up.EPISODES}, {sampled_tokens} tokens,"

    def bar(to: str, sharing: str, limit: float) -> list[Bar]:
        if f"{to}, {sharing}" not in figures:
            return []
        rounds = ratio(figures[f"{keeping_up.VECTOR}, {sharing}"], figures[f"{to}, {sharing}"])
        return [Bar(subject, f"{episodes} against {to}, {sharing}", limit, "x", True, rounds)]

    bars = bar(keeping_up.PEER, keeping_up.OWN, PEER[sampled_tokens])
    if sampled_tokens == 128:
        bars += bar(keeping_up.RAW, keeping_up.OWN, 0.85) + bar(keeping_up.RAW, keeping_up.SHARED, 0.75)
    return bars


def of_user_code(subject: str, figures: Mapping[str, Figure]) -> list[Bar]:
    """Bars on transforms and tasks that do nothing."""
    none = figures[user_code.NONE]
    return [
        Bar(subject, f"VectorChatEnv {name} that does nothing", 0.8, "x", True, ratio(figures[name], none))
        for name in (user_code.TRANSFORM, user_code.TASK)
    ]


def of_templates(measured: Sequence[Measured]) -> list[Bar]:
    """Bars on a turn in-process, beside transformers' own work for it."""
    bars = []
    for kind in (PLAIN.name, WITH_TOOLS.name):
        ratios = [one.ratio(kind) for one in measured if kind in one.kinds]
        if not ratios:
            continue
        medians = [statistics.median(each) for each in ratios]
        dearest = ratios[medians.index(max(medians))]
        share = sum(median <= CHEAP for median in medians) / len(medians)
        bars += [
            Bar("templates", f"{kind}: the dearest of {len(ratios)}, by transformers", 1.0, "x", False, dearest),
            Bar("templates", f"{kind}: share at most {CHEAP} of transformers", 0.667, "", True, [share]),
        ]
    return bars


def of_growth(subject: str, growth: Growth) -> list[Bar]:
    """Bars on what a Step costs late in a conversation."""
    return [Bar(subject, figure.name, 1.1, "x", False, figure.rounds) for figure in growth.figures().values()]


def of_segments(subject: str, measured: Segments) -> list[Bar]:
    """Bars on Steps that begin a segment, and on those that begin none."""
    bars = [
        Bar(subject, f"a new segment at {one.tokens:,} tokens, by what it may take", 1.0, "x", False, one.ratios())
        for one in measured.begun
    ]
    if measured.unsegmented:
        bars.append(Bar(subject, segments.NONE, 1.03, "x", False, measured.unsegmented))
    return bars


def of_memory(subject: str, figures: Mapping[str, Figure]) -> list[Bar]:
    """Bars on what a server holds."""
    limits = {
        "idle": ("idle RSS", 120, "MB"),
        "startup": ("start-up", 2.5, "s"),
        "torch": ("torch loaded", 0, "yes=1"),
        "live": (f"per live episode of {EPISODE_TOKENS} tokens", 24, "KiB"),
        "after": ("RSS after episodes came and went", 1.05, "x"),
    }
    return [
        Bar(subject, what, limit, unit, False, figures[name].rounds) for name, (what, limit, unit) in limits.items()
    ]


def of_tasks(measured: Tasks) -> list[Bar]:
    """Bars on what tasks cost."""
    bars = [
        Bar("tasks", "added to a Step by a task that answers at once", 15, "us", False, measured.added),
        Bar(
            "tasks", f"{tasks.EPISODES} that sleep, by work and {tasks.ALLOWED_S} s", 1.0, "x", False, measured.ratios()
        ),
    ]
    if measured.threads:
        bars.append(Bar("tasks", "threads of the server", 50, "", False, [float(measured.threads)]))
    return bars


def of_processes(subject: str, figures: Mapping[str, Figure]) -> list[Bar]:
    """Bars on what more processes give: on two cores the client and they share both."""
    one = figures[processes.name_of(1)]
    few_cores = (os.cpu_count() or 1) <= 2
    return [
        Bar(
            subject,
            f"{processes.name_of(n)} against one, client included",
            1.3 if few_cores else 0.7 * n,
            "x",
            True,
            ratio(figures[processes.name_of(n)], one),
        )
        for n in processes.counts()[1:]
    ]


def of_stores(subject: str, measured: Stores) -> list[Bar]:
    """Bars on what a store costs."""
    rates = [
        Bar(subject, f"{store}: {way}, against memory", limit, "x", True, measured.ratios(store, way))
        for store, ways in _OF_MEMORY.items()
        if store in measured.rates
        for way, limit in ways.items()
    ]
    return [
        *rates,
        Bar(subject, "bytes of an entry, by what they may be", 1.0, "x", False, [max(measured.written)]),
        Bar(subject, "reload of 100 turns and 20,000 tokens", 20, "ms", False, measured.reload.rounds),
        Bar(subject, "a late Step with its entry, against an early one", 1.1, "x", False, measured.growth),
    ]
