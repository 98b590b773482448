"""The numbers of the report: final values, differences of configurations, and both as JSON and as Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence

from aipo_env.errors import ConfigurationError
from algorithms.apps.report.charts import throughput
from algorithms.apps.report.runs import Point, TrainingRun

_LAST = {"eval/solo_pass1": "test accuracy, solo", "eval/assisted_pass1": "test accuracy, assisted"}
_MEAN = {
    "train/solo_accuracy": "rollout accuracy, solo",
    "train/assisted_accuracy": "rollout accuracy, assisted",
    "train/consult_rate": "consult rate",
    "policy/entropy": "entropy (nats)",
    "agent/coefficient": "mean coefficient of helper tokens",
}
_NOT_SETTINGS = ("out",)


def tail(points: Sequence[Point]) -> float | None:
    """The mean of the last tenth of a curve, of five points at least: single batches are noisy; None without points."""
    last = points[-max(5, len(points) // 10) :]
    return sum(value for _, value in last) / len(last) if last else None


def final_values(run: TrainingRun) -> dict[str, float | None]:
    """The values at the end of a run by their names in the table; None where the run has none.

    Test accuracies are those of the first evaluation, where it was made before the first step, and of the last; all others are
    `tail` means.
    """
    values: dict[str, float | None] = {"steps": run.rows[-1]["step"] if run.rows else 0.0}
    values["rollouts"] = run.rows[-1].get("rollouts") if run.rows else None
    for name, label in _LAST.items():
        points = run.curve(name)
        values[f"{label}, at the start"] = points[0][1] if points and points[0][0] == 0 else None
        values[label] = points[-1][1] if points else None
    for name, label in _MEAN.items():
        values[label] = tail(run.curve(name))
    values["tokens per second"] = tail(throughput(run))
    values["minutes"] = points[-1][1] / 60 if (points := run.curve("seconds")) else None
    return values


def config_differences(runs: Sequence[TrainingRun]) -> dict[str, list[str]]:
    """The options in which the runs differ, with the value of each run; "-" where it has none."""
    names = sorted({name for run in runs for name in run.config})
    values = {name: [run.config.get(name, "-") for run in runs] for name in names if name not in _NOT_SETTINGS}
    return {name: row for name, row in values.items() if len(set(row)) > 1}


def to_json(runs: Sequence[TrainingRun]) -> dict[str, object]:
    """What `aipo report --json` prints."""
    return {
        "runs": [
            {
                "name": run.name,
                "path": str(run.path),
                "final": final_values(run),
                "config": dict(run.config),
                "versions": [dict(row) for row in run.versions],
                "curves": {name: run.curve(name) for name in run.names("") if name != "step"},
            }
            for run in runs
        ],
        "config_differences": config_differences(runs),
    }


def to_markdown(runs: Sequence[TrainingRun]) -> str:
    """The tables of the report, for a log book or an issue."""
    names = [run.name for run in runs]
    finals = [final_values(run) for run in runs]
    rows = [[label, *(shown(final[label]) for final in finals)] for label in finals[0]]
    parts = ["# Training report", "", *_table(["final value", *names], rows)]
    if differences := config_differences(runs):
        parts += ["", "## What differs", "", *_table(["option", *names], [[n, *v] for n, v in differences.items()])]
    for run in runs:
        parts += [
            "",
            f"## {_cell(run.name)}",
            "",
            *_table(["option", "value"], [[n, v] for n, v in run.config.items()]),
        ]
        if run.versions:
            parts += ["", *_table(["version of", "value"], [[n, v] for n, v in run.versions[-1].items()])]
    return "\n".join(parts) + "\n"


def shown(value: float | None) -> str:
    """A number for reading: four digits, "-" for none."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 or (value == int(value) and abs(value) > 1) else f"{value:.4g}"


def check_num_samples(count: int) -> None:
    """Refuses a negative number of transcripts."""
    if count < 0:
        raise ConfigurationError(f"--samples must be at least 0, got {count}; 0 leaves the transcripts out.")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines]


def _cell(text: str) -> str:
    """A text that stays in its cell, and is no markup there."""
    line = re.sub(r"[\x00-\x1f\x7f\u2028\u2029]+", " ", text).encode("utf-8", "replace").decode()
    return line if line == "---" else re.sub(r"([\\`*_{}\[\]<>|#!~])", r"\\\1", line)
