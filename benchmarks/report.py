"""What the benchmarks share: the command line, runs in turns, medians with their spread, the machine, tables, the JSON file."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import importlib.util
import json
import logging
import multiprocessing
import os
import platform
import resource
import statistics
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, TypeVar

import rich.table
from rich.console import Console

from aipo_env.errors import AipoError, ConfigurationError
from aipo_env.installation import install_command, versions
from aipo_env.parsing import parse

JSON = Mapping[str, object]
T = TypeVar("T")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What can be told to every benchmark."""

    json: Path | None = None
    """Also writes the settings, all samples and the summary here."""

    least: ClassVar[Mapping[str, float]] = {}
    """The least value that each of these settings may have."""

    def __post_init__(self) -> None:
        """Refuses what cannot be measured."""
        check_least(self, self.least)


def check_least(settings: object, least: Mapping[str, float]) -> None:
    """Raises ValueError where one of the settings is below its least value."""
    for name, value in least.items():
        if getattr(settings, name) < value:
            raise ValueError(f"{name} is at least {value}; got {getattr(settings, name)}. Choose a larger one.")


def same_settings(settings: Any, out: Path, free: Sequence[str]) -> None:
    """Notes the settings in a folder of runs; raises ConfigurationError where its runs have others: they cannot be compared.

    Args:
        settings: a dataclass.
        out: the folder.
        free: settings that may differ; all others are as JSON has them.
    """
    now = {name: value for name, value in dataclasses.asdict(settings).items() if name not in free}
    path = out / "settings.json"
    if not path.exists():
        write_json(path, now)
    elif (before := json.loads(path.read_text(encoding="utf-8"))) != now:
        differ = ", ".join(f"{n} was {before.get(n)!r} and is {v!r}" for n, v in now.items() if before.get(n) != v)
        raise ConfigurationError(f"{out} has runs of other settings: {differ}. Name another folder with --out.")


@dataclasses.dataclass(frozen=True)
class Table:
    """A table and the notes under it."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class Result:
    """What a benchmark found, for people and for machines."""

    tables: Sequence[Table]
    data: JSON


S = TypeVar("S", bound=Settings)


def start(settings_type: type[T], main: Callable[[T], int], name: str, about: str | None) -> int:
    """Runs a program of its own from the command line; a mistake is one line, and the exit code 2.

    Args:
        settings_type: becomes the options.
        main: takes them, returns the exit code.
        name: of the program.
        about: its description.
    """
    try:
        return main(parse(settings_type, sys.argv[1:], name, about)())
    except AipoError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2


def run(
    settings_type: type[S],
    benchmark: Callable[[S], Result],
    packages: Iterable[str],
    arguments: Sequence[str] | None = None,
) -> int:
    """Runs a benchmark from the command line: prints its tables, and writes a file where `--json` names one.

    Args:
        settings_type: becomes the options.
        benchmark: the first line of its module's docstring describes it.
        packages: whose versions are reported.
        arguments: of the command line; those of this process if left out.
    """
    title = (sys.modules[benchmark.__module__].__doc__ or "").partition("\n")[0]
    try:
        settings = parse(
            settings_type, sys.argv[1:] if arguments is None else arguments, Path(sys.argv[0]).name, title
        )()
    except AipoError as error:
        print(error, file=sys.stderr)
        return 2
    about = machine(packages, threads=getattr(settings, "threads", 1))
    result = benchmark(settings)
    about["load_at_end"] = round(os.getloadavg()[0], 2)
    options = dataclasses.asdict(settings)
    file = options.pop("json")
    print_report(about | {"settings": options}, result.tables)
    if file is not None:
        write_json(file, {"machine": about, "settings": options, **result.data})
    return 0


def in_turns(measures: Mapping[str, Callable[[], T]], repeats: int) -> dict[str, list[T]]:
    """Takes each measure once a repeat; the next repeat begins with another, so that a busy machine slows all alike."""
    samples: dict[str, list[T]] = {name: [] for name in measures}
    names = list(measures)
    for _ in range(repeats):
        for name in names:
            samples[name].append(measures[name]())
        names = [*names[1:], *names[:1]]
    return samples


def installed(makers: Mapping[str, Callable[[], T]]) -> tuple[list[T], list[str]]:
    """The peers that can be imported, and a note for each that cannot."""
    made, notes = [], []
    for name, make in makers.items():
        try:
            made.append(make())
        except ImportError as error:
            notes.append(f"{name} did not take part: {error} ({install_command('bench')})")
    return made, notes


def in_own_process(measure: Callable[..., T], *arguments: object) -> T:
    """Calls a module's function in a fresh process: memory that an earlier call freed is not always given back."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure, *arguments).result()


def file_of(distribution: str, file: str) -> Path:
    """A file of an installed distribution; ImportError where that is not installed."""
    return Path(str(importlib.metadata.distribution(distribution).locate_file(file)))


def load_alone(path: Path) -> ModuleType:
    """The module in a file, without its package, which may need a GPU's libraries."""
    spec = importlib.util.spec_from_file_location(f"peer_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Peers warn about settings that are meant, and log each episode; neither is to be timed."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def reset_peak_resident() -> int:
    """Makes the resident memory of this moment the process's peak, where the system can; returns it in bytes."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return peak_resident()


def peak_resident() -> int:
    """The process's peak resident memory in bytes, since `reset_peak_resident` where the system can say so."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


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


def spreads(samples: Sequence[Mapping[str, float]]) -> dict[str, Spread]:
    """The spread of each figure of some samples that have the same figures."""
    return {name: spread([sample[name] for sample in samples]) for name in samples[0]}


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
    name = (
        f"python -m {spec.name.removesuffix('.__main__')}" if spec is not None else f"python {Path(sys.argv[0]).name}"
    )
    return " ".join([name, *sys.argv[1:]])


def print_report(about: JSON, tables: Iterable[Table]) -> None:
    """Prints the machine, and tables with their notes."""
    # Wide enough for the tables where the output goes to a file.
    console = Console(width=max(180, Console().width), highlight=False)
    for name, value in about.items():
        shown = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, Mapping) else value
        console.print(f"{name}: {shown}", markup=False, soft_wrap=True)
    for table in tables:
        printed = rich.table.Table(title=table.title, title_justify="left")
        for index, column in enumerate(table.columns):
            printed.add_column(column, justify="right" if index else "left", no_wrap=True)
        for row in table.rows:
            printed.add_row(*row)
        console.print(printed)
        for note in table.notes:
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
