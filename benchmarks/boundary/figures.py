"""The study's figures."""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from benchmarks.boundary.design import METHODS
from benchmarks.boundary.tables import Cell

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {
    "aipo": "#c1272d", "former": "#e69f00", "clone": "#0072b2", "echo": "#56b4e9", "luffy": "#009e73", "mask": "#777777",
    "grpo": "#222222", "rft": "#cc79a7", "sft": "#8c564b",
}  # fmt: skip
"""Of the methods that are drawn; told apart by colour-blind readers too."""


def learning_curves(by_noise: Sequence[tuple[float, Sequence[Cell]]], path: Path) -> None:
    """Solo accuracy on held-out problems by step, a panel for each rate of wrong replies: median and range of the seeds."""
    figure, panels = pyplot().subplots(
        1, len(by_noise), figsize=(4.2 * len(by_noise) + 2, 3.8), layout="constrained", sharey=True, squeeze=False
    )
    for axes, (noise, found) in zip(panels[0], by_noise, strict=True):
        _draw_curves(axes, found)
        wrong = "always right" if not noise else f"wrong in {noise:.0%}"
        axes.set(xlabel="steps of 256 rollouts (or solutions)", title=f"helper or teacher {wrong}", ylim=(-0.03, 1.03))
    panels[0][0].set(ylabel="solved alone, held-out problems (pass@1)")
    lines = {line.get_label(): line for axes in panels[0] for line in axes.get_lines()}
    labels = [method.label for method in METHODS.values() if method.label in lines]
    panels[0][-1].legend(
        [lines[label] for label in labels],
        labels,
        frameon=False,
        fontsize=8,
        loc="center left",
        bbox_to_anchor=(1.0, 0.5),
    )
    finish(figure, panels[0], path)


def _draw_curves(axes: Axes, found: Sequence[Cell]) -> None:
    for cell in sorted(found, key=lambda c: list(METHODS).index(c.method)):
        if cell.method not in COLOURS:
            continue
        solo = [[point["solo"] for point in run.curve] for run in cell.runs]
        middle = [statistics.median(values) for values in zip(*solo, strict=True)]
        low, high = ([choose(values) for values in zip(*solo, strict=True)] for choose in (min, max))
        steps = [point["step"] for point in cell.runs[0].curve]
        method, width = METHODS[cell.method], 2.4 if cell.method == "aipo" else 1.4
        dashes = "--" if method.teacher else "-"
        axes.plot(steps, middle, dashes, label=method.label, color=COLOURS[cell.method], linewidth=width)
        axes.fill_between(steps, low, high, color=COLOURS[cell.method], alpha=0.12, linewidth=0)


def pyplot() -> ModuleType:
    """Matplotlib's, without a window."""
    os.environ.setdefault("MPLBACKEND", "Agg")
    from matplotlib import pyplot

    module: ModuleType = pyplot
    return module


def finish(figure: Figure, axes: Sequence[Axes], path: Path) -> None:
    """Saves a figure in the house's style."""
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
        one.grid(alpha=0.25, linewidth=0.6)
        one.set_axisbelow(True)
    figure.savefig(path, dpi=150)
    pyplot().close(figure)
