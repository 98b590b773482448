"""Which curves the report draws, as plain data."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

from algorithms.apps.report.runs import Point, TrainingRun

MAX_POINTS = 200
"""Points of a curve; longer ones are averaged over neighbouring steps."""
MAX_LINES = 6
"""Curves of a chart, as long as there are no more runs than that."""
SOURCES = ("policy", "agent", "template", "prompt")
_BINS = "agent/coefficient_from/"


@dataclasses.dataclass(frozen=True)
class Line:
    """One curve."""

    run: int
    """Index of the run."""
    series: int
    """Index of the curve among those of one run."""
    label: str
    points: Sequence[Point]


@dataclasses.dataclass(frozen=True)
class Chart:
    """A figure of several curves over the steps."""

    title: str
    note: str
    lines: Sequence[Line]
    unit: Literal["share", "number"] = "number"


@dataclasses.dataclass(frozen=True)
class Histogram:
    """How the coefficients of a run lay, step by step."""

    run: int
    edges: Sequence[float]
    """Where each bin begins."""
    steps: Sequence[float]
    shares: Sequence[Sequence[float]]
    """For each of the steps the share of each bin."""


def make_charts(runs: Sequence[TrainingRun]) -> list[Chart]:
    """The charts for which at least one run has numbers.

    Args:
        runs: to compare.
    """
    helpers = sorted({name for run in runs for name in run.names("train/consult_rate_")})
    rates = {name: name.removeprefix("train/consult_rate_") for name in helpers}
    if len(helpers) != 1:
        # With one helper the two curves are the same.
        rates = {"train/consult_rate": "any"} | rates
    weighing = [run if run.weighs_replies else dataclasses.replace(run, rows=()) for run in runs]
    charts = [
        _chart(runs, "Accuracy on the test tasks", "pass@1 with and without help; the same tasks and seeds each time.",
               {"eval/solo_pass1": "solo", "eval/assisted_pass1": "assisted"}, "share"),
        _chart(runs, "Accuracy of the rollouts", "Share of correct answers in each batch.",
               {"train/solo_accuracy": "solo", "train/assisted_accuracy": "assisted"}, "share"),
        _chart(runs, "Consult rate", "Share of the assisted rollouts that ask: any helper, and each of them.",
               rates, "share"),
        _chart(runs, "Tokens by source", "Tokens of a batch by who wrote them.", {f"tokens/{s}": s for s in SOURCES}),
        _chart(runs, "Entropy", "Mean of -log pi over the sampled tokens, in nats, at the sampler's temperature.",
               {"policy/entropy": "entropy"}),
        _chart(weighing, "Coefficient of helper tokens", "Mean, and the shares that floor, cap and trust region met.",
               {"agent/coefficient": "mean weight", "agent/floor_fraction": "floor", "agent/cap_fraction": "cap",
                "agent/trust_region_fraction": "trust region"}),
        _throughput(runs),
        _chart(runs, "Seconds of a step", "Time of the rollouts and of the update.",
               {"seconds/rollout": "rollouts", "seconds/update": "update"}),
        _chart(runs, "Reward", "Mean reward of a batch.", {"reward": "reward"}),
        _chart(runs, "Gradient norm", "Before clipping.", {"grad_norm": "norm"}),
    ]  # fmt: skip
    return [part for chart in charts for part in _readable(chart)]


def _readable(chart: Chart) -> list[Chart]:
    """The chart, or one for each of its curves where more than `MAX_LINES` would cross each other."""
    if len(chart.lines) <= MAX_LINES:
        return [chart] if chart.lines else []
    parts: dict[str, list[Line]] = {}
    for line in chart.lines:
        parts.setdefault(line.label, []).append(dataclasses.replace(line, series=0))
    return [dataclasses.replace(chart, title=f"{chart.title}: {label}", lines=lines) for label, lines in parts.items()]


def make_histograms(runs: Sequence[TrainingRun], max_bars: int = 40) -> list[Histogram]:
    """The histogram of each run that noted one, and trains on replies at all.

    Args:
        runs: to compare.
        max_bars: more steps are averaged over neighbours.
    """
    histograms = []
    for index, run in enumerate(runs):
        if not run.weighs_replies:
            continue
        edges = sorted(float(name.removeprefix(_BINS)) for name in run.names(_BINS))
        columns = [thin(run.curve(f"{_BINS}{edge:g}"), max_bars) for edge in edges]
        if columns and len({len(column) for column in columns}) == 1 and columns[0]:
            steps = [step for step, _ in columns[0]]
            shares = [[value for _, value in bins] for bins in zip(*columns, strict=True)]
            histograms.append(Histogram(index, edges, steps, shares))
    return histograms


def thin(points: Sequence[Point], count: int = MAX_POINTS) -> list[Point]:
    """At most `count` points: the means of neighbours."""
    size = -(-len(points) // count)
    if size <= 1:
        return list(points)
    parts = [points[i : i + size] for i in range(0, len(points), size)]
    return [(sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in parts]


def throughput(run: TrainingRun) -> list[Point]:
    """Tokens behind the prompt, trained and not, per second of each step."""
    points = []
    for row in run.rows:
        seconds = row.get("seconds/rollout", 0.0) + row.get("seconds/update", 0.0)
        if seconds > 0:
            tokens = sum(row.get(f"tokens/{source}", 0.0) for source in SOURCES if source != "prompt")
            points.append((row["step"], tokens / seconds))
    return points


def _chart(
    runs: Sequence[TrainingRun],
    title: str,
    note: str,
    series: dict[str, str],
    unit: Literal["share", "number"] = "number",
) -> Chart:
    lines = [
        Line(index, number, label, thin(points))
        for index, run in enumerate(runs)
        for number, (name, label) in enumerate(series.items())
        if (points := run.curve(name))
    ]
    return Chart(title, note, lines, unit)


def _throughput(runs: Sequence[TrainingRun]) -> Chart:
    lines = [Line(i, 0, "tokens/s", thin(points)) for i, run in enumerate(runs) if (points := throughput(run))]
    return Chart("Throughput", "Tokens behind the prompt per second of a step, rollouts and update together.", lines)
