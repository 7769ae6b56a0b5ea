"""`python -m benchmarks`: measures, prints a table, writes results.json and results.png."""

from __future__ import annotations

import argparse
from concurrent.futures import Executor, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from benchmarks import (
    bars,
    growth,
    keeping_up,
    memory,
    processes,
    report,
    segments,
    servers,
    stores,
    tasks,
    templates,
    throughput,
    user_code,
)
from benchmarks.memory import Amount
from benchmarks.plot import write_plot
from benchmarks.report import Run
from benchmarks.throughput import Scale
from benchmarks.work import CONFORMANCE, Subject, subjects

SECTIONS = (
    *("templates", "throughput", "keeping-up", "user-code", "growth", "memory", "segments", "stores", "processes"),
    "tasks",
)


def main() -> None:
    """Measure what the command line asks for."""
    arguments = _parser().parse_args()
    run = Run()
    found, missing = subjects()
    run.skipped += missing
    if (reason := servers.why_no_peer()) and {"throughput", "keeping-up"} & {*arguments.only}:
        run.skipped.append(reason)
    if (reason := keeping_up.why_not_apart()) and "keeping-up" in arguments.only:
        run.skipped.append(reason)
    # One process makes all the load, so that callers never share an interpreter with what they call.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as load_process:
        if "templates" in arguments.only:
            _measure_templates(arguments, run, load_process)
        for subject in found[:1] if arguments.quick else found:
            _measure(subject, arguments, run, load_process)
        if "tasks" in arguments.only and found:
            run.tasks = tasks.measure(found[0], 1 if arguments.quick else arguments.rounds, load_process)
            report.print_tasks(run.tasks)
            run.bars += bars.of_tasks(run.tasks)
    report.print_bars(run)
    _write(run, arguments.out)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="see in under a minute that it works")
    parser.add_argument("--rounds", type=int, default=7, help="interleaved rounds of each figure (7)")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS, help="sections to measure (all)")
    parser.add_argument("--tokens", nargs="+", type=int, default=[16, 128, 1024], help="sampled tokens a turn")
    parser.add_argument("--out", type=Path, default=Path("build/benchmarks"), help="folder of results.json and .png")
    return parser


def _measure_templates(arguments: argparse.Namespace, run: Run, load_process: Executor) -> None:
    sources = templates.sources(quick=arguments.quick)
    if not sources:
        run.skipped.append(f"templates: none at {CONFORMANCE} (CHATENV_CONFORMANCE names another folder)")
        return
    report.print_templates_head()
    scale = templates.Scale(rounds=1, episodes=1) if arguments.quick else templates.Scale(arguments.rounds)
    for source in sources:
        run.templates.append(templates.measure(source, scale, load_process))
        report.print_template(run.templates[-1])
    report.print_templates_sum(run.templates)
    run.bars += bars.of_templates(run.templates)


def _measure(subject: Subject, arguments: argparse.Namespace, run: Run, load_process: Executor) -> None:
    quick, name = arguments.quick, subject.name
    _measure_rates(subject, arguments, run, load_process)
    if "growth" in arguments.only:
        turns, rounds = (100, 1) if quick else (1000, 5)
        run.growth[name] = growth.measure(subject, turns, rounds, load_process)
        report.print_growth(name, run.growth[name])
        run.bars += bars.of_growth(name, run.growth[name])
    if "segments" in arguments.only:
        run.segments[name] = segments.measure(subject, 1 if quick else arguments.rounds, load_process)
        report.print_segments(name, run.segments[name])
        run.bars += bars.of_segments(name, run.segments[name])
    if "memory" in arguments.only and memory.can_measure():
        amount = Amount(1, 250, 500) if quick else Amount(5, 1000, 10_000)
        run.memory[name] = memory.measure(subject, amount, load_process)
        report.print_memory(name, run.memory[name])
        run.bars += bars.of_memory(name, run.memory[name])
    _measure_what_stores_bring(subject, arguments, run, load_process)


def _measure_rates(subject: Subject, arguments: argparse.Namespace, run: Run, load_process: Executor) -> None:
    quick, name = arguments.quick, subject.name
    if "throughput" in arguments.only:
        scale = Scale(rounds=1, turns=1, lone_turns=20) if quick else Scale(arguments.rounds, turns=8, lone_turns=100)
        for tokens in [128] if quick else arguments.tokens:
            figures = throughput.measure(subject, tokens, scale, load_process)
            run.throughput.setdefault(name, {})[tokens] = figures
            report.print_throughput(name, tokens, figures)
            run.bars += bars.of_throughput(name, figures) if tokens == 128 else []
    if "keeping-up" in arguments.only:
        turns, rounds = (1, 1) if quick else (8, arguments.rounds)
        for tokens in [128] if quick else bars.PEER:
            figures = keeping_up.measure(subject, tokens, turns, rounds)
            run.keeping_up.setdefault(name, {})[tokens] = figures
            report.print_keeping_up(name, tokens, figures)
            run.bars += bars.of_keeping_up(name, tokens, figures)
    if "user-code" in arguments.only:
        turns, rounds = (1, 1) if quick else (8, arguments.rounds)
        run.user_code[name] = user_code.measure(subject, turns, rounds, load_process)
        report.print_user_code(name, run.user_code[name])
        run.bars += bars.of_user_code(name, run.user_code[name])


def _measure_what_stores_bring(
    subject: Subject, arguments: argparse.Namespace, run: Run, load_process: Executor
) -> None:
    quick, name = arguments.quick, subject.name
    if "stores" in arguments.only:
        turns, rounds = (1, 1) if quick else (4, arguments.rounds)
        run.stores[name] = stores.measure(subject, turns, rounds, load_process)
        report.print_stores(name, run.stores[name])
        run.bars += bars.of_stores(name, run.stores[name])
    if "processes" in arguments.only:
        turns, rounds = (1, 1) if quick else (8, arguments.rounds)
        run.processes[name] = processes.measure(subject, turns, rounds, load_process)
        report.print_processes(name, run.processes[name])
        run.bars += bars.of_processes(name, run.processes[name])


def _write(run: Run, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    report.write_json(run, folder / "results.json")
    print(f"\n{folder / 'results.json'}")
    if not run.throughput:
        return
    try:
        write_plot(run, folder / "results.png")
        print(folder / "results.png")
    except ImportError:
        print("skipped: the plot: matplotlib is not installed (`make bench` installs it)")


if __name__ == "__main__":
    main()
