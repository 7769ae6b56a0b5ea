"""The plots of training runs: curves by name, one for each seed, of one colour."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

SMOOTHED_OVER = 5
"""Steps."""
COLOURS = ("#3a6ea5", "#b04a3a", "#7a9e7e")

Curves = Mapping[str, Sequence[Sequence[float]]]
"""By name of a run, its curve for each seed."""


def write_plot(file: Path, panels: Mapping[str, Curves], *, percent: Sequence[str] = ()) -> None:
    """Draw panels, two in a row, each with its curves over the training steps.

    Args:
        file: SVG or PNG, by its name.
        panels: by title.
        percent: titles of panels whose figures are shares.

    Raises:
        ImportError: matplotlib is not installed.
    """
    import matplotlib.pyplot as plt
    from matplotlib.ticker import PercentFormatter

    plt.rcParams.update({"svg.hashsalt": "chatenv", "svg.fonttype": "none"})  # same figures, same file; text stays text
    rows, columns = math.ceil(len(panels) / 2), min(2, len(panels))
    figure, drawn = plt.subplots(rows, columns, figsize=(5 * columns, 3.3 * rows), squeeze=False, layout="constrained")
    for panel, (title, curves) in zip(drawn.flat, panels.items(), strict=False):
        draw(panel, title, curves)
        if title in percent:
            panel.yaxis.set_major_formatter(PercentFormatter(1.0))
    figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None, dpi=110)
    plt.close(figure)


def draw(panel: Any, title: str, curves: Curves) -> None:
    """Draw one panel."""
    for colour, (name, seeds) in zip(COLOURS, curves.items(), strict=False):
        for index, figures in enumerate(seeds):
            panel.plot(smoothed(figures), color=colour, linewidth=1.4, label=name if index == 0 else None)
    panel.set_title(title, fontsize=10)
    panel.set_xlabel("training step", fontsize=9)
    panel.set_ylim(bottom=0)
    panel.grid(visible=True, alpha=0.2)
    panel.legend(fontsize=8, loc="best")


def smoothed(figures: Sequence[float]) -> list[float]:
    """The mean of the last few figures at each step."""
    return [mean(figures[max(0, step - SMOOTHED_OVER + 1) : step + 1]) for step in range(len(figures))]
