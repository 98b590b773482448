"""The engine: threads, asyncio, forks, signals, deadlines."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from aipo_env.grading import Verdict, grade_answer, grade_async, grader

LONG = (r"\sqrt{2}", r"\sum_{a=1}^{1999}\sum_{b=1}^{1999}\sqrt{ab}")
PAIRS = [("1/2", "0.5"), ("x+1", "1+x"), ("2", "3"), (r"\sqrt{8}", r"2\sqrt{2}"), (r"\sqrt[3]{2}", r"\sqrt{2}"), LONG]


def run_script(script: str) -> str:
    """Run a script in a fresh interpreter, warnings being errors."""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_a_decision_that_takes_too_long_is_a_timeout() -> None:
    grade = grade_answer(*LONG)
    assert (grade.verdict, grade.rule.partition(".")[0]) == (Verdict.TIMEOUT, "budget")
    started = time.perf_counter()
    grade = grade_answer(*LONG, timeout=0.02)
    assert (grade.verdict, grade.rule) == (Verdict.TIMEOUT, "budget.time")
    assert time.perf_counter() - started < 20


def test_threads_and_asyncio_agree_with_serial_grading() -> None:
    pairs = PAIRS * 4
    serial = [grade_answer(gold, answer, timeout=30) for gold, answer in pairs]
    threaded: dict[int, list[object]] = {}

    def work(index: int) -> None:
        threaded[index] = [grade_answer(gold, answer, timeout=30) for gold, answer in pairs]

    async def gather() -> list[object]:
        return list(await asyncio.gather(*(grade_async(g, a, timeout=30) for g, a in pairs)))

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    concurrent = asyncio.run(gather())
    for thread in threads:
        thread.join()
    assert concurrent == serial
    assert all(threaded[index] == serial for index in range(4))


def test_repair_06_the_event_loop_computes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[str] = []
    original = grade_answer

    def recorded(*args: Any, **options: Any) -> object:
        threads.append(threading.current_thread().name)
        return original(*args, **options)

    monkeypatch.setattr(grader, "grade_answer", recorded)

    async def main() -> int:
        ticks = 0
        grading = asyncio.ensure_future(grade_async(*LONG))
        while not grading.done():
            await asyncio.sleep(0.005)
            ticks += 1
        assert (await grading).verdict is Verdict.TIMEOUT
        assert (await grade_async("1/2", "0.5")).correct
        assert (await grade_async("5", "5")).correct
        return ticks

    assert asyncio.run(main()) > 2
    assert threads
    assert all(name.startswith("aipo-grading") for name in threads)


def test_an_outer_timer_still_fires() -> None:
    fired: list[float] = []
    previous = signal.signal(signal.SIGALRM, lambda *_: fired.append(time.monotonic()))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        assert grade_answer(*LONG).verdict is Verdict.TIMEOUT
        assert len(fired) == 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def test_a_fork_grades_too() -> None:
    run_script("""
import asyncio, os
from aipo_env.grading import grade_async
assert asyncio.run(grade_async("1/2", "0.5")).correct
child = os.fork()
if child == 0:
    try:
        ok = asyncio.run(grade_async("1/2", "0.5")).correct
    except BaseException:
        ok = False
    os._exit(0 if ok else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert asyncio.run(grade_async("1/2", "0.5")).correct
""")


def test_importing_is_light() -> None:
    run_script("""
import sys
import aipo_env.grading
heavy = {"sympy", "mpmath", "math_verify", "torch"} & set(sys.modules)
assert not heavy, heavy
""")
