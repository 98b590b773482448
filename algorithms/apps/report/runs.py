"""What a training run left in its folder: metrics, configuration, versions, trajectories of its first and last traced step."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from aipo_env.errors import ConfigurationError, DataFormatError, DataNotFoundError
from aipo_env.trajectory import Source, Trajectory, numbered_traces
from algorithms.run_folder import TRACKED, TRAINING_DATA

METRICS = "metrics.jsonl"

Point = tuple[float, float]
"""A step and a value."""


@dataclasses.dataclass(frozen=True)
class TrainingRun:
    """One run as the report shows it."""

    name: str
    path: Path
    rows: Sequence[Mapping[str, float]]
    """The metrics of each step, in order."""
    config: Mapping[str, str]
    """Options by their names on the command line ("objective.agent_loss"), as text."""
    versions: Sequence[Mapping[str, str]]
    """One for the start and each resumption; empty where the run noted none."""
    early: Sequence[Trajectory] = ()
    """Trajectories of the first step that was traced."""
    late: Sequence[Trajectory] = ()
    """Trajectories of the last one; empty where it is the first."""
    tracked: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Tracker to the address or the command that shows the run there."""

    @property
    def weighs_replies(self) -> bool:
        """False where the helpers' tokens are masked: their coefficients are then all 0."""
        return self.config.get("objective.agent_loss") != "mask"

    def curve(self, name: str) -> list[Point]:
        """The steps at which a metric was noted, with its finite values."""
        return [(row["step"], row[name]) for row in self.rows if math.isfinite(row.get(name, math.nan))]

    def names(self, prefix: str) -> list[str]:
        """The metrics whose names begin so, sorted."""
        return sorted({name for row in self.rows for name in row if name.startswith(prefix)})


def find_runs(paths: Iterable[Path]) -> dict[str, Path]:
    """The training runs in these folders by name: each is one itself, or holds some (`aipo demo`).

    Raises:
        DataNotFoundError: when one is no folder, or no training run is in it.
    """
    folders: list[Path] = []
    for path in paths:
        inside = [path] if (path / METRICS).is_file() else sorted(p.parent for p in path.glob(f"*/{METRICS}"))
        if not inside:
            what = "holds no metrics.jsonl" if path.is_dir() else "is not a folder"
            raise DataNotFoundError(
                f"a training run is a folder that `aipo train --out` wrote, but {path} {what}. Name such a folder; "
                "traces alone are shown by `aipo view`."
            )
        folders += [folder for folder in inside if folder.resolve() not in {f.resolve() for f in folders}]
    if not folders:
        raise ConfigurationError("name at least one run: a folder that `aipo train --out` wrote.")
    names = [folder.resolve().name for folder in folders]
    return {
        name if names.count(name) == 1 else os.fspath(folder): folder
        for name, folder in zip(names, folders, strict=True)
    }


def read_run(name: str, folder: Path, num_samples: int = 4) -> TrainingRun:
    """Reads one run, also while it goes on.

    Args:
        name: what the report calls it.
        folder: of the run.
        num_samples: trajectories to keep of the first traced step, and of the last.

    Raises:
        DataFormatError: naming the file and the line.
    """
    rows = _read_metrics(folder / METRICS)
    early: list[Trajectory] = []
    late: list[Trajectory] = []
    if (folder / "traces.jsonl").is_file():
        entropies, early, late = _read_traces(folder / "traces.jsonl")
        # Runs of before this metric: their traces have it for the steps that were traced.
        for row in rows:
            if (step := int(row["step"])) in entropies:
                row.setdefault("policy/entropy", entropies[step])
    config = _read_config(folder / "config.json") | _read_config(folder / TRAINING_DATA)
    return TrainingRun(
        name, folder, rows, config, _read_versions(folder / "versions.jsonl"),
        choose(early, num_samples), choose(late, num_samples), _read_config(folder / TRACKED),
    )  # fmt: skip


def choose(trajectories: Sequence[Trajectory], count: int) -> list[Trajectory]:
    """Up to `count` of them that differ: with and without help, right and wrong, in turns."""
    kinds: dict[tuple[bool, bool], list[Trajectory]] = {}
    for trajectory in trajectories:
        kinds.setdefault((trajectory.num_consults > 0, trajectory.verdict == "correct"), []).append(trajectory)
    order = [kinds[kind] for kind in sorted(kinds, reverse=True)]
    turns = [kind[turn] for turn in range(count) for kind in order if turn < len(kind)]
    return turns[:count]


def _read_metrics(path: Path) -> list[dict[str, float]]:
    rows = []
    for number, line in enumerate(
        path.read_bytes().split(b"\n")[:-1], start=1
    ):  # a line without its end is being written
        try:
            row = json.loads(line)
            rows.append({str(name): float(value) for name, value in row.items()})
            int(rows[-1]["step"])
        except (ValueError, TypeError, AttributeError, KeyError, OverflowError) as error:
            raise DataFormatError(
                f"{path}, line {number} needs an object of numbers with a 'step', got {line[:80]!r} ({error!r}). Remove the "
                "line, or resume the run: `aipo train` cuts the file back to its checkpoint."
            ) from error
    return rows


def _read_config(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
        return dict(_flat("", row.items()))
    except (ValueError, AttributeError) as error:
        raise DataFormatError(
            f"{path} must hold names and values in JSON ({error}). Remove it: `aipo train` writes it anew."
        ) from error


def _flat(prefix: str, items: Iterable[tuple[str, object]]) -> Iterable[tuple[str, str]]:
    for name, value in items:
        if isinstance(value, dict) and value:
            yield from _flat(f"{prefix}{name}.", value.items())
        else:
            yield f"{prefix}{name}", value if isinstance(value, str) else json.dumps(value)


def _read_versions(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
        return [{str(name): str(value) for name, value in row.items()} for row in rows]
    except (ValueError, AttributeError) as error:
        raise DataFormatError(
            f"{path} is not a list of versions ({error}). Remove it; the report goes without."
        ) from error


def _read_traces(path: Path) -> tuple[dict[int, float], list[Trajectory], list[Trajectory]]:
    """The entropy of each traced step, and the trajectories of the first and of the last."""
    sums: dict[int, tuple[float, int]] = {}
    early: list[Trajectory] = []
    late: list[Trajectory] = []
    first = last = None
    for number, trajectory in numbered_traces(path):
        try:
            step = int(str(trajectory.metadata["step"]))
        except (KeyError, ValueError) as error:
            raise DataFormatError(
                f"{path}, line {number} needs the training step as 'step' in its metadata ({error!r}). Is it the "
                "file of a rollout? Keep those in a folder of their own."
            ) from error
        total, count = sums.get(step, (0.0, 0))
        logprobs = [x for s in trajectory.segments if s.source is Source.POLICY for x in s.logprobs]
        sums[step] = total - sum(logprobs), count + len(logprobs)
        trajectory = trajectory.redacted() if trajectory.confidential else trajectory
        if first is None or step == first:
            first = step
            early.append(trajectory)
            continue
        if step != last:
            last, late = step, []
        late.append(trajectory)
    return {step: total / count for step, (total, count) in sums.items() if count}, early, late
