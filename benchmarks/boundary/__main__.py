"""`python -m benchmarks.boundary`: runs the study, then writes its tables, figures and `boundary.json`.

`--minutes` stops it, and the same command goes on; `--only` runs a part. A run is one thread: give as many `--processes` as
there are cores. The full form is 168 runs of one to four minutes.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

from aipo_env.errors import unknown_id
from benchmarks import report
from benchmarks.boundary.design import Form, full_design, quick_design, words_design
from benchmarks.boundary.study import run_study
from benchmarks.boundary.write_up import write_up


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is run, and where it goes."""

    form: Form = "quick"
    """quick: the claim at one seed, some minutes on two cores. full: every run whose result is recorded. words: SmolLM2, for
    one GPU: `--device cuda --processes 12 --minutes 13`."""
    only: tuple[str, ...] = ()
    """Tables of the full form that are run: methods, helpers, tuning, baselines, parts, rivals,
    architectures, cells; empty for all."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of the full form."""
    out: Path = Path("runs/boundary")
    """Finished runs are kept here, and not run again."""
    results: Path | None = None
    """Where tables, figures and boundary.json go; `out` if left out."""
    processes: int = 2
    """Runs at the same time, one thread each."""
    problems: int | None = None
    """Boundary problems of the final measurement: 64, in the quick form 32."""
    device: str = "cpu"
    """A torch device."""
    minutes: float | None = None
    """Stops after so long; what is not finished starts again the next time (of words: is measured as it is)."""


def main(settings: Settings) -> int:
    """Runs the study; returns the exit code."""
    words = settings.form == "words"
    specs = words_design() if words else full_design(settings.seeds) if settings.form == "full" else quick_design()
    tables = list(dict.fromkeys(spec.table for spec in specs))
    for name in settings.only:
        if name not in tables:
            raise unknown_id("table of the study", name, tables)
    if settings.only:
        specs = [spec for spec in specs if spec.table in settings.only]
    problems = settings.problems or (32 if settings.form == "quick" else 64)
    results = run_study(
        specs,
        settings.out,
        processes=settings.processes,
        num_problems=problems,
        device=settings.device,
        minutes=None if words else settings.minutes,
        # All runs of words begin at once: what is cut would leave nothing.
        measure_after=settings.minutes if words else None,
    )
    folder = settings.results or settings.out
    for path in write_up(settings.out, folder, {spec.id for spec in specs}):
        print(f"written: {path}")
    if len(results) < len(specs):
        print(f"{len(results)} of {len(specs)} runs are done; the same command goes on with the others.")
    return 0


if __name__ == "__main__":
    sys.exit(report.start(Settings, main, "benchmarks.boundary", __doc__))
