"""The study's results as tables in Markdown and as rows for machines."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from aipo_env.metrics import Interval, bootstrap_interval, pass_at_k
from benchmarks.boundary.design import METHODS
from benchmarks.boundary.runs import RunResult, steps_until
from benchmarks.boundary.start_policies import Start

HALF = 0.5
"""The solo accuracy whose passing dates the transition."""


@dataclasses.dataclass(frozen=True)
class Cell:
    """The runs of one row of a table: equal but for the seed."""

    table: str
    name: str
    architecture: str
    algorithm: str
    runs: list[RunResult]
    """In the order of their seeds."""

    @property
    def method(self) -> str:
        """The method's name."""
        return str(self.runs[0].spec["method"])

    @property
    def noise(self) -> float:
        """How often the helper was wrong."""
        return float(str(self.runs[0].spec["noise"]))

    @property
    def num_samples(self) -> int:
        """Samples of each boundary problem."""
        return int(str(self.runs[0].spec["eval_samples"]))

    def solo(self, k: int = 1) -> Interval:
        """Solo pass@k on the boundary problems, mean of the seeds, with an interval over problems."""
        per_problem = [
            statistics.fmean(pass_at_k(self.num_samples, c, k) for c in counts)
            for counts in zip(*(run.num_correct for run in self.runs), strict=True)
        ]
        return bootstrap_interval(per_problem)

    def solo_by_seed(self, k: int = 1) -> list[float]:
        """Solo pass@k of each seed."""
        return [statistics.fmean(pass_at_k(self.num_samples, c, k) for c in run.num_correct) for run in self.runs]

    @property
    def median(self) -> float:
        """Of the seeds' solo pass@1 at temperature 1."""
        return statistics.median(self.solo_by_seed())

    def until_half(self, what: str) -> list[float | None]:
        """Where each seed's solo accuracy passes one half; None where it does not."""
        return [steps_until(run.curve, HALF, what) for run in self.runs]


def cells(results: Iterable[RunResult]) -> list[Cell]:
    """Groups runs that differ in their seed alone; in the order of their first appearance in the design."""
    grouped: dict[tuple[str, str, str, str], list[RunResult]] = {}
    for result in results:
        spec = result.spec
        key = (str(spec["table"]), str(spec["name"]), str(spec["architecture"]), str(spec["algorithm"]))
        grouped.setdefault(key, []).append(result)
    return [Cell(*key, sorted(runs, key=lambda r: int(str(r.spec["seed"])))) for key, runs in grouped.items()]


def machine_rows(results: Sequence[RunResult]) -> list[dict[str, object]]:
    """One row per run for `boundary.json`."""
    rows = []
    for result in results:
        samples = int(str(result.spec["eval_samples"]))
        row = dataclasses.asdict(result) | {
            "solo_pass_at_k": {
                str(k): round(statistics.fmean(pass_at_k(samples, c, k) for c in result.num_correct), 4)
                for k in (1, 4, 16, 64, 256)
                if k <= samples
            },
            "until_solo_half": {
                what: None if (at := steps_until(result.curve, HALF, what)) is None else round(at, 1)
                for what in ("step", "trained_tokens", "helper_tokens", "consults", "cpu_seconds")
            },
            # One list a column: a file of points is ten times as long.
            "curve": {name: [point[name] for point in result.curve] for name in result.curve[0]},
        }
        rows.append(row)
    return rows


def results_of(rows: Sequence[Mapping[str, Any]]) -> list[RunResult]:
    """The inverse of `machine_rows`."""
    results = []
    for row in rows:
        fields = {field.name: row[field.name] for field in dataclasses.fields(RunResult)}
        names = list(row["curve"])
        curve = [dict(zip(names, point, strict=True)) for point in zip(*row["curve"].values(), strict=True)]
        results.append(RunResult(**fields | {"curve": curve}))
    return results


def summary_table(found: Sequence[Cell]) -> str:
    """The methods by medians, with right helpers (or teachers) and with wrong ones; README has this one."""
    noises = sorted({cell.noise for cell in found}, reverse=True)
    rows = []
    for method in METHODS:
        row: list[str] = []
        for noise in noises:
            # Of a teacher who is always right the grader refuses nothing.
            names = (method, "sft") if method == "rft" and not noise else (method,)
            cell = next((c for name in names for c in found if (c.method, c.noise) == (name, noise)), None)
            told = "" if cell is None or cell.method == method else ", SFT's"
            row += [""] * 4 if cell is None else [*_medians(cell), f"{len(cell.runs)}{told}"]
        if any(row):
            rows.append([_label(method), *row])
    header = ["method"]
    for noise in noises:
        wrong = f"wrong in {noise:.0%}" if noise else "always right"
        header += [f"{wrong}: solo pass@1, T = 1", "greedy", "steps until 0.5", "seeds"]
    return markdown(header, rows)


def start_table(starts: Sequence[Start]) -> str:
    """The start policies."""
    rows = [
        [
            s.task,
            s.architecture,
            f"{s.num_parameters:,}",
            f"{s.solved} of {s.candidates}",
            str(len(s.indices)),
            f"{s.assisted:.3f}",
        ]
        for s in starts
    ]
    header = ["task", "start policy", "parameters", "solved, left out", "boundary problems", "assisted pass@1"]
    return markdown(header, rows)


def methods_table(found: Sequence[Cell]) -> str:
    """All methods at one rate of wrong replies: what they can do alone at the end, and what half-way took."""
    rows = []
    for cell in sorted(found, key=lambda c: list(METHODS).index(c.method)):
        rows.append(
            [
                _label(cell.method),
                _settings(cell),
                _with_median(cell.solo_by_seed()),
                _interval(cell.solo()),
                *(_seeds([run.cooler[t] for run in cell.runs]) for t in ("0.6", "0")),
                _seeds([run.assisted for run in cell.runs]),
                _seeds(cell.until_half("step"), 1),
                *(_thousands(cell.until_half(what)) for what in ("trained_tokens", "helper_tokens")),
                _seeds(cell.until_half("cpu_seconds"), 0),
            ]
        )
    header = [
        "method", "learning rate, weight", "solo pass@1, T = 1", "interval", "T = 0.6", "greedy", "assisted",
        "steps until solo 0.5", "thousand trained tokens until then", "thousand of helpers or teachers", "processor seconds",
    ]  # fmt: skip
    return markdown(header, rows)


def tuning_table(found: Sequence[Cell]) -> str:
    """What each method's settings were chosen by."""
    rows = []
    for method in METHODS:
        tried = [cell for cell in found if cell.method == method]
        best = max((cell.median for cell in tried), default=0.0)
        for cell in tried:
            value = f"{cell.median:.3f}"
            shown = f"**{value}**" if cell.median == best else value
            rows.append([METHODS[method].label, _settings(cell), shown, _seeds(cell.until_half("step"), 1)])
    return markdown(["method", "learning rate, weight", "solo pass@1, T = 1", "steps until solo 0.5"], rows)


def plain_table(found: Sequence[Cell], first: str) -> str:
    """One row per setting."""
    rows = [
        [
            cell.name,
            cell.architecture,
            _with_median(cell.solo_by_seed()),
            *(_seeds([run.cooler[t] for run in cell.runs]) for t in ("0.6", "0")),
            _seeds([run.assisted for run in cell.runs]),
            _seeds(cell.until_half("step"), 1),
        ]
        for cell in found
    ]
    return markdown(
        [first, "policy", "solo pass@1, T = 1", "T = 0.6", "greedy", "assisted", "steps until solo 0.5"], rows
    )


def beyond_table(found: Sequence[Cell]) -> str:
    """What else the runs of a table did: medians of the seeds."""
    names = list(dict.fromkeys(name for cell in found for run in cell.runs for name in run.beyond))
    rows = []
    for cell in found:
        values = [[run.beyond[name] for run in cell.runs if name in run.beyond] for name in names]
        rows.append([cell.name, *(f"{statistics.median(v):.3f}" if v else "" for v in values)])
    return markdown(["run", *names], rows)


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table."""
    lines = [" | ".join(header), "|".join("---" for _ in header), *(" | ".join(row) for row in rows)]
    return "\n".join(f"| {line} |" if "---" not in line[:3] else f"|{line}|" for line in lines)


def _label(method: str) -> str:
    """AIPO's is bold, and what needs a teacher of whole solutions is in italics."""
    label = METHODS[method].label
    return "**AIPO**" if method == "aipo" else f"*{label}*" if METHODS[method].teacher else label


def _medians(cell: Cell) -> list[str]:
    """Of the seeds: solo pass@1 at temperature 1 and greedy, and the step of solo 0.5, where most seeds have one."""
    half = statistics.median(math.inf if step is None else step for step in cell.until_half("step"))
    greedy = statistics.median(run.cooler["0"] for run in cell.runs)
    return [f"{cell.median:.3f}", f"{greedy:.3f}", "never" if half == math.inf else f"{half:.1f}"]


def _settings(cell: Cell) -> str:
    """Learning rate and AGENT weight, where the method has one."""
    spec, method = cell.runs[0].spec, METHODS[cell.method]

    def setting(name: str, own: Mapping[str, object], changed: object) -> object:
        assert isinstance(changed, dict)
        return changed.get(name, own.get(name))

    rate = setting("learning_rate", method.train, spec["train"]) or 3e-4
    weight = setting("agent_weight", method.objective, spec["objective"])
    return f"{rate:g}" + ("" if weight is None else f", {weight:g}")


def _interval(interval: Interval) -> str:
    return f"[{interval.low:.3f}, {interval.high:.3f}]"


def _seeds(values: Sequence[float | None], digits: int = 3) -> str:
    return " ".join("never" if v is None else f"{v:,.{digits}f}" for v in values)


def _thousands(values: Sequence[float | None]) -> str:
    return _seeds([None if v is None else v / 1000 for v in values], 0)


def _with_median(values: Sequence[float]) -> str:
    return f"{_seeds(values)} · **{statistics.median(values):.3f}**"
