"""Figures of an evaluation: pass@k curves with their intervals, and bars by level or subject. Needs nothing but the JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from aipo_env.errors import MissingDependencyError
from benchmarks.evaluation.fields import Json, by_suite

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH_INCHES = 7.0
"""Shown 700 pixels wide, a point of a font is 1.4 pixels."""
DPI = 200
COLOURS = {"solo": "#1f5fa8", "assisted": "#d9730d", "self-help": "#3b8f4d"}
MARKERS = {"solo": "o", "assisted": "s", "self-help": "^"}
MOST_BARS = 24
"""Breakdowns with more values are in the tables alone."""


def figure_names(results: Json) -> dict[str, str]:
    """File name and alternative text of each figure that `write_plots` writes."""
    return {name: words for name, words, _ in _figures(results)}


def _figures(results: Json) -> Iterator[tuple[str, str, Callable[[], Figure]]]:
    """File name and alternative text of each figure, and what draws it."""
    for suite, runs in by_suite(results).items():
        title = next(iter(runs.values()))["title"]
        if curves := _curves(runs):
            yield f"pass_at_k.{suite}.png", f"{title}: pass@k", partial(_pass_at_k_figure, title, curves, runs)
        for key in _breakdown_keys(runs):
            yield f"by_{key}.{suite}.png", f"{title} by {key}", partial(_breakdown_figure, title, key, runs)


def write_plots(results: Json, folder: Path) -> list[Path]:
    """Writes the figures of an evaluation as PNG files.

    For each suite `pass_at_k.SUITE.png` where there are at least two k, and `by_KEY.SUITE.png` for each key that its tasks
    are split by. Runs without a scored task are left out, and so are figures without a run.

    Args:
        results: as in results.json.
        folder: where the files go; made if need be.

    Returns:
        The files, in a fixed order.

    Raises:
        MissingDependencyError: without matplotlib.
    """
    figures = {folder / name: draw for name, _, draw in _figures(results)}
    if not figures:
        return []
    try:
        from matplotlib import style
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "figures need matplotlib, which is not installed: pip install matplotlib."
        ) from error

    folder.mkdir(parents=True, exist_ok=True)
    # From the defaults, not from the user's own settings: equal results give equal figures everywhere.
    with style.context(["default", {"font.size": 10.0, "axes.spines.top": False, "axes.spines.right": False}]):
        for path, draw in figures.items():
            # Without the date and the version in its metadata the same results give the same file.
            draw().savefig(path, dpi=DPI, metadata={"Software": None})
    return list(figures)


def _curves(runs: Mapping[str, Json]) -> dict[str, list[Json]]:
    """pass@k by mode, where there is more than one point."""
    found = {}
    for mode, run in runs.items():
        metrics = run.get("metrics")
        if metrics is not None and len(points := metrics["pass_at_k"]) > 1:
            found[mode] = points
    return found


def _breakdown_keys(runs: Mapping[str, Json]) -> list[str]:
    keys = dict.fromkeys(key for run in runs.values() for key in run["breakdowns"])
    return [key for key in keys if 1 < len(_values(runs, key)) <= MOST_BARS]


def _values(runs: Mapping[str, Json], key: str) -> list[object]:
    """The values of a breakdown in any of the runs, in their own order."""
    return list(dict.fromkeys(row["value"] for run in runs.values() for row in _breakdown(run, key)))


def _breakdown(run: Json, key: str) -> list[Json]:
    found: list[Json] = run["breakdowns"].get(key, [])
    return found


def _pass_at_k_figure(title: str, curves: Mapping[str, Sequence[Json]], runs: Mapping[str, Json]) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_INCHES, 4.2), layout="constrained")
    axes = figure.subplots()
    for mode, points in curves.items():
        ks = [p["k"] for p in points]
        low, estimate, high = ([100 * p[key] for p in points] for key in ("low", "estimate", "high"))
        axes.fill_between(ks, low, high, color=COLOURS[mode], alpha=0.15, linewidth=0)
        axes.plot(ks, estimate, color=COLOURS[mode], marker=MARKERS[mode], markersize=5, linewidth=2, label=mode)
    every_k = sorted({p["k"] for points in curves.values() for p in points})
    axes.set_xscale("log", base=2)
    axes.set_xticks(_apart(every_k), [f"{k:.0f}" for k in _apart(every_k)])
    axes.minorticks_off()
    axes.set(xlabel="k (samples)", ylabel="pass@k, %")
    highest = max(100 * p["high"] for points in curves.values() for p in points)
    axes.set_ylim(0.0, min(100.0, 1.1 * highest) if highest > 0 else 1.0)
    axes.set_title(f"{title}: pass@k with {_level(runs)} % intervals over problems", fontsize=11)
    axes.grid(axis="y", alpha=0.25)
    axes.legend(frameon=False, loc="best")
    return figure


def _breakdown_figure(title: str, key: str, runs: Mapping[str, Json]) -> Figure:
    from matplotlib.figure import Figure

    values = _values(runs, key)
    modes = [mode for mode, run in runs.items() if _breakdown(run, key)]
    thickness = 0.8 / len(modes)
    figure = Figure(figsize=(WIDTH_INCHES, 1.3 + 0.34 * len(values) * max(1.0, 0.8 * len(modes))), layout="constrained")
    axes = figure.subplots()
    num_tasks: dict[object, int] = {}
    for index, mode in enumerate(modes):
        shown = {row["value"]: row for row in _breakdown(runs[mode], key)}
        places = [i + (index - (len(modes) - 1) / 2) * thickness for i, v in enumerate(values) if v in shown]
        bars = [shown[v] for v in values if v in shown]
        means = [100 * bar["avg"] for bar in bars]
        below = [m - 100 * bar["low"] for m, bar in zip(means, bars, strict=True)]
        above = [100 * bar["high"] - m for m, bar in zip(means, bars, strict=True)]
        axes.barh(
            places,
            means,
            height=0.92 * thickness,
            color=COLOURS[mode],
            label=mode,
            xerr=(below, above),
            error_kw={"ecolor": "#333333", "elinewidth": 1.1, "capsize": 2.5},
        )
        for value, row in shown.items():
            num_tasks[value] = max(num_tasks.get(value, 0), int(row["num_tasks"]))
    axes.set_yticks(range(len(values)), [f"{_label(v)}  ({num_tasks[v]})" for v in values])
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set(xlabel="avg@n, %", ylabel=f"{key} (problems)")
    axes.set_title(f"{title} by {key}, with {_level(runs)} % intervals over problems", fontsize=11)
    axes.grid(axis="x", alpha=0.25)
    axes.set_axisbelow(True)
    if len(modes) > 1:
        figure.legend(frameon=False, loc="outside lower right", ncols=len(modes))
    return figure


def _apart(ks: Sequence[float]) -> list[float]:
    """The ticks: those k that stand at least half a doubling apart, so that their labels do not touch."""
    kept: list[float] = []
    for k in ks:
        if not kept or k >= 1.4 * kept[-1]:
            kept.append(k)
    return kept


def _level(runs: Mapping[str, Json]) -> str:
    levels = {metrics["level"] for run in runs.values() if (metrics := run.get("metrics")) is not None}
    return " and ".join(f"{100 * level:g}" for level in sorted(levels))


def _label(value: object) -> str:
    label = str(value)
    return label if len(label) <= 32 else f"{label[:31]}…"
