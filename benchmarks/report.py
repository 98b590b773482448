"""What the benchmarks share: medians with their spread, the machine, the printed table, the JSON file."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from aipo_env.installation import versions

JSON = Mapping[str, object]


@dataclasses.dataclass(frozen=True, slots=True)
class Spread:
    """A median, and the least and the largest of the samples."""

    median: float
    low: float
    high: float
    num_samples: int

    def text(self, digits: int = 0, unit: str = "") -> str:
        """For a table: `1.62 (1.55 .. 1.71)`."""
        median, low, high = (f"{value:,.{digits}f}" for value in (self.median, self.low, self.high))
        return f"{median}{unit} ({low} .. {high})"


def spread(samples: Sequence[float]) -> Spread:
    """The median and the range of some samples.

    Raises:
        ValueError: when there is none.
    """
    if not samples:
        raise ValueError("a spread needs at least one sample, got none. Run at least one repeat.")
    return Spread(statistics.median(samples), min(samples), max(samples), len(samples))


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """The spread of ours / theirs, repeat by repeat: both parts of a pair ran on the machine as it then was.

    Raises:
        ValueError: when the two do not have the same number of samples.
    """
    return spread([a / b for a, b in zip(ours, theirs, strict=True)])


def machine(packages: Iterable[str], *, threads: int) -> dict[str, object]:
    """The command, the machine and the versions, as they belong beside every number.

    Args:
        packages: names of distributions; those that are not installed are left out.
        threads: that torch computes with.
    """
    return {
        "command": command(),
        "cpu": _cpu_name(),
        "cores": os.cpu_count() or 1,
        "threads": threads,
        "load_at_start": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "versions": versions(packages),
    }


def command() -> str:
    """How this process was started, as a user would type it."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    name = f"python -m {spec.name}" if spec is not None else f"python {Path(sys.argv[0]).name}"
    return " ".join([name, *sys.argv[1:]])


def print_report(
    title: str, about: JSON, columns: Sequence[str], rows: Iterable[Sequence[str]], notes: Iterable[str]
) -> None:
    """Prints the machine, a table and the notes under it."""
    # Wide enough for the table where the output goes to a file.
    console = Console(width=max(150, Console().width), highlight=False)
    table = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    for name, value in about.items():
        shown = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, Mapping) else value
        console.print(f"{name}: {shown}", markup=False, soft_wrap=True)
    console.print(table)
    for note in notes:
        console.print(f"- {note}", markup=False, soft_wrap=True)


def write_json(path: Path, report: JSON) -> None:
    """Writes a report; dataclasses in it become objects."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(report, indent=1, default=_plain)
    path.write_text(text + "\n", encoding="utf-8")


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return str(value)


def _cpu_name() -> str:
    """The processor's model, where the system tells it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
