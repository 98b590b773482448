"""The study's figures."""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from aipo_env.metrics import default_ks
from benchmarks.boundary.design import METHODS
from benchmarks.boundary.runs import RunResult
from benchmarks.boundary.tables import Cell

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {
    "aipo": "#c1272d", "clone": "#0072b2", "is": "#56b4e9", "luffy": "#009e73", "mask": "#777777", "grpo": "#222222",
    "sft": "#e69f00", "luffy_mixed": "#cc79a7",
}  # fmt: skip
"""Told apart by colour-blind readers too."""


def learning_curves(found: Sequence[Cell], path: Path) -> None:
    """Solo accuracy on held-out problems against rollouts and against trained tokens: median of the seeds, range as a band."""
    figure, (left, right) = pyplot().subplots(1, 2, figsize=(9, 3.8), layout="constrained", sharey=True)
    for cell in found:
        solo = [[point["solo"] for point in run.curve] for run in cell.runs]
        middle = [statistics.median(values) for values in zip(*solo, strict=True)]
        low, high = ([choose(values) for values in zip(*solo, strict=True)] for choose in (min, max))
        for axes, what in ((left, "rollouts"), (right, "trained_tokens")):
            spent = [statistics.median(values) / 1000 for values in zip(*_axis(cell.runs, what), strict=True)]
            style = {"color": COLOURS[cell.method], "linewidth": 2.4 if cell.method == "aipo" else 1.4}
            dashes = "--" if cell.method in ("sft", "luffy_mixed") else "-"
            axes.plot(spent, middle, dashes, label=METHODS[cell.method].label, **style)
            axes.fill_between(spent, low, high, color=COLOURS[cell.method], alpha=0.12, linewidth=0)
    left.set(xlabel="thousand rollouts", ylabel="solved alone, held-out problems (pass@1)", ylim=(-0.03, 1.03))
    right.set(xlabel="thousand trained tokens")
    right.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    finish(figure, (left, right), path)


def pass_at_k_curves(found: Sequence[Cell], path: Path) -> None:
    """Solo pass@k on the boundary problems after training, with intervals over problems; before, it is 0 by selection."""
    figure, axes = pyplot().subplots(figsize=(6.4, 4), layout="constrained")
    for cell in found:
        ks = default_ks(cell.num_samples)
        intervals = [cell.solo(k) for k in ks]
        axes.plot(
            ks, [i.estimate for i in intervals], "--" if cell.method in ("sft", "luffy_mixed") else "-",
            color=COLOURS[cell.method], label=METHODS[cell.method].label, linewidth=2.4 if cell.method == "aipo" else 1.4,
        )  # fmt: skip
        axes.fill_between(
            ks,
            [i.low for i in intervals],
            [i.high for i in intervals],
            color=COLOURS[cell.method],
            alpha=0.12,
            linewidth=0,
        )
    axes.axhline(0, color="#222222", linestyle=":", linewidth=1.2, label="start policy (0 by selection)")
    axes.set_xscale("log", base=2)
    axes.set_xticks(default_ks(found[0].num_samples), [str(k) for k in default_ks(found[0].num_samples)])
    axes.set(xlabel="k", ylabel="solo pass@k, boundary problems", ylim=(-0.03, 1.03))
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    finish(figure, (axes,), path)


def ablation_bars(groups: Sequence[tuple[str, Sequence[Cell]]], default: Cell | None, path: Path) -> None:
    """Solo pass@1 of each changed setting: bar at the median, a dot for each seed, a line at the unchanged median."""
    names = [(f"{cell.name}", cell) for _, cells in groups for cell in cells]
    figure, axes = pyplot().subplots(figsize=(7, 0.6 + 0.27 * len(names)), layout="constrained")
    for place, (_, cell) in enumerate(names):
        values = cell.solo_by_seed()
        axes.barh(place, statistics.median(values), color="#9ecae1", height=0.7)
        axes.plot(values, [place] * len(values), "o", color="#08519c", markersize=3.5)
    if default is not None:
        axes.axvline(statistics.median(default.solo_by_seed()), color=COLOURS["aipo"], linewidth=1.4, label="unchanged")
        axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, 1.06))
    axes.set_yticks(range(len(names)), [name for name, _ in names], fontsize=8)
    axes.invert_yaxis()
    axes.set(xlabel="solo pass@1, boundary problems", xlim=(0, 1))
    finish(figure, (axes,), path)


def _axis(runs: Sequence[RunResult], what: str) -> list[list[float]]:
    return [[point[what] for point in run.curve] for run in runs]


def pyplot() -> ModuleType:
    os.environ.setdefault("MPLBACKEND", "Agg")
    from matplotlib import pyplot

    module: ModuleType = pyplot
    return module


def finish(figure: Figure, axes: Sequence[Axes], path: Path) -> None:
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
        one.grid(alpha=0.25, linewidth=0.6)
        one.set_axisbelow(True)
    figure.savefig(path, dpi=150)
    pyplot().close(figure)
