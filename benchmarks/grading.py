"""Accuracy, resistance to hostile input and speed of answer graders, side by side in one run.

Each grader runs in processes of its own, in the main thread, with its timeouts as shipped; this program only
waits and, after 12 seconds without a verdict, kills the process and counts a hang. Peers are used
through their own functions and skipped where they are not installed:

- math-verify: `verify(parse(gold), parse(answer))`, both sides in a box, as its parser wants them;
- prm800k-style: `openrlhf.utils.math_utils.grade_answer`;
- hendrycks-style: `verl.utils.reward_score.math_reward.is_equiv`.

The last two are loaded from the installed file alone, so `pip install --no-deps openrlhf verl` and
`pip install pylatexenc sympy` are enough for them. Without `--data` rows nothing is measured: the labelled
sets are not part of the repository.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json as json_module
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from aipo_env.errors import DataNotFoundError
from aipo_env.installation import DISTRIBUTION
from benchmarks import report

PACKAGES = (DISTRIBUTION, "math-verify", "latex2sympy2-extended", "sympy", "mpmath", "openrlhf", "verl", "pylatexenc")
Name = Literal["aipo", "math-verify", "prm800k-style", "hendrycks-style"]
SETS = {"pairs": "answer_pairs", "rewrites": "math500_rewrites", "hostile": "hostile"}
WATCHDOG = 12.0
"""Seconds without a verdict after which a grader's process is killed."""
PROCESSES = min(2, os.cpu_count() or 1)
"""Of each grader when rows per second are measured."""

# What our policy says where public graders disagree: the kinds of contested rows.
CONVENTIONS = {
    "percent": "a percent sign on one side is a unit or a factor; without a sign a factor of 100 is an error",
    "ordered list": "a bare list has no order",
    "bracket kind": "brackets of different kinds differ, and tuples are ordered",
    "clock time": "a time is the same on both clocks",
    "unit dropped": "a unit may be missing on one side",
    "double-escaped": "text that was escaped twice is read as escaped once",
    "matrix vs list": "a vector may be written as a tuple",
    "approximation": "rounding applies to a whole answer, not inside an equation",
    "2^(1/2^1000) is not 1": "two values differ however close they are",
    "function name": "y = ... and f(x) = ... name the same graph",
}

Row = dict[str, Any]
Verdicts = list[bool | None]


def policy_says(row: Mapping[str, Any]) -> bool:
    """Return what our conventions say about a contested row, whatever its label."""
    kind = row["contested"]
    if kind == "percent":
        return row["form"] == "text" or "%" in row["gold"] + row["pred"]
    return kind not in ("bracket kind", "approximation", "2^(1/2^1000) is not 1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(report.Settings):
    """What to run."""

    data: Path
    """Folder with answer_pairs*.jsonl, math500_rewrites*.jsonl and hostile*.jsonl."""
    repeats: int = 3
    """Runs of everything but the hostile rows, which run once; the graders take turns within each."""
    limit: int | None = None
    """Uses only the first rows of each set."""
    graders: tuple[Name, ...] = ("aipo", "math-verify", "prm800k-style", "hendrycks-style")
    """Which graders to run."""

    least: ClassVar = {"repeats": 1}


# -- the graders, each in a process of its own
# ------------------------------------------------------------------------------------------------------

Grade = Callable[[Row], bool]
ALIVE: Row = {"gold": "5", "pred": "5", "form": "answer"}


def _aipo() -> Grade:
    from aipo_env.grading import MATH500, grade_answer, grade_text

    def grade(row: Row) -> bool:
        decide = grade_text if row.get("form") == "text" else grade_answer
        return decide(row["gold"], row["pred"], MATH500).correct

    return grade


def _math_verify() -> Grade:
    import logging

    from math_verify import parse, verify

    logging.disable(logging.CRITICAL)

    def grade(row: Row) -> bool:
        answer = row["pred"] if row.get("form") == "text" else f"\\boxed{{{row['pred']}}}"
        return bool(verify(parse(f"\\boxed{{{row['gold']}}}"), parse(answer)))

    return grade


def _prm800k() -> Grade:
    module = report.load_alone(report.file_of("openrlhf", "openrlhf/utils/math_utils.py"))

    def grade(row: Row) -> bool:
        boxed = module.extract_boxed_answer(row["pred"]) if row.get("form") == "text" else None
        return bool(module.grade_answer(row["pred"] if boxed is None else boxed, row["gold"]))

    return grade


def _hendrycks() -> Grade:
    module = report.load_alone(report.file_of("verl", "verl/utils/reward_score/math_reward.py"))

    def grade(row: Row) -> bool:
        boxed = module.last_boxed_only_string(row["pred"]) if row.get("form") == "text" else None
        return bool(module.is_equiv(row["pred"] if boxed is None else module.remove_boxed(boxed), row["gold"]))

    return grade


_MAKERS: dict[str, Callable[[], Grade]] = {
    "aipo": _aipo, "math-verify": _math_verify, "prm800k-style": _prm800k, "hendrycks-style": _hendrycks
}  # fmt: skip


def serve(name: str, connection: Connection) -> None:
    """Calls what is asked for with the grader until the connection closes."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)  # peers print
    os.dup2(nowhere, 2)
    try:
        grade = _MAKERS[name]()
    except ImportError as error:
        connection.send(str(error))
        return
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 86_400)
    connection.send("")
    while True:
        try:
            function, rows = connection.recv()
        except EOFError:
            return
        connection.send(function(grade, rows))


def grade_rows(grade: Grade, rows: Iterable[Row]) -> tuple[Verdicts, list[float]]:
    """The verdicts, and the milliseconds of each."""
    verdicts: Verdicts = []
    times = []
    for row in rows:
        started = time.perf_counter()
        try:
            verdict = grade(row)
        except Exception:  # a peer that raises has given no reward
            verdict = False
        times.append(1000 * (time.perf_counter() - started))
        verdicts.append(verdict)
    return verdicts, times


def outer_timer_is_kept(grade: Grade, rows: Iterable[Row]) -> bool:
    """Whether the timer that was set outside of the grader is as it was."""
    running = signal.getitimer(signal.ITIMER_REAL)[0] > 0
    return running and signal.getsignal(signal.SIGALRM) is signal.default_int_handler


class Server:
    """A grader's process, which can be killed and started anew.

    Raises:
        ImportError: where the grader is not installed.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.start()

    def start(self) -> None:
        """Starts the process, and waits until the grader is imported."""
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(self.name, theirs))
        self.process.start()
        theirs.close()
        missing = self.receive(120.0)
        if missing != "":
            self.close()
            raise ImportError(missing or "its process ended while importing")

    def send(self, function: Callable[[Grade, list[Row]], object], rows: list[Row]) -> None:
        """Asks for the function's result."""
        self.connection.send((function, rows))

    def receive(self, seconds: float) -> Any:
        """The next result; None if there is none in time, or the process died."""
        try:
            return self.connection.recv() if self.connection.poll(seconds) else None
        except (EOFError, ConnectionError):
            return None

    def grade(self, rows: Iterable[Row]) -> tuple[Verdicts, list[float]]:
        """Grades row by row; a row that hangs has the verdict None and costs the process."""
        verdicts: Verdicts = []
        times: list[float] = []
        for row in rows:
            started = time.perf_counter()
            self.send(grade_rows, [row])
            found = self.receive(WATCHDOG)
            if found is None:
                self.process.kill()
                self.close()
                self.start()
                found = [None], [1000 * (time.perf_counter() - started)]
            verdicts += found[0]
            times += found[1]
        return verdicts, times

    def close(self) -> None:
        """Ends the process."""
        self.connection.close()
        self.process.join(10)
        self.process.kill()
        self.process.join()

    def __enter__(self) -> Self:
        """Itself, with all lazy imports done and caches filled."""
        self.grade([ALIVE] * 5)
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the process."""
        self.close()


# -- what is measured
# ------------------------------------------------------------------------------------------------------


def read_rows(folder: Path, name: str, limit: int | None) -> list[Row]:
    """Read the rows of one set.

    Raises:
        DataNotFoundError: if there is none in the folder.
    """
    files = sorted(folder.glob(f"{name}*.jsonl"))
    if not files:
        raise DataNotFoundError(f"Expected {name}*.jsonl in {folder}; there is none. Name the folder with --data.")
    lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    return [json_module.loads(line) for line in lines[:limit]]


def score(rows: list[Row], verdicts: Verdicts) -> dict[str, float]:
    """Return accuracy and errors on the rows that have a label; a hang is not an acceptance."""
    pairs = [(row["equal"], verdict) for row, verdict in zip(rows, verdicts, strict=True) if row["equal"] is not None]
    accepted_wrong = sum(1 for equal, verdict in pairs if verdict and not equal)
    missed = sum(1 for equal, verdict in pairs if equal and not verdict)
    return {
        "rows": len(rows),
        "accuracy": 1 - (accepted_wrong + missed) / len(pairs) if pairs else float("nan"),
        "false_positives": accepted_wrong,
        "false_negatives": missed,
        "hangs": sum(1 for verdict in verdicts if verdict is None),
    }


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which that share of them lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def latencies(times: Sequence[float]) -> dict[str, float]:
    """Return median, 99th percentile and maximum."""
    return {"median_ms": percentile(times, 0.5), "p99_ms": percentile(times, 0.99), "max_ms": max(times)}


def rows_per_second(name: str, rows: list[Row]) -> float:
    """The rows dealt to several processes of one grader."""
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(Server(name)) for _ in range(PROCESSES)]
        started = time.perf_counter()
        for index, server in enumerate(servers):
            server.send(grade_rows, rows[index::PROCESSES])
        if any(server.receive(1200.0) is None for server in servers):
            raise RuntimeError(f"{name} gave no verdicts within 20 minutes. Use --limit.")
        return len(rows) / (time.perf_counter() - started)


def hostile(name: str, rows: list[Row]) -> dict[str, float]:
    """Grades the hostile rows once, and looks at the timer that they left behind."""
    with Server(name) as server:
        verdicts, times = server.grade(rows)
        server.send(outer_timer_is_kept, [])
        kept = server.receive(60.0)
    slow = sum(1 for ms in times if ms > 1000)
    return {**score(rows, verdicts), **latencies(times), "over_1_s": slow, "outer_timer_kept": bool(kept)}


def one_repeat(name: str, sets: Mapping[str, list[Row]]) -> dict[str, dict[str, float]]:
    """Runs one grader once over everything but the hostile rows."""
    core = [row for row in sets["pairs"] if not row.get("contested")]
    contested = [row for row in sets["pairs"] if row.get("contested")]
    stated = [{**row, "equal": policy_says(row)} for row in contested]
    rewrites = sets["rewrites"]
    with Server(name) as server:
        core_verdicts, core_times = server.grade(core)
        contested_verdicts, _ = server.grade(contested)
        rewrite_verdicts, rewrite_times = server.grade(rewrites)
    per_second = rows_per_second(name, rewrites)
    print(f"{name}: a repeat is done", file=sys.stderr)
    return {
        "pairs": {**score(core, core_verdicts), **latencies(core_times)},
        "contested": {
            "rows": len(contested),
            "as_policy": score(stated, contested_verdicts)["accuracy"],
            "as_labelled": score(contested, contested_verdicts)["accuracy"],
        },
        "rewrites": {**score(rewrites, rewrite_verdicts), **latencies(rewrite_times), "per_s": per_second},
    }


def benchmark(settings: Settings) -> report.Result:
    """Runs every grader that is installed.

    Raises:
        DataNotFoundError: if the folder has no labelled rows.
    """
    sets = {key: read_rows(settings.data, name, settings.limit) for key, name in SETS.items()}
    skipped: dict[str, str] = {}
    hostiles: dict[str, dict[str, float]] = {}
    for name in settings.graders:
        try:
            hostiles[name] = hostile(name, sets["hostile"])
        except ImportError as error:
            skipped[name] = str(error)
    runs = report.in_turns({name: partial(one_repeat, name, sets) for name in hostiles}, settings.repeats)
    graders = {
        name: {part: report.spreads([run[part] for run in own]) for part in own[0]}
        | {"hostile": report.spreads([hostiles[name]])}
        for name, own in runs.items()
    }
    ratios = _ratios(runs)
    notes = [f"{key}: {value.text(1, 'x')}" for key, value in ratios.items()]
    notes += [f"skipped {name}: {reason}" for name, reason in skipped.items()]
    data = {"skipped": skipped, "graders": graders, "ratios": ratios, "runs": runs}
    return report.Result([grader_table(graders, notes)], data)


def _ratios(runs: Mapping[str, list[dict[str, dict[str, float]]]]) -> dict[str, report.Spread]:
    """How many times faster than math-verify ours is, repeat by repeat."""
    if not {"aipo", "math-verify"} <= runs.keys():
        return {}

    def figures(name: str, part: str, key: str) -> list[float]:
        return [run[part][key] for run in runs[name]]

    rates = [figures(name, "rewrites", "per_s") for name in ("aipo", "math-verify")]
    found = {"rewrites per s, ours / math-verify's": report.ratios(*rates)}
    for part in ("pairs", "rewrites"):
        times = [figures(name, part, "median_ms") for name in ("math-verify", "aipo")]
        found[f"median time on the {part}, math-verify's / ours"] = report.ratios(*times)
    return found


FIGURES = {
    "rows": ("rows", 1, 0),
    "accuracy": ("accuracy, %", 100, 2),
    "as_policy": ("as our policy, %", 100, 0),
    "as_labelled": ("as labelled, %", 100, 0),
    "false_positives": ("false positives", 1, 0),
    "false_negatives": ("false negatives", 1, 0),
    "hangs": ("hangs", 1, 0),
    "median_ms": ("median, ms", 1, 3),
    "p99_ms": ("p99, ms", 1, 1),
    "max_ms": ("slowest, ms", 1, 1),
    "per_s": ("per s", 1, 0),
    "over_1_s": ("rows over 1 s", 1, 0),
    "outer_timer_kept": ("an outer timer is kept (1: yes)", 1, 0),
}
"""How each figure is printed: its name, what it is multiplied with, its digits."""


def grader_table(
    graders: Mapping[str, Mapping[str, Mapping[str, report.Spread]]], notes: Sequence[str]
) -> report.Table:
    """A figure a row, a grader a column."""

    def cell(spread: report.Spread, scale: float, digits: int) -> str:
        median, low, high = (scale * value for value in (spread.median, spread.low, spread.high))
        if f"{low:.{digits}f}" == f"{high:.{digits}f}":
            return f"{median:,.{digits}f}"
        return report.Spread(median, low, high, spread.num_samples).text(digits)

    rows = []
    for part, figures in next(iter(graders.values()), {}).items():
        for key in figures:
            label, scale, digits = FIGURES[key]
            rows.append([f"{part}: {label}", *(cell(own[part][key], scale, digits) for own in graders.values())])
    notes = [
        *notes,
        "contested, as our policy: agreement with the conventions that this project documents",
        "rates and times with three numbers: median (least .. largest) over the repeats",
        f"rewrites per s: {PROCESSES} processes of each grader",
        "a hang: no verdict before the watchdog; a peer that raises counts as having rejected the answer",
    ]
    return report.Table("Answer graders", ["", *graders], rows, notes)


if __name__ == "__main__":
    raise SystemExit(report.run(Settings, benchmark, PACKAGES))
