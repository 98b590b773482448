"""What sandboxing costs per submission: our pre-forked runner beside a bare interpreter and bubblewrap.

    python -m benchmarks.code_sandbox [--repeats 200]

Every contender runs the same trivial program on the same input, in turns, so that load on the machine hits all of
them alike; times are on the clock, from the call to the checked answer.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from aipo_env.grading.code import CodeGrader, CodeProblem, CodeTest

PROGRAM = "print(int(input()) * 2)"
PROBLEM = CodeProblem([CodeTest("21\n", "42\n")])
BUBBLEWRAP = [
    *("bwrap", "--unshare-all", "--die-with-parent", "--clearenv", "--ro-bind", "/", "/", "--proc", "/proc"),
    *("--dev", "/dev", "--tmpfs", "/tmp", "--chdir", "/tmp"),
]


def run_bare(prefix: list[str]) -> None:
    """Runs the program with an interpreter started for it, optionally inside another sandbox."""
    command = [*prefix, sys.executable, "-I", "-S", "-c", PROGRAM]
    result = subprocess.run(command, input=b"21\n", capture_output=True, env={}, check=True)
    assert result.stdout == b"42\n"


def timed(call: Callable[[], None]) -> float:
    """Milliseconds on the clock that a call takes."""
    start = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=200, help="runs of each contender")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    arguments = parser.parse_args()

    with CodeGrader() as grader:

        def grade() -> None:
            assert grader.grade(PROGRAM, PROBLEM).correct

        def grade_twenty() -> None:
            assert grader.grade(PROGRAM, CodeProblem([*PROBLEM.tests] * 20)).correct

        contenders: dict[str, Callable[[], None]] = {
            "aipo CodeGrader": grade,
            "subprocess python -I -S": lambda: run_bare([]),
        }
        if shutil.which("bwrap"):
            contenders["bwrap + python -I -S"] = lambda: run_bare(BUBBLEWRAP)
        for call in contenders.values():
            call()
        times: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(arguments.repeats):
            for name, call in contenders.items():
                times[name].append(timed(call))
        twenty = statistics.median(timed(grade_twenty) for _ in range(10)) / 20
        with ThreadPoolExecutor(grader.workers) as threads:
            start = time.perf_counter()
            list(threads.map(lambda _: grade(), range(arguments.repeats)))
            throughput = arguments.repeats / (time.perf_counter() - start)
        isolation = grader.isolation()

    report: dict[str, object] = {
        "python": platform.python_version(),
        "kernel": platform.release(),
        "user": "root" if os.geteuid() == 0 else "ordinary",
        "cores": grader.workers,
        "load": round(os.getloadavg()[0], 1),
        "isolation": isolation.in_force,
        "tests_per_second": round(throughput, 1),
        "ms_per_test_of_twenty": round(twenty, 2),
        "milliseconds": {
            name: {
                "min": round(min(values), 2),
                "median": round(statistics.median(values), 2),
                "p90": round(statistics.quantiles(values, n=10)[-1], 2),
            }
            for name, values in times.items()
        },
    }
    if arguments.json:
        print(json.dumps(report))
        return
    for name, value in report.items():
        if name != "milliseconds":
            print(f"{name:22s} {', '.join(value) if isinstance(value, tuple) else value}")
    print(f"\n{'ms per submission':26s} {'min':>8s} {'median':>8s} {'p90':>8s}")
    for name, values in times.items():
        figures = (min(values), statistics.median(values), statistics.quantiles(values, n=10)[-1])
        print(f"{name:26s} " + " ".join(f"{figure:8.2f}" for figure in figures))
    if "bwrap + python -I -S" not in times:
        print("bubblewrap is not installed here; install it to see its line")


if __name__ == "__main__":
    main()
