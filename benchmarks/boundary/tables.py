"""The study's results as tables in Markdown and as rows for machines."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterable, Mapping, Sequence

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
    def num_samples(self) -> int:
        """Samples of each boundary problem."""
        return int(str(self.runs[0].spec["eval_samples"]))

    def solo(self, k: int) -> Interval:
        """Solo pass@k on the boundary problems, mean of the seeds, with an interval over problems."""
        per_problem = [
            statistics.fmean(pass_at_k(self.num_samples, c, k) for c in counts)
            for counts in zip(*(run.num_correct for run in self.runs), strict=True)
        ]
        return bootstrap_interval(per_problem)

    def solo_by_seed(self, k: int = 1) -> list[float]:
        """Solo pass@k of each seed."""
        return [statistics.fmean(pass_at_k(self.num_samples, c, k) for c in run.num_correct) for run in self.runs]

    def final(self, name: str) -> list[float]:
        """What each seed's curve ends with."""
        return [run.curve[-1][name] for run in self.runs]

    def until_half(self, what: str) -> list[float | None]:
        """Where each seed's solo accuracy passes one half; None where it does not."""
        return [steps_until(run.curve, HALF, what) for run in self.runs]

    def solo_at(self, what: str, amount: float) -> list[float | None]:
        """Each seed's solo accuracy on the watched problems when `amount` was spent; None where less was spent in all."""
        return [_at(run.curve, what, amount) for run in self.runs]


def cells(results: Iterable[RunResult]) -> list[Cell]:
    """Groups runs that differ in their seed alone; in the order of their first appearance in the design."""
    grouped: dict[tuple[str, str, str, str], list[RunResult]] = {}
    for result in results:
        spec = result.spec
        key = (str(spec["table"]), str(spec["name"]), str(spec["architecture"]), str(spec["algorithm"]))
        grouped.setdefault(key, []).append(result)
    return [Cell(*key, sorted(runs, key=lambda r: int(str(r.spec["seed"])))) for key, runs in grouped.items()]


def machine_rows(results: Sequence[RunResult]) -> list[dict[str, object]]:
    """One row per run for `boundary.json`: method, algorithm, model, seed, settings, budget, solo pass@k, transition, curve."""
    rows = []
    for result in results:
        spec, last = result.spec, result.curve[-1]
        samples = int(str(spec["eval_samples"]))
        ks = [k for k in (1, 2, 4, 8, 16, 32, 64, 128, 256) if k <= samples]
        rows.append(
            {
                "id": result.id,
                "table": spec["table"],
                "name": spec["name"],
                "method": spec["method"],
                "algorithm": spec["algorithm"],
                "model": spec["architecture"],
                "seed": spec["seed"],
                "noise": spec["noise"],
                "settings": {key: spec[key] for key in ("helper", "helpers", "objective", "train", "env")},
                "budget": {
                    "steps": spec["steps"],
                    "rollouts": last["rollouts"],
                    "trained_tokens": last["trained_tokens"],
                    "consults": last["consults"],
                },
                "solo_pass_at_k": {
                    str(k): round(statistics.fmean(pass_at_k(samples, c, k) for c in result.num_correct), 4) for k in ks
                },
                "num_problems": len(result.num_correct),
                "num_samples": samples,
                "num_correct": result.num_correct,
                "assisted_pass_at_1": last["assisted"],
                "until_solo_half": {
                    what: steps_until(result.curve, HALF, what) for what in ("step", "trained_tokens", "consults")
                },
                "curve": result.curve,
                "seconds": result.seconds,
                "device": result.device,
            }
        )
    return rows


def start_table(starts: Sequence[Start]) -> str:
    """The start policies."""
    rows = [
        [
            s.architecture,
            f"{s.num_parameters:,}",
            f"{s.solved} of {s.candidates}",
            str(len(s.indices)),
            f"{s.assisted:.3f}",
        ]
        for s in starts
    ]
    return markdown(
        ["start policy", "parameters", "solved in 256 attempts, left out", "boundary problems", "assisted pass@1"], rows
    )


def methods_table(found: Sequence[Cell]) -> str:
    """All methods: what they can do alone at the end, and when they could."""
    found = in_order(found)
    common = min((min(cell.final("trained_tokens")) for cell in found if cell.method not in ("grpo",)), default=0.0)
    rows = []
    for cell in found:
        ks = [k for k in (8, 256) if k <= cell.num_samples]
        rows.append(
            [
                _label(cell),
                _interval(cell.solo(1)),
                _seeds(cell.solo_by_seed()),
                *(_interval(cell.solo(k)) for k in ks),
                _seeds(cell.final("assisted")),
                _seeds(cell.until_half("step"), 0),
                _seeds([None if v is None else v / 1000 for v in cell.until_half("trained_tokens")], 0),
                _seeds(cell.solo_at("trained_tokens", common), missing="–"),
            ]
        )
    ks = [k for k in (8, 256) if found and k <= found[0].num_samples]
    header = [
        "method", "solo pass@1", "by seed", *(f"solo pass@{k}" for k in ks), "assisted pass@1", "steps until solo 0.5",
        "thousand trained tokens until then", f"solo at {common / 1000:,.0f} thousand trained tokens",
    ]  # fmt: skip
    return markdown(header, rows)


def noise_table(found: Sequence[Cell]) -> str:
    """Solo pass@1 by how often the helper, or the teacher, is wrong in training."""
    rows = []
    for method in METHODS:
        by_level = {float(str(c.runs[0].spec["noise"])): c for c in found if c.method == method}
        if by_level:
            row = [by_level.get(level) for level in (0.0, 0.3, 0.6)]
            rows.append(
                [METHODS[method].label]
                + ["" if c is None else _with_median(c.solo_by_seed()) for c in row]
                + ["" if c is None else _seeds(c.until_half("step"), 0) for c in row]
            )
    levels = ("0 %", "30 %", "60 %")
    header = ["method", *(f"wrong {n}: solo pass@1" for n in levels), *(f"wrong {n}: steps until 0.5" for n in levels)]
    return markdown(header, rows)


def cells_table(found: Sequence[Cell]) -> str:
    """Architectures by RLVR algorithms."""
    rows = []
    for cell in (c for c in found if c.method == "aipo"):
        others = {c.method: c for c in found if (c.architecture, c.algorithm) == (cell.architecture, cell.algorithm)}
        rows.append(
            [
                cell.architecture,
                cell.algorithm,
                _with_median(cell.solo_by_seed()),
                _seeds(cell.until_half("step"), 0),
                *("" if m not in others else _seeds(others[m].solo_by_seed()) for m in ("mask", "grpo")),
            ]
        )
    return markdown(
        ["architecture", "algorithm", "AIPO, solo pass@1", "steps until 0.5", "replies masked", "no helpers"], rows
    )


def teachers_table(found: Sequence[Cell]) -> str:
    """AIPO beside those who are shown full solutions, by architecture."""
    rows = [
        [
            cell.architecture,
            _label(cell),
            _with_median(cell.solo_by_seed()),
            _seeds(cell.final("assisted")),
            _seeds(cell.until_half("step"), 0),
            _seeds([None if v is None else v / 1000 for v in cell.until_half("trained_tokens")], 0),
        ]
        for cell in sorted(in_order(found), key=lambda c: c.architecture)
    ]
    return markdown(
        [
            *("architecture", "method", "solo pass@1", "assisted pass@1", "steps until solo 0.5"),
            "thousand trained tokens until then",
        ],
        rows,
    )


def ablation_table(found: Sequence[Cell], default: Cell | None) -> str:
    """One row per changed setting, the unchanged method first."""
    rows = []
    if default is not None:
        rows.append(["**unchanged**", *_measures(default)])
    rows += [[cell.name, *_measures(cell)] for cell in found]
    return markdown(["setting", "solo pass@1", "steps until solo 0.5", "assisted pass@1", "consults"], rows)


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table."""
    lines = [" | ".join(header), "|".join("---" for _ in header), *(" | ".join(row) for row in rows)]
    return "\n".join(f"| {line} |" if "---" not in line[:3] else f"|{line}|" for line in lines)


def _measures(cell: Cell) -> list[str]:
    return [
        _with_median(cell.solo_by_seed()),
        _seeds(cell.until_half("step"), 0),
        _seeds(cell.final("assisted")),
        _seeds(cell.final("consults"), 0),
    ]


def in_order(found: Sequence[Cell]) -> list[Cell]:
    """The rows of a table of methods, in the order of `METHODS`."""
    order = list(METHODS)
    return sorted(found, key=lambda cell: order.index(cell.method))


def _label(cell: Cell) -> str:
    label = METHODS[cell.method].label
    return f"**{label}**" if cell.method == "aipo" else label


def _interval(interval: Interval) -> str:
    return f"{interval.estimate:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def _seeds(values: Sequence[float | None], digits: int = 3, missing: str = "never") -> str:
    return " ".join(missing if v is None else f"{v:,.{digits}f}" for v in values)


def _with_median(values: Sequence[float]) -> str:
    return f"{_seeds(values)} · **{statistics.median(values):.3f}**"


def _at(curve: Sequence[Mapping[str, float]], what: str, amount: float) -> float | None:
    """The curve's solo accuracy where `what` reaches `amount`, by linear interpolation."""
    before = curve[0]
    for point in curve:
        if point[what] >= amount:
            width = point[what] - before[what]
            share = 1.0 if width == 0 else (amount - before[what]) / width
            return before["solo"] + share * (point["solo"] - before["solo"])
        before = point
    return None
