"""`livecodebench`: problems of programming contests, whose answers are programs that run against tests in a sandbox."""

from __future__ import annotations

import asyncio
import collections
import datetime
import functools
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from aipo_env.errors import ConfigurationError, DataFormatError
from aipo_env.grading import Grade, Verdict
from aipo_env.grading.code import CodeGrader, CodeProblem, Isolation, extract_code, load_lcb_problem
from aipo_env.markup import AnswerForm
from aipo_env.tasks.base import Task, check_index
from aipo_env.tasks.lcb_files import SOURCE, IndexedRow, find_files

MAX_CACHED_CHARS = 256_000_000
"""Of the tests that stay in memory; unpacking the largest ones takes longer than running them."""

_STDIN = "The program reads its input from standard input and writes its answer to standard output."
_STARTER = "Complete this code. It is called from outside: keep its names and arguments.\n```python\n{starter}\n```"


class LiveCodeBenchTasks:
    """LiveCodeBench's code generation; task i is row i of the problems in the window of dates.

    An answer is a program, in Python: the last fenced block of the answer, or all of it where it has no fences. It counts
    if it passes the public and the private tests, each in a process of its own that holds no expected output
    (`aipo_env.grading.code`).

    Args:
        split: "test" is the only one.
        data: a .jsonl file, or a folder with test.jsonl, test2.jsonl, ...; see `aipo_env.tasks.lcb_files.find_files`.
        revision: of the hub's repository.
        version: "release_v1" to "release_v6", cumulative; or a part of them, "v6" or "v4_v6". By default the newest release,
            and of a folder all of its files.
        start_date: leaves out problems of contests before it, an ISO date.
        end_date: leaves out problems of contests after it. Both are compared as points in time, as LiveCodeBench does:
            a date is its midnight.
        time_limit_s: CPU seconds for each test; LiveCodeBench's own default is 6.
        allow_weak_isolation: grades even where this machine cannot isolate programs. Not a sandbox: for trusted programs only.
    """

    name = "livecodebench"
    answers: AnswerForm = "program"
    _lock = threading.Lock()  # of the class: what an instance holds can be pickled

    def __init__(
        self,
        split: str = "test",
        *,
        data: str | os.PathLike[str] | None = None,
        revision: str | None = None,
        version: str | None = None,
        start_date: str | None = None,
        end_date: str | None = None,
        time_limit_s: float = 6.0,
        allow_weak_isolation: bool = False,
    ) -> None:
        self.split = SOURCE.own_split(split)
        if isinstance(time_limit_s, bool) or not isinstance(time_limit_s, int | float) or not 0 < time_limit_s < 3600:
            raise ConfigurationError(f"time_limit_s is in seconds, above 0 and below 3600; got {time_limit_s!r}.")
        if allow_weak_isolation not in (True, False):
            raise ConfigurationError(f"allow_weak_isolation is True or False (1 or 0), got {allow_weak_isolation!r}.")
        self.start_date, self.end_date = start_date, end_date
        self.time_limit_s = float(time_limit_s)
        window = _instant("start_date", start_date), _instant("end_date", end_date)
        self._files = find_files(version, data, revision)
        self.version = self._files.version
        """The version whose files these are; None where they are not those of one."""
        rows = self._files.rows()
        self._rows = _in_window(rows, *window)
        self._num_rows_of_version = len(rows)
        self.num_tasks: int | None = len(self._rows)
        self._ids = _unique_ids(self._rows)
        self._places = {task_id: index for index, task_id in enumerate(self._ids)}
        self._allow_weak_isolation = bool(allow_weak_isolation)
        self._problems = _ProblemCache(self.time_limit_s)
        self._isolation: Isolation | None = None

    @property
    def _grader(self) -> CodeGrader:
        return _shared_grader(self._allow_weak_isolation)

    def task(self, index: int) -> Task:
        """The task of this row; its gold answer is empty, since the tests stay with the grader."""
        index = check_index(index, self.num_tasks, self.name)
        place = self._rows[index]
        row = place.read(tests=False)
        starter = str(row["starter_code"]).strip("\n")
        what = _STARTER.format(starter=starter) if starter.strip() else _STDIN
        metadata: dict[str, object] = {
            "platform": place.platform,
            "difficulty": place.difficulty,
            "contest_date": place.contest_date,
        }
        if self.version is not None:
            metadata["release"] = self.version
        return Task(self._ids[index], f"{str(row['question_content']).strip()}\n\n{what}", "", metadata)

    def sample_index(self, rng: np.random.Generator) -> int:
        """Draws a row."""
        return int(rng.integers(len(self._rows)))

    def grade(self, task: Task, answer: str) -> Grade:
        """Runs the program of the answer on the tests.

        Raises:
            GradingError: the sandbox failed, which says nothing about the program.
            ConfigurationError: this machine cannot isolate programs, or the task is none of this family.
            DataFormatError: the task's tests are damaged.
        """
        index = self._places.get(task.id)
        if index is None:
            raise ConfigurationError(
                f"{task.id!r} is none of these {self.num_tasks} tasks: another version or window has it."
            )
        code = extract_code(answer)
        if code is None:
            if "```" in answer or not answer.strip():
                verdict = Verdict.UNPARSABLE if answer.strip() else Verdict.NO_ANSWER
                return Grade(False, verdict, "code.none", None)
            code = answer
        result = self._grader.grade(code, self._problems.get(self._rows[index]))
        correct = result.correct  # raises where the sandbox failed
        with self._lock:
            self._isolation = result.isolation if self._isolation is None else self._isolation & result.isolation
        return Grade(correct, Verdict.CORRECT if correct else Verdict.WRONG, f"code.{result.verdict.value}", code)

    async def grade_async(self, task: Task, answer: str) -> Grade:
        """As `grade`, in a thread; as many programs run at once as this machine has cores."""
        threads = _threads(os.getpid(), self._grader.workers)
        return await asyncio.get_running_loop().run_in_executor(threads, self.grade, task, answer)

    def isolation(self) -> dict[str, object]:
        """What stood between every program that was graded so far and the machine; before the first, what would.

        Raises:
            ConfigurationError: this machine cannot isolate programs.
        """
        with self._lock:
            in_force = self._isolation
        if in_force is None:
            in_force = self._grader.isolation()
        return {"is_sandbox": in_force.is_sandbox, "in_force": list(in_force.in_force)}

    def provenance(self) -> dict[str, object]:
        """What the data are, as plain values: those of every data set, the release, and the window of dates."""
        dates = sorted(row.date for row in self._rows)
        return {
            **self._files.provenance.to_json(len(self._rows)),
            "release": self.version,
            "rows_of_release": self._num_rows_of_version,
            "start_date": self.start_date,
            "end_date": self.end_date,
            "first_contest": dates[0].date().isoformat(),
            "last_contest": dates[-1].date().isoformat(),
            "time_limit_s": self.time_limit_s,
        }


class _ProblemCache:
    """The tests of the problems that were graded last: the samples of a task are graded one after the other."""

    def __init__(self, time_limit_s: float) -> None:
        self._time_limit_s = time_limit_s
        self._kept: collections.OrderedDict[IndexedRow, tuple[CodeProblem, int]] = collections.OrderedDict()
        self._chars = 0
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[_ProblemCache], tuple[float]]:
        return _ProblemCache, (self._time_limit_s,)

    def get(self, row: IndexedRow) -> CodeProblem:
        # One at a time: two threads would unpack the same tests twice.
        with self._lock:
            if row in self._kept:
                self._kept.move_to_end(row)
                return self._kept[row][0]
            try:
                problem = load_lcb_problem(row.read(tests=True), time_limit_s=self._time_limit_s)
            except ValueError as error:  # what is wrong with the tests, or that there are none
                raise DataFormatError(f"{row.path}, line {row.line} ({row.question_id}): {error}") from error
            size = sum(len(test.input) + len(test.output) for test in problem.tests)
            self._kept[row] = problem, size
            self._chars += size
            while self._chars > MAX_CACHED_CHARS and len(self._kept) > 1:
                _, (_, dropped) = self._kept.popitem(last=False)
                self._chars -= dropped
            return problem


@functools.lru_cache(maxsize=2)
def _shared_grader(allow_weak_isolation: bool) -> CodeGrader:
    """One for all families of this process: its workers are as many as the cores. It starts none before it is used."""
    return CodeGrader(allow_weak_isolation=allow_weak_isolation)


@functools.lru_cache(maxsize=1)
def _threads(pid: int, workers: int) -> ThreadPoolExecutor:
    """The threads that wait for programs; a forked child has none of its parent's."""
    return ThreadPoolExecutor(workers, thread_name_prefix="aipo-programs")


def _instant(option: str, date: str | None) -> datetime.datetime | None:
    if date is None:
        return None
    try:
        return datetime.datetime.fromisoformat(date).replace(tzinfo=None)
    except (TypeError, ValueError):
        raise ConfigurationError(f"{option} is an ISO date such as '2024-08-01', got {date!r}.") from None


def _in_window(
    rows: list[IndexedRow], start: datetime.datetime | None, end: datetime.datetime | None
) -> list[IndexedRow]:
    """The rows of a window, both ends of which belong to it (LiveCodeBench, `load_code_generation_dataset`)."""
    chosen = [row for row in rows if (start is None or start <= row.date) and (end is None or row.date <= end)]
    if not chosen:
        dates = sorted(row.date for row in rows)
        raise ConfigurationError(
            f"no problem is of a contest from {start or 'the first'} to {end or 'the last'}: the {len(rows)} problems are from "
            f"{dates[0].date()} to {dates[-1].date()}. Change start_date or end_date, or take another version."
        )
    return chosen


def _unique_ids(rows: list[IndexedRow]) -> list[str]:
    """The ids of tasks; a problem that the files hold twice has a number behind the second."""
    seen: collections.Counter[str] = collections.Counter()
    ids = []
    for row in rows:
        seen[row.question_id] += 1
        count = seen[row.question_id]
        ids.append(f"livecodebench/{row.question_id}" + (f"#{count}" if count > 1 else ""))
    return ids
