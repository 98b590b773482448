"""Accuracy, resistance to hostile input and speed of answer graders, side by side in one run.

Each grader runs in processes of its own, in the main thread, with its timeouts as shipped; this program only
waits and, after `--watchdog` seconds without a verdict, kills the process and counts a hang. Peers are used
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
import importlib.metadata
import importlib.util
import json as json_module
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import tyro

from aipo_env.errors import DataNotFoundError
from aipo_env.installation import DISTRIBUTION
from benchmarks import report

PACKAGES = (DISTRIBUTION, "math-verify", "latex2sympy2-extended", "sympy", "mpmath", "openrlhf", "verl", "pylatexenc")
Name = Literal["aipo", "math-verify", "prm800k-style", "hendrycks-style"]
GRADERS: tuple[Name, ...] = ("aipo", "math-verify", "prm800k-style", "hendrycks-style")
INTEGERS = [("204", "204"), ("025", "25"), ("1234", "1,234"), ("204", "205"), ("17", "71"), ("-3", "3")]
CHOICES = [("B", "B"), ("B", "C"), ("D", "(D)"), ("A", "b")]

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


@dataclasses.dataclass(frozen=True)
class Settings:
    """What to run."""

    data: Path
    """Folder with answer_pairs*.jsonl, math500_rewrites*.jsonl and hostile*.jsonl."""
    json: Path | None = None
    """Where to write the report."""
    repeats: int = 3
    """Runs of everything but the hostile rows, which run once; the graders take turns within each."""
    limit: int | None = None
    """Uses only the first rows of each set."""
    processes: int = dataclasses.field(default_factory=lambda: min(2, os.cpu_count() or 1))
    """Processes of each grader when throughput is measured."""
    watchdog: float = 12.0
    """Seconds without a verdict after which a grader's process is killed."""
    graders: tuple[Name, ...] = GRADERS
    """Which graders to run."""


# -- the graders, each in a process of its own
# ------------------------------------------------------------------------------------------------------

Grade = Callable[[Row], bool]


def _module_alone(distribution: str, file: str) -> ModuleType:
    """Load one file of an installed package without importing the package, which may need a GPU's libraries."""
    path = importlib.metadata.distribution(distribution).locate_file(file)
    spec = importlib.util.spec_from_file_location("peer_" + distribution, str(path))
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _aipo() -> Grade:
    from aipo_env.grading import AIME, CHOICE, MATH500, Grader

    grader = Grader().start()
    policies = {"integers": AIME, "choices": CHOICE}

    def grade(row: Row) -> bool:
        policy = policies.get(row.get("set", ""), MATH500)
        if row.get("form") == "text":
            return grader.grade_text(row["gold"], row["pred"], policy).correct
        return grader.grade_answer(row["gold"], row["pred"], policy).correct

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
    module = _module_alone("openrlhf", "openrlhf/utils/math_utils.py")

    def grade(row: Row) -> bool:
        boxed = module.extract_boxed_answer(row["pred"]) if row.get("form") == "text" else None
        return bool(module.grade_answer(row["pred"] if boxed is None else boxed, row["gold"]))

    return grade


def _hendrycks() -> Grade:
    module = _module_alone("verl", "verl/utils/reward_score/math_reward.py")

    def grade(row: Row) -> bool:
        boxed = module.last_boxed_only_string(row["pred"]) if row.get("form") == "text" else None
        return bool(module.is_equiv(row["pred"] if boxed is None else module.remove_boxed(boxed), row["gold"]))

    return grade


_MAKERS: dict[str, Callable[[], Grade]] = {
    "aipo": _aipo, "math-verify": _math_verify, "prm800k-style": _prm800k, "hendrycks-style": _hendrycks
}  # fmt: skip


def serve(name: str) -> None:
    """Answer requests on standard input until it closes: rows to grade, or questions about this process."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a peer prints must not mix with the replies

    def reply(message: Mapping[str, object]) -> None:
        replies.write(json_module.dumps(message) + "\n")
        replies.flush()

    try:
        grade = _MAKERS[name]()
    except (ImportError, importlib.metadata.PackageNotFoundError) as error:
        reply({"missing": str(error)})
        return
    signal.setitimer(signal.ITIMER_REAL, 86_400)
    handler = signal.getsignal(signal.SIGALRM)
    reply({"ready": True})
    for line in sys.stdin:
        request = json_module.loads(line)
        if "rows" in request:
            verdicts, times = [], []
            for row in request["rows"]:
                started = time.perf_counter()
                try:
                    verdict = grade(row)
                except Exception:  # a peer that raises has given no reward
                    verdict = False
                times.append(1000 * (time.perf_counter() - started))
                verdicts.append(verdict)
            reply({"verdicts": verdicts, "ms": times})
        elif "rate" in request:
            reply({"rate": _rate(grade, request["rate"])})
        else:
            kept = signal.getitimer(signal.ITIMER_REAL)[0] > 0 and signal.getsignal(signal.SIGALRM) is handler
            alive = grade(ALIVE)
            reply({"timer": kept, "files": os.listdir(), "children": _children(), "alive": alive})


ALIVE: Row = {"gold": "5", "pred": "5", "form": "answer"}


def _rate(grade: Grade, rows: list[Row], seconds: float = 1.0) -> float:
    count, started = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < seconds:
        for row in rows:
            grade(row)
        count += len(rows)
    return count / elapsed


def _children() -> list[str]:
    """Ids of this process's children, where the system tells them."""
    found: list[str] = []
    for task in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += task.read_text().split()
    return sorted(found)


class Missing(Exception):
    """A peer that is not installed."""


class Server:
    """A grader's process, which can be killed and started anew."""

    def __init__(self, name: str, watchdog: float) -> None:
        self.name, self.watchdog = name, watchdog
        self.folder = tempfile.TemporaryDirectory(prefix="grading-")
        self.start()

    def start(self) -> None:
        """Start the process and wait until the grader is imported.

        Raises:
            Missing: if it cannot be imported.
        """
        root = str(Path(__file__).parents[1])
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.grading", "--serve", self.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=self.folder.name,
            env={**os.environ, "PYTHONPATH": root},
        )
        hello = self.receive(120.0) or {"missing": "its process ended while importing"}
        if "missing" in hello:
            self.close()
            raise Missing(str(hello["missing"]))

    def send(self, request: Mapping[str, object]) -> None:
        """Ask something."""
        assert self.process.stdin is not None
        self.process.stdin.write(json_module.dumps(request).encode() + b"\n")
        self.process.stdin.flush()

    def receive(self, seconds: float) -> Row | None:
        """Return the next reply; None if there is none in time, or the process died."""
        assert self.process.stdout is not None
        # Nothing is left in the buffer between replies, so waiting on the descriptor is enough.
        if not select.select([self.process.stdout], [], [], seconds)[0]:
            return None
        line = self.process.stdout.readline()
        return json_module.loads(line) if line else None

    def ask(self, request: Mapping[str, object], seconds: float = 600.0) -> Row:
        """Ask something that must be answered."""
        self.send(request)
        found = self.receive(seconds)
        if found is None:
            raise RuntimeError(f"{self.name} did not answer within {seconds} s. Run it on its own to see why.")
        return found

    def grade(self, rows: Iterable[Row]) -> tuple[Verdicts, list[float]]:
        """Grade row by row; a row that hangs has the verdict None and costs the process."""
        verdicts: Verdicts = []
        times: list[float] = []
        for row in rows:
            started = time.perf_counter()
            self.send({"rows": [row]})
            found = self.receive(self.watchdog)
            if found is None:
                times.append(1000 * (time.perf_counter() - started))
                verdicts.append(None)
                self.stop(kill=True)
                self.start()
            else:
                times += found["ms"]
                verdicts += found["verdicts"]
        return verdicts, times

    def stop(self, *, kill: bool = False) -> None:
        """End the process."""
        if kill:
            self.process.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def close(self) -> None:
        """End the process and remove its folder."""
        self.stop()
        self.folder.cleanup()


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


def throughput(name: str, rows: list[Row], processes: int, watchdog: float) -> float:
    """Return rows per second with the rows dealt to several processes of one grader."""
    servers = [Server(name, watchdog) for _ in range(processes)]
    try:
        for server in servers:
            server.ask({"rows": [ALIVE] * 5})
        started = time.perf_counter()
        for index, server in enumerate(servers):
            server.send({"rows": rows[index::processes]})
        if any(server.receive(1200.0) is None for server in servers):
            raise RuntimeError(f"{name} gave no verdicts within 20 minutes. Use --limit.")
        return len(rows) / (time.perf_counter() - started)
    finally:
        for server in servers:
            server.close()


def hostile(server: Server, rows: list[Row]) -> dict[str, object]:
    """Grade the hostile rows once, and look at what they left behind."""
    before = server.ask({})
    verdicts, times = server.grade(rows)
    after = server.ask({}, 60.0)
    restarted = None in verdicts
    return {
        **score(rows, verdicts),
        **latencies(times),
        "over_1_s": sum(1 for ms in times if ms > 1000),
        "files_left": len(after["files"]),
        "new_processes": 0 if restarted else len(set(after["children"]) - set(before["children"])),
        "outer_timer_kept": bool(after["timer"]),
        "alive_afterwards": bool(after["alive"]),
    }


def one_repeat(name: str, sets: Mapping[str, list[Row]], settings: Settings) -> dict[str, Any]:
    """Run one grader once over everything but the hostile rows."""
    server = Server(name, settings.watchdog)
    try:
        server.ask({"rows": [ALIVE] * 5}, 60.0)  # lazy imports and caches
        core = [row for row in sets["pairs"] if not row.get("contested")]
        contested = [row for row in sets["pairs"] if row.get("contested")]
        verdicts, times = server.grade(core)
        result: dict[str, Any] = {"pairs": {**score(core, verdicts), **latencies(times)}}
        stated = [{**row, "equal": policy_says(row)} for row in contested]
        verdicts, _ = server.grade(contested)
        result["contested"] = {
            **score(stated, verdicts),
            "as_labelled": score(contested, verdicts)["accuracy"] if contested else float("nan"),
        }
        rewrites = sets["rewrites"]
        verdicts, times = server.grade(rewrites)
        right = [ms for row, ms in zip(rewrites, times, strict=True) if row["equal"]]
        wrong = [ms for row, ms in zip(rewrites, times, strict=True) if not row["equal"]]
        result["rewrites"] = {**score(rewrites, verdicts), **latencies(times)}
        if right and wrong:
            medians = percentile(right, 0.5), percentile(wrong, 0.5)
            result["speed"] = {
                "right_ms": medians[0],
                "wrong_ms": medians[1],
                "wrong_over_right": medians[1] / medians[0],
            }
        for kind, pairs in (("integers", INTEGERS), ("choices", CHOICES)):
            rate = server.ask({"rate": [{"gold": gold, "pred": answer, "set": kind} for gold, answer in pairs]})
            result.setdefault("speed", {})[f"{kind}_per_s"] = rate["rate"]
    finally:
        server.close()
    result["speed"]["rewrites_per_s"] = throughput(name, rewrites, settings.processes, settings.watchdog)
    return result


def benchmark(settings: Settings) -> dict[str, Any]:
    """Run everything and return the report.

    Raises:
        DataNotFoundError: if the folder has no labelled rows.
    """
    names = {"pairs": "answer_pairs", "rewrites": "math500_rewrites", "hostile": "hostile"}
    sets = {key: read_rows(settings.data, name, settings.limit) for key, name in names.items()}
    about = report.machine(PACKAGES, threads=1) | {"processes": settings.processes, "repeats": settings.repeats}
    skipped: dict[str, str] = {}
    hostiles: dict[str, object] = {}
    name: str
    for name in settings.graders:
        try:
            server = Server(name, settings.watchdog)
        except Missing as missing:
            skipped[name] = str(missing)
            continue
        try:
            hostiles[name] = hostile(server, sets["hostile"])
        finally:
            server.close()
        print(f"hostile rows: {name} done", file=sys.stderr)
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in hostiles}
    for repeat in range(settings.repeats):
        for name, results in runs.items():
            results.append(one_repeat(name, sets, settings))
            print(f"repeat {repeat + 1} of {settings.repeats}: {name} done", file=sys.stderr)
    about["load_at_end"] = round(os.getloadavg()[0], 2)
    return {
        "about": about,
        "skipped": skipped,
        "hostile": hostiles,
        "graders": {name: _spreads(results) for name, results in runs.items()},
        "ratios": _ratios(runs),
        "runs": runs,
    }


def _spreads(results: list[dict[str, Any]]) -> dict[str, dict[str, report.Spread]]:
    return {
        part: {key: report.spread([result[part][key] for result in results]) for key in results[0][part]}
        for part in results[0]
    }


def _ratios(runs: Mapping[str, list[dict[str, Any]]]) -> dict[str, report.Spread]:
    """How many times faster than math-verify ours is, repeat by repeat."""
    if "aipo" not in runs or "math-verify" not in runs:
        return {}
    ours, theirs = ([run["speed"]["rewrites_per_s"] for run in runs[name]] for name in ("aipo", "math-verify"))
    found = {"rewrites per s, ours / math-verify's": report.ratios(ours, theirs)}
    for part in ("pairs", "rewrites"):
        ours, theirs = ([run[part]["median_ms"] for run in runs[name]] for name in ("math-verify", "aipo"))
        found[f"median time on the {part}, math-verify's / ours"] = report.ratios(ours, theirs)
    return found


# -- the printed report
# ------------------------------------------------------------------------------------------------------

_SET = (
    ("accuracy", "accuracy, %", 100, 2), ("false_positives", "false positives", 1, 0),
    ("false_negatives", "false negatives", 1, 0), ("hangs", "hangs", 1, 0), ("median_ms", "median, ms", 1, 3),
    ("p99_ms", "p99, ms", 1, 1), ("max_ms", "slowest, ms", 1, 0),
)  # fmt: skip
_LINES = (
    ("pairs", "pairs", _SET),
    ("contested", "contested", (("accuracy", "as our policy, %", 100, 0), ("as_labelled", "as labelled, %", 100, 0))),
    ("rewrites", "rewrites", _SET),
    ("rewrites", "speed", (("right_ms", "right, median ms", 1, 4), ("wrong_ms", "wrong, median ms", 1, 4),
                           ("wrong_over_right", "wrong / right", 1, 2), ("rewrites_per_s", "per s", 1, 0))),
    ("integers", "speed", (("integers_per_s", "per s", 1, 0),)),
    ("choices", "speed", (("choices_per_s", "per s", 1, 0),)),
)  # fmt: skip


def _cell(spread: report.Spread, scale: float, digits: int) -> str:
    low, high = spread.low * scale, spread.high * scale
    if f"{low:.{digits}f}" == f"{high:.{digits}f}":
        return f"{low:,.{digits}f}"
    return report.Spread(spread.median * scale, low, high, spread.num_samples).text(digits)


def print_results(result: Mapping[str, Any]) -> None:
    """Print the report for people."""
    names = list(result["graders"])
    rows: list[list[str]] = []
    for title, part, lines in _LINES:
        for key, label, scale, digits in lines:
            cells = [_cell(result["graders"][name][part][key], scale, digits) for name in names]
            rows.append([f"{title}: {label}", *cells])
    for key in result["hostile"][names[0]] if names else ():
        cells = []
        for name in names:
            value = result["hostile"][name][key]
            cells.append(f"{value:,.2f}" if isinstance(value, float) else str(value))
        rows.append([f"hostile: {key.replace('_', ' ')}", *cells])
    notes = [f"{key}: {value.text(1, 'x')}" for key, value in result["ratios"].items()]
    notes += [f"skipped {name}: {reason}" for name, reason in result["skipped"].items()]
    notes += [
        "contested accuracy: agreement with the conventions that this project documents; as labelled: with the rows' labels",
        "rates and times with three numbers: median (least .. largest) over the repeats",
        "rewrites per s: the same number of processes for each grader",
        "a hang: no verdict before the watchdog; a peer that raises counts as having rejected the answer",
    ]
    report.print_report(result["about"], [report.Table("Answer graders", ["", *names], rows, notes)])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark from the command line."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["--serve"]:
        serve(given[1])
        return 0
    settings = tyro.cli(Settings, args=given, description=(__doc__ or "").split("\n", 1)[0])
    result = benchmark(settings)
    print_results(result)
    if settings.json is not None:
        report.write_json(settings.json, result)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
