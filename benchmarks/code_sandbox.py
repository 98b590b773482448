"""What sandboxing costs per submission: our pre-forked runner beside a bare interpreter and bubblewrap.

    python -m benchmarks.code_sandbox [--repeats 200] [--json FILE]

Every contender runs the same trivial program on the same input, in turns; times are on the clock, from the call to the
checked answer.
"""

from __future__ import annotations

import dataclasses
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ClassVar

from aipo_env.grading.code import CodeGrader, CodeProblem, CodeTest
from aipo_env.installation import DISTRIBUTION
from benchmarks import report

PROGRAM = "print(int(input()) * 2)"
TEST = CodeTest("21\n", "42\n")
INTERPRETER = (sys.executable, "-I", "-S", "-c", PROGRAM)
BUBBLEWRAP = (
    *("bwrap", "--unshare-all", "--die-with-parent", "--clearenv", "--ro-bind", "/", "/", "--proc", "/proc"),
    *("--dev", "/dev", "--tmpfs", "/tmp", "--chdir", "/tmp"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(report.Settings):
    """How much is timed."""

    repeats: int = 200
    """Runs of each contender."""

    least: ClassVar = {"repeats": 1}


def run_program(*command: str) -> None:
    """Runs the program with an interpreter started for it."""
    assert subprocess.run(command, input=b"21\n", capture_output=True, env={}, check=True).stdout == b"42\n"


def milliseconds(call: Callable[[], object]) -> float:
    """On the clock."""
    start = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - start)


def benchmark(settings: Settings) -> report.Result:
    """Times every contender, then tests of one program together and submissions from several threads."""
    with CodeGrader() as grader:

        def grade(num_tests: int = 1) -> None:
            assert grader.grade(PROGRAM, CodeProblem([TEST] * num_tests)).correct

        contenders: dict[str, Callable[[], None]] = {
            "aipo CodeGrader": grade,
            "subprocess python -I -S": lambda: run_program(*INTERPRETER),
            "bwrap + python -I -S": lambda: run_program(*BUBBLEWRAP, *INTERPRETER),
        }
        if not shutil.which("bwrap"):
            del contenders["bwrap + python -I -S"]
        for call in contenders.values():
            call()
        timed = {name: partial(milliseconds, call) for name, call in contenders.items()}
        samples = report.in_turns(timed, settings.repeats)
        per_test = statistics.median(milliseconds(lambda: grade(20)) for _ in range(10)) / 20
        with ThreadPoolExecutor(grader.workers) as threads:
            elapsed = milliseconds(lambda: list(threads.map(lambda _: grade(), range(settings.repeats))))
        isolation = grader.isolation().in_force
    per_second = 1000 * settings.repeats / elapsed
    user = "root" if os.geteuid() == 0 else "an ordinary user"
    notes = [
        "Medians (least .. largest)." + ("" if shutil.which("bwrap") else " bubblewrap is not installed here."),
        f"Of twenty tests of one program each took {per_test:.2f} ms; {grader.workers} threads graded {per_second:.1f} "
        "submissions per second.",
        f"Isolation, as {user} on kernel {platform.release()}: {', '.join(isolation)}.",
    ]
    rows = [[name, report.spread(own).text(2)] for name, own in samples.items()]
    data = {"isolation": isolation, "submissions_per_second": per_second, "ms_per_test_of_twenty": per_test}
    return report.Result(
        [report.Table("A submission", ["", "milliseconds"], rows, notes)], data | {"milliseconds": samples}
    )


if __name__ == "__main__":
    raise SystemExit(report.run(Settings, benchmark, (DISTRIBUTION,)))
