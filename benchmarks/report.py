"""Shows a run: a table for people, JSON for machines, a plot for both."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import keeping_up, processes, user_code
from benchmarks.bars import CHEAP, Bar
from benchmarks.growth import Growth
from benchmarks.measure import Figure
from benchmarks.segments import Segments
from benchmarks.stores import Stores
from benchmarks.tasks import EPISODES, NAP_S, Tasks
from benchmarks.templates import SHORTCUT, Measured
from benchmarks.turns import KINDS

_LIBRARIES = ("chatenv-rl", "grpcio", "protobuf", "tokenizers", "transformers", "numpy", "openenv")


@dataclass
class Run:
    """Everything that one run measured."""

    throughput: dict[str, dict[int, dict[str, Figure]]] = field(default_factory=dict)
    """By tokenizer and sampled tokens a turn."""
    keeping_up: dict[str, dict[int, dict[str, Figure]]] = field(default_factory=dict)
    user_code: dict[str, dict[str, Figure]] = field(default_factory=dict)
    growth: dict[str, Growth] = field(default_factory=dict)
    memory: dict[str, dict[str, Figure]] = field(default_factory=dict)
    segments: dict[str, Segments] = field(default_factory=dict)
    tasks: Tasks | None = None
    stores: dict[str, Stores] = field(default_factory=dict)
    processes: dict[str, dict[str, Figure]] = field(default_factory=dict)
    templates: list[Measured] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    """What could not be measured, and why."""
    load_before: tuple[float, ...] = field(default_factory=os.getloadavg)


def print_throughput(subject: str, sampled_tokens: int, figures: Mapping[str, Figure]) -> None:
    """One block of the table."""
    print(f"\n{subject}, {sampled_tokens} sampled tokens a turn [steps/s: median (least to greatest)]")
    _print_figures(figures)


def print_keeping_up(subject: str, sampled_tokens: int, figures: Mapping[str, Figure]) -> None:
    """One block of the table."""
    print(f"\n{subject}, {sampled_tokens} sampled tokens a turn, {keeping_up.EPISODES} episodes [steps/s]")
    _print_figures(figures)


def print_user_code(subject: str, figures: Mapping[str, Figure]) -> None:
    """One block of the table."""
    print(f"\n{subject}, {user_code.EPISODES} episodes, beside code of users that does nothing [steps/s]")
    _print_figures(figures)


def print_growth(subject: str, growth: Growth) -> None:
    """One block of the table."""
    print(f"\n{subject}, one episode of {growth.late} turns")
    for turn in (growth.early, growth.late // 2, growth.late):
        milliseconds = Figure(f"turn {turn}", "ms", [1e3 * curve.seconds_at(turn) for curve in growth.curves])
        _print_figures({f"turn {turn}, ms": milliseconds})
    _print_figures({figure.name: figure for figure in growth.figures().values()})


def print_memory(subject: str, figures: Mapping[str, Figure]) -> None:
    """One block of the table."""
    print(f"\n{subject}, memory and start-up")
    _print_figures({f"{figure.name}, {figure.unit}": figure for figure in figures.values()})


def print_segments(subject: str, measured: Segments) -> None:
    """One block of the table."""
    print(f"\n{subject}, segments [ms of processor time]")
    for one in measured.begun:
        _print_figures({f"{one.tokens:,} tokens: {each.name}": each for each in (one.ours, one.render, one.encoding)})


def print_tasks(measured: Tasks) -> None:
    """One block of the table."""
    print(f"\ntasks, {EPISODES} episodes step at once [s]")
    _print_figures({"tasks that answer at once": measured.quick, f"tasks that sleep {NAP_S} s": measured.napping})


def print_stores(subject: str, measured: Stores) -> None:
    """One block of the table."""
    print(f"\n{subject}, episodes in a store [steps/s]")
    for store, figures in measured.rates.items():
        _print_figures({f"{store}: {way}": figure for way, figure in figures.items()})
    _print_figures({"reload of 100 turns and 20,000 tokens, ms": measured.reload})


def print_processes(subject: str, figures: Mapping[str, Figure]) -> None:
    """One block of the table."""
    print(f"\n{subject}, VectorChatEnv of {processes.EPISODES} at several processes on one SQLite file [steps/s]")
    _print_figures(figures)


def print_template(one: Measured) -> None:
    """One row of the table of templates; under a head that `print_templates_head` prints."""
    ratios = [f"{median(one.ratio(kind.name)):.2f}" if kind.name in one.kinds else "-" for kind in KINDS]
    takes = "yes" if SHORTCUT in one.features else ""
    print(f"  {one.name:<40}" + "".join(f"{text:>17}" for text in ratios) + f"{takes:>11}", flush=True)


def print_templates_head() -> None:
    """The head of the table of templates."""
    print("\nTemplates: a turn in-process, by transformers' own work for it [ratio of processor time: median]")
    print(f"  {'':<40}" + "".join(f"{kind.name:>17}" for kind in KINDS) + f"{'shortcut':>11}")


def print_templates_sum(measured: Sequence[Measured]) -> None:
    """What the table of templates comes to."""
    for kind in KINDS:
        medians = sorted(median(one.ratio(kind.name)) for one in measured if kind.name in one.kinds)
        if medians:
            counts = ", ".join(f"{sum(one <= limit for one in medians)} at most {limit}" for limit in (1.0, CHEAP))
            middle, dearest = median(medians), medians[-1]
            print(f"  {kind.name:<16} {len(medians)} templates: median {middle:.2f}, dearest {dearest:.2f}; {counts}")
    noise = [one.noise(kind) for one in measured for kind in one.kinds]
    if noise:
        medians = sorted(map(median, noise))
        rounds = sorted(value for each in noise for value in each)
        print(f"  noise floor, transformers by itself: medians {medians[0]:.2f} to {medians[-1]:.2f}, ", end="")
        print(f"nine in ten rounds {rounds[len(rounds) // 20]:.2f} to {rounds[-1 - len(rounds) // 20]:.2f}")
    shortcuts = sum(SHORTCUT in one.features for one in measured)
    print(f"  templates that take the shortcut: {shortcuts or 'not told'}")


def _print_figures(figures: Mapping[str, Figure]) -> None:
    for name, figure in figures.items():
        low, high = figure.spread
        print(f"  {name:<62}{_number(figure.median):>10}  ({_number(low)} to {_number(high)})", flush=True)


def print_bars(run: Run) -> None:
    """The bars, and what was skipped."""
    print("\nBars")
    for bar in run.bars:
        sign = ">=" if bar.is_floor else "<="
        verdict = "met" if bar.is_met else "NOT MET"
        wanted = f"{sign} {_number(bar.limit)} {bar.unit}"
        print(f"  {bar.subject:<9} {bar.what:<56} {_number(bar.median):>9}  {wanted:<14} {verdict}")
        if bar.least_work:
            print(f"  {'':<9} {'  the least work behind the same transport':<56} {_number(median(bar.least_work)):>9}")
    for reason in run.skipped:
        print(f"  skipped: {reason}")
    print(f"  load average of the machine before: {run.load_before[0]:.1f}, now: {os.getloadavg()[0]:.1f}")


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def write_json(run: Run, file: Path) -> None:
    """All rounds of all figures, and the machine that they were measured on."""
    content = {
        "machine": _machine(run),
        "throughput_steps_per_second": {subject: _by_tokens(figures) for subject, figures in run.throughput.items()},
        "keeping_up_steps_per_second": {subject: _by_tokens(figures) for subject, figures in run.keeping_up.items()},
        "user_code_steps_per_second": {subject: _rounds(figures) for subject, figures in run.user_code.items()},
        "growth": {subject: dataclasses.asdict(growth) for subject, growth in run.growth.items()},
        "tasks": None if run.tasks is None else dataclasses.asdict(run.tasks),
        "segments": {subject: dataclasses.asdict(measured) for subject, measured in run.segments.items()},
        "stores": {subject: dataclasses.asdict(measured) for subject, measured in run.stores.items()},
        "processes_steps_per_second": {subject: _rounds(figures) for subject, figures in run.processes.items()},
        "memory": {subject: _rounds(figures) for subject, figures in run.memory.items()},
        "templates_microseconds_per_turn": [_of_template(one) for one in run.templates],
        "bars": [{**dataclasses.asdict(bar), "median": bar.median, "is_met": bar.is_met} for bar in run.bars],
        "skipped": run.skipped,
    }
    file.write_text(json.dumps(content, indent=1))


def _of_template(one: Measured) -> dict[str, Any]:
    kinds = {kind: _rounds(figures) for kind, figures in one.kinds.items()}
    return {"name": one.name, "features": one.features, "kinds": kinds, "left_out": one.left_out}


def _by_tokens(measured: Mapping[int, Mapping[str, Figure]]) -> dict[str, dict[str, list[float]]]:
    return {str(tokens): _rounds(figures) for tokens, figures in measured.items()}


def _rounds(figures: Mapping[str, Figure]) -> dict[str, list[float]]:
    return {name: figure.rounds for name, figure in figures.items()}


def _machine(run: Run) -> dict[str, Any]:
    return {
        "cpus": os.cpu_count(),
        "platform": platform.platform(),
        "python": sys.version,
        "libraries": {name: version for name in _LIBRARIES if (version := _version(name))},
        "load_average_before": run.load_before,
        "load_average_after": os.getloadavg(),
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
