r"""The engine: deadlines, threads, asyncio, forks, signals, failures."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from aipo_env.errors import GradingError
from aipo_env.grading import Grader, Verdict

# Pairs that the rules leave to computer algebra: an easy one and one that takes too long.
ALGEBRA = (r"\gcd(x^2-1, x-1)", "x-1")
ENDLESS = (r"\int x^x \sin(x) dx", r"\int x^x \cos(x^{x}) \tan(x) e^{-x^2} dx + \gcd(x^{30}-1, \sin(x^{12}))")
ROOT = str(Path(__file__).parents[2])


def run_script(script: str) -> str:
    """Run a script in a fresh interpreter, warnings being errors."""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        env={**os.environ, "PYTHONPATH": ROOT},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_slow_path_decides_what_the_rules_leave_open(grader: Grader) -> None:
    grade = grader.grade_answer(*ALGEBRA, timeout=10)
    assert (grade.verdict, grade.rule) == (Verdict.CORRECT, "algebra")


def test_a_deadline_kills_the_worker_and_the_next_answer_is_graded(grader: Grader) -> None:
    before = grader.worker_pids
    started = time.perf_counter()
    grade = grader.grade_answer(*ENDLESS, timeout=0.3)
    elapsed = time.perf_counter() - started
    assert (grade.verdict, grade.rule) == (Verdict.TIMEOUT, "algebra.deadline")
    assert 0.3 <= elapsed < 1.0
    after = grader.worker_pids
    assert len(after) == len(before) == 3
    assert len(set(before) - set(after)) == 1
    assert grader.grade_answer(*ALGEBRA, timeout=10).correct


def test_a_dead_worker_and_a_dead_zygote_are_replaced(grader: Grader) -> None:
    os.kill(grader.worker_pids[1], signal.SIGKILL)
    assert grader.grade_answer(*ALGEBRA, timeout=10).correct
    for pid in grader.worker_pids:
        os.kill(pid, signal.SIGKILL)
    assert grader.grade_answer(*ALGEBRA, timeout=10).correct
    assert len(grader.worker_pids) == 3


def test_threads_and_asyncio_agree_with_serial_grading(grader: Grader) -> None:
    pairs = [("1/2", "0.5"), ("x+1", "1+x"), ("2", "3"), ALGEBRA, (r"\gcd(x^2-1, x-1)", "x+2"), ("7", "x")] * 6
    serial = [grader.grade_answer(gold, answer, timeout=10) for gold, answer in pairs]
    threaded: dict[int, list[object]] = {}

    def work(index: int) -> None:
        threaded[index] = [grader.grade_answer(gold, answer, timeout=10) for gold, answer in pairs]

    async def gather() -> list[object]:
        return list(await asyncio.gather(*(grader.grade_async(g, a, timeout=10) for g, a in pairs)))

    threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    concurrent = asyncio.run(gather())
    for thread in threads:
        thread.join()
    assert concurrent == serial
    assert all(threaded[index] == serial for index in range(8))


def test_the_event_loop_is_not_blocked(grader: Grader) -> None:
    async def main() -> int:
        ticks = 0
        grading = asyncio.ensure_future(grader.grade_async(*ENDLESS, timeout=0.4))
        while not grading.done():
            await asyncio.sleep(0.01)
            ticks += 1
        assert (await grading).verdict is Verdict.TIMEOUT
        return ticks

    assert asyncio.run(main()) > 5


def test_an_outer_timer_still_fires(grader: Grader) -> None:
    fired: list[float] = []
    previous = signal.signal(signal.SIGALRM, lambda *_: fired.append(time.monotonic()))
    try:
        started = time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, 0.15)
        grade = grader.grade_answer(*ENDLESS, timeout=0.4)
        assert grade.verdict is Verdict.TIMEOUT
        assert signal.getsignal(signal.SIGALRM) is not previous
        assert len(fired) == 1
        assert fired[0] - started < 0.35
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def test_a_fork_gets_workers_of_its_own_and_a_script_leaves_none() -> None:
    # No `if __name__ == "__main__"` and no close(): the workers go with the script.
    script = """
import os
from aipo_env.grading import grade_answer, shared_grader
pair = (r"\\gcd(x^2-1, x-1)", "x-1")
assert grade_answer(*pair, timeout=10).correct
mine = set(shared_grader().worker_pids)
child = os.fork()
if child == 0:
    try:
        ok = shared_grader().worker_pids == [] and grade_answer(*pair, timeout=10).correct
        ok = ok and not mine & set(shared_grader().worker_pids)
        shared_grader().close()
    except BaseException:
        ok = False
    os._exit(0 if ok else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert set(shared_grader().worker_pids) == mine and grade_answer(*pair, timeout=10).correct
print(*mine)
"""
    pids = [int(pid) for pid in run_script(script).split()]
    assert len(pids) >= 2
    deadline = time.monotonic() + 5
    while any(_alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(_alive(pid) for pid in pids)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    try:  # an orphan that nobody reaps is no running process
        return " Z " not in Path(f"/proc/{pid}/stat").read_text().partition(")")[2][:4]
    except OSError:
        return sys.platform != "linux"


def test_a_missing_package_is_an_error_not_a_wrong_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if "site-packages" not in entry])
    grader = Grader(workers=1)
    monkeypatch.setattr("aipo_env.grading.pool._FLAGS", ["-I", "-S"])
    with pytest.raises(GradingError, match="pip install math-verify"):
        grader.grade_answer(*ALGEBRA)
    assert grader.grade_answer("1/2", "0.5").correct  # what needs no algebra still works
    assert grader.worker_pids == []


def test_a_python_that_cannot_run_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    grader = Grader(workers=1)
    with pytest.raises(GradingError, match="could not be started"):
        grader.start()
    grader.close()
    grader.close()
    assert grader.worker_pids == []


def test_a_pool_has_workers() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Grader(workers=0)


def test_importing_is_light() -> None:
    script = """
import sys
import aipo_env.grading
heavy = {"sympy", "math_verify", "torch", "latex2sympy2_extended", "antlr4"} & set(sys.modules)
assert not heavy, heavy
"""
    run_script(script)
