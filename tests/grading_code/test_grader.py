from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from aipo_env.errors import ConfigurationError, DataFormatError, GradingError
from aipo_env.grading.code import CodeGrade, CodeGrader, CodeProblem, CodeTest, CodeVerdict, Isolation
from aipo_env.grading.code import worker as worker_module
from tests.grading_code.support import command_line, needs_sandbox, sandbox_processes, settled_processes, settles

pytestmark = needs_sandbox

DOUBLE = CodeProblem([CodeTest(str(n), str(2 * n)) for n in range(3)], time_limit_s=5)
RIGHT = "print(int(input())*2)"


@pytest.fixture(scope="module")
def grader() -> Iterator[CodeGrader]:
    with CodeGrader(2) as grader:
        yield grader


def test_counts_and_first_failure(grader: CodeGrader) -> None:
    wrong = "n=int(input())\nprint(n*2 if n!=1 else 7)"
    grade = grader.grade(wrong, DOUBLE)
    assert (grade.verdict, grade.passed, grade.num_tests) == (CodeVerdict.WRONG, 1, 3)
    assert grade.first_failure is not None
    assert grade.first_failure.index == 1
    assert "expected" not in grade.first_failure.reason
    everything = grader.grade(wrong, DOUBLE, stop_at_first_failure=False, reveal=True)
    assert everything.passed == 2
    assert everything.first_failure is not None
    assert "got '7\\n', expected '2'" in everything.first_failure.reason


@pytest.mark.parametrize(
    ("code", "verdict"),
    [
        (RIGHT, CodeVerdict.PASS),
        ("print(1)", CodeVerdict.WRONG),
        ("1/0", CodeVerdict.RUNTIME_ERROR),
        ("import sys; print(int(input())*2); sys.exit(3)", CodeVerdict.RUNTIME_ERROR),
        ("while 1: pass", CodeVerdict.TIME_LIMIT),
        ("import time; time.sleep(9)", CodeVerdict.TIME_LIMIT),
        ("x=bytearray(10**9)", CodeVerdict.MEMORY_LIMIT),
        ("import mmap; mmap.mmap(-1,10**9)", CodeVerdict.MEMORY_LIMIT),
        (
            "import threading; t=threading.Thread(target=bytearray,args=(10**9,)); t.start(); t.join()",
            CodeVerdict.MEMORY_LIMIT,
        ),
        ("print('x'*(3<<20))", CodeVerdict.OUTPUT_LIMIT),
        ("import sys; sys.stderr.write('x'*(3<<20))", CodeVerdict.OUTPUT_LIMIT),
    ],
)
def test_verdicts(code: str, verdict: CodeVerdict, grader: CodeGrader) -> None:
    limits = {"time_limit_s": 0.5, "wall_limit_s": 1.5, "memory_limit_mb": 200, "output_limit_mb": 2}
    grade = grader.grade(code, CodeProblem([CodeTest("4", "8")], **limits))
    assert grade.verdict is verdict, grade
    assert grade.correct == (verdict is CodeVerdict.PASS)
    assert grade.isolation.is_sandbox


def test_each_test_runs_in_a_fresh_process(grader: CodeGrader) -> None:
    code = "import os,json\nprint(os.path.exists('x'),hasattr(json,'mark'))\njson.mark=1\nopen('x','w')"
    assert grader.grade(code, CodeProblem([CodeTest("", "False False")] * 4)).correct


def test_cpu_time_counts_and_not_the_clock() -> None:
    """More programs than cores at once: each gets less than its share of the clock, none is called late."""
    code = "import time\nwhile time.process_time()<.4: pass\nprint('done')"
    problem = CodeProblem([CodeTest("", "done")], time_limit_s=0.8, wall_limit_s=60)
    with CodeGrader(8) as grader, ThreadPoolExecutor(8) as threads:
        grades = list(threads.map(lambda _: grader.grade(code, problem), range(8)))
    assert [grade.verdict for grade in grades] == [CodeVerdict.PASS] * 8
    assert max(grade.wall_seconds for grade in grades) > 0.4


def test_threads_and_asyncio_at_once_and_the_callers_alarm_still_fires(grader: CodeGrader) -> None:
    fired = threading.Event()
    before = signal.signal(signal.SIGALRM, lambda *_: fired.set())
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    results: list[CodeGrade] = []

    def work() -> None:
        results.extend(grader.grade(code, DOUBLE) for code in (RIGHT, "print(0)"))

    async def gather() -> list[CodeGrade]:
        return await asyncio.gather(*(grader.grade_async(code, DOUBLE) for code in (RIGHT, "print(0)") * 3))

    try:
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        own = asyncio.run(gather())
        for thread in threads:
            thread.join()
        while not fired.is_set():
            time.sleep(0.01)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert sorted(g.verdict for g in results) == ["pass"] * 4 + ["wrong"] * 4
    assert [g.verdict for g in own] == ["pass", "wrong"] * 3


def test_a_killed_worker_is_replaced(grader: CodeGrader) -> None:
    grader.grade(RIGHT, DOUBLE)
    for pid in sandbox_processes():
        if b"runner.supervisor" in command_line(pid):
            os.kill(pid, signal.SIGKILL)
    assert grader.grade(RIGHT, DOUBLE).correct


def test_a_harness_error_is_never_a_wrong_answer(grader: CodeGrader, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise worker_module.WorkerError("broken on purpose")

    monkeypatch.setattr(worker_module.Worker, "run", fail)
    grade = grader.grade(RIGHT, DOUBLE)
    assert grade.verdict is CodeVerdict.HARNESS_ERROR
    assert grade.first_failure is not None
    assert "on purpose" in grade.first_failure.reason
    with pytest.raises(GradingError, match="on purpose"):
        _ = grade.correct


def _grade_in_child(grader: CodeGrader, queue: object) -> None:
    queue.put(grader.grade(RIGHT, DOUBLE).verdict)  # type: ignore[attr-defined]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_uses_workers_of_its_own(grader: CodeGrader) -> None:
    assert grader.grade(RIGHT, DOUBLE).correct
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    children = [context.Process(target=_grade_in_child, args=(grader, queue)) for _ in range(2)]
    for child in children:
        child.start()
    assert [queue.get(timeout=60) for _ in children] == ["pass", "pass"]
    for child in children:
        child.join()
        assert child.exitcode == 0
    assert grader.grade(RIGHT, DOUBLE).correct


def test_close_leaves_no_process() -> None:
    before = settled_processes()
    grader = CodeGrader(2)
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda _: grader.grade(RIGHT, DOUBLE), range(4)))
    assert sandbox_processes() > before
    grader.close()
    grader.close()
    assert settles(lambda: sandbox_processes() == before)
    with pytest.raises(ConfigurationError, match="closed"):
        grader.grade(RIGHT, DOUBLE)


def test_a_forgotten_grader_ends_its_workers() -> None:
    before = settled_processes()
    grader = CodeGrader(1)
    assert grader.grade(RIGHT, DOUBLE).correct
    del grader
    gc.collect()
    assert settles(lambda: sandbox_processes() == before)


def test_extra_packages_can_be_imported_only_when_asked_for(grader: CodeGrader, tmp_path: Path) -> None:
    (tmp_path / "handy.py").write_text("value = 42")
    tmp_path.chmod(0o755)
    problem = CodeProblem([CodeTest("", "42")])
    code = "import handy\nprint(handy.value)"
    assert grader.grade(code, problem).verdict is CodeVerdict.RUNTIME_ERROR
    with CodeGrader(1, extra_paths=[str(tmp_path)]) as other:
        assert other.grade(code, problem).correct


def test_installed_packages_are_hidden(grader: CodeGrader) -> None:
    code = (
        "import os,sysconfig\np=sysconfig.get_paths()['purelib']\n"
        "try: print([n for n in os.listdir(p)])\nexcept OSError: print('[]')\n"
    )
    assert grader.grade(code, CodeProblem([CodeTest("", "[]")])).correct


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: CodeProblem([]), "tests is empty"),
        (lambda: CodeProblem([CodeTest("1", "1", "functional")]), "func_name"),
        (lambda: CodeProblem([CodeTest("1", "1")], time_limit_s=0), "time_limit_s"),
        (lambda: CodeProblem([CodeTest("1", "1")], wall_limit_s=1), "wall_limit_s"),
        (lambda: CodeTest("1", "1", "other"), "kind"),
        (lambda: CodeGrader(0), "workers"),
        (lambda: CodeGrader(extra_paths=["relative"]), "extra_paths"),
    ],
)
def test_mistakes_are_named(build: object, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        build()  # type: ignore[operator]


def test_a_broken_expectation_is_a_data_error(grader: CodeGrader) -> None:
    problem = CodeProblem([CodeTest("1", "not json", "functional")], "f")
    with pytest.raises(DataFormatError, match="not JSON"):
        grader.grade("def f(x): return x", problem)


def test_isolation_is_recorded_and_combined(grader: CodeGrader) -> None:
    isolation = grader.isolation()
    assert isolation.is_sandbox
    assert {"user", "mount", "pid", "net", "rlimits", "no_new_privs"} <= set(isolation.in_force)
    assert not Isolation(rlimits=True, landlock=True, seccomp=True).is_sandbox
    assert (isolation & Isolation(rlimits=True)).in_force == ("rlimits",)


def test_closing_ends_calls_that_are_running() -> None:
    grader = CodeGrader(1)
    grader.isolation()
    timer = threading.Timer(0.3, grader.close)
    timer.start()
    with pytest.raises(ConfigurationError, match="closed"):
        grader.grade("import time; time.sleep(20)", DOUBLE)
    timer.join()
