"""The plot of a run: Steps a second by way of calling, by length of turn, and what a Step costs as it gets late."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from benchmarks.measure import Figure
from benchmarks.report import Run

_BARS = (
    ("peer", "peer (HTTP/JSON)", "#b04a3a"),
    ("unary, 1 episode", "unary, 1 episode", "#3a6ea5"),
    ("unary", "unary, 64 episodes", "#3a6ea5"),
    ("stream", "stream, 64 episodes", "#3a6ea5"),
    ("batch of 32", "batches of 32", "#3a6ea5"),
    ("batch of 256", "batches of 256", "#3a6ea5"),
    ("VectorChatEnv", "VectorChatEnv, 64 episodes", "#24476b"),
    ("in-process", "in-process, no gRPC", "#7a9e7e"),
    ("ceiling of work", "ceiling of work", "#bbbbbb"),
    ("least work behind unary", "least work behind unary", "#bbbbbb"),
    ("floor unary", "bare unary echo", "#bbbbbb"),
    ("least work behind stream", "least work behind a stream", "#bbbbbb"),
    ("floor stream", "bare stream echo", "#bbbbbb"),
)
_LINES = ("batch of 256", "VectorChatEnv", "stream", "unary", "peer")


def write_plot(run: Run, file: Path) -> None:
    """Draw a row of three panels for each tokenizer.

    Raises:
        ImportError: matplotlib is not installed.
    """
    import matplotlib.pyplot as plt

    subjects = list(run.throughput)
    figure, panels = plt.subplots(
        len(subjects), 3, figsize=(17, 4.6 * len(subjects)), squeeze=False, layout="constrained"
    )
    for subject, (ways, lengths, growth) in zip(subjects, panels, strict=True):
        by_tokens = run.throughput[subject]
        tokens = 128 if 128 in by_tokens else min(by_tokens)
        _draw_ways(ways, f"{subject}: Steps a second, {tokens} sampled tokens a turn", by_tokens[tokens])
        _draw_lengths(lengths, f"{subject}: by sampled tokens a turn", by_tokens)
        _draw_growth(growth, f"{subject}: a turn's cost as the episode grows", run, subject)
    figure.savefig(file, dpi=110)
    plt.close(figure)


def _draw_ways(panel: Any, title: str, figures: dict[str, Figure]) -> None:
    shown = [(label, figures[name], colour) for name, label, colour in reversed(_BARS) if name in figures]
    medians = [figure.median for _, figure, _ in shown]
    errors = [
        [figure.median - figure.spread[0] for _, figure, _ in shown],
        [figure.spread[1] - figure.median for _, figure, _ in shown],
    ]
    panel.barh([label for label, _, _ in shown], medians, color=[colour for _, _, colour in shown])
    panel.errorbar(medians, range(len(shown)), xerr=errors, fmt="none", ecolor="black", elinewidth=0.8, capsize=2)
    for position, median in enumerate(medians):
        panel.annotate(f" {median:,.0f}", (errors[1][position] + median, position), va="center", fontsize=8)
    panel.margins(x=0.15)
    panel.set_title(title, fontsize=10)


def _draw_lengths(panel: Any, title: str, by_tokens: dict[int, dict[str, Figure]]) -> None:
    tokens = sorted(by_tokens)
    for name in _LINES:
        if all(name in by_tokens[count] for count in tokens):
            panel.plot(tokens, [by_tokens[count][name].median for count in tokens], marker="o", label=name)
    panel.set_xscale("log", base=2)
    panel.set_yscale("log")
    panel.set_xticks(tokens, [f"{count:,}" for count in tokens])
    panel.set_xlabel("sampled tokens a turn")
    panel.set_ylabel("Steps a second")
    panel.grid(visible=True, which="both", alpha=0.2)
    panel.legend(fontsize=8)
    panel.set_title(title, fontsize=10)


def _draw_growth(panel: Any, title: str, run: Run, subject: str) -> None:
    panel.set_title(title, fontsize=10)
    if subject not in run.growth:
        panel.axis("off")
        return
    curves = run.growth[subject].curves
    turns = range(1, len(curves[0].seconds) + 1)
    milliseconds = [1e3 * statistics.median(each) for each in zip(*(curve.seconds for curve in curves), strict=True)]
    panel.plot(turns, milliseconds, ".", markersize=2, color="#3a6ea5", label="time of a turn (two Steps), ms")
    panel.set_ylim(0, 4 * statistics.median(milliseconds))
    panel.set_ylabel("ms")
    panel.set_xlabel("turn (128 sampled tokens each)")
    sizes = panel.twinx()
    both = [
        (sent + received) / 1024 for sent, received in zip(curves[0].sent_bytes, curves[0].received_bytes, strict=True)
    ]
    sizes.plot(turns, both, ".", markersize=2, color="#b04a3a")
    panel.plot([], [], ".", color="#b04a3a", label="bytes of a turn, both ways, KiB")
    sizes.set_ylim(0, 2.5 * max(both))
    sizes.set_ylabel("KiB")
    panel.legend(fontsize=8, loc="upper left")
