"""`livecodebench`: problems of programming contests, whose answers are programs that run against tests in a sandbox."""

from __future__ import annotations

import collections
import datetime
import os

import numpy as np

from aipo_env.errors import ConfigurationError, DataFormatError
from aipo_env.grading import Grade
from aipo_env.grading.code import CodeProblem, load_lcb_problem
from aipo_env.markup import AnswerForm
from aipo_env.tasks.base import Task, check_index
from aipo_env.tasks.lcb_files import SOURCE, IndexedRow, find_files
from aipo_env.tasks.programs import Programs, with_instructions


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
        self._programs = Programs(self._tests_of, allow_weak_isolation=bool(allow_weak_isolation))
        self.isolation = self._programs.isolation

    def task(self, index: int) -> Task:
        """The task of this row; its gold answer is empty, since the tests stay with the grader."""
        index = check_index(index, self.num_tasks, self.name)
        place = self._rows[index]
        row = place.read(tests=False)
        problem = with_instructions(str(row["question_content"]), str(row["starter_code"]))
        metadata: dict[str, object] = {
            "platform": place.platform,
            "difficulty": place.difficulty,
            "contest_date": place.contest_date,
        }
        if self.version is not None:
            metadata["release"] = self.version
        return Task(self._ids[index], problem, "", metadata)

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
        return self._programs.grade(task.id, answer)

    async def grade_async(self, task: Task, answer: str) -> Grade:
        """As `grade`, in a thread; as many programs run at once as this machine has cores."""
        return await self._programs.grade_async(task.id, answer)

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

    def _tests_of(self, task_id: str) -> CodeProblem:
        if task_id not in self._places:
            raise ConfigurationError(
                f"{task_id!r} is none of these {self.num_tasks} tasks: another version or window has it."
            )
        row = self._rows[self._places[task_id]]
        try:
            return load_lcb_problem(row.read(tests=True), time_limit_s=self.time_limit_s)
        except ValueError as error:  # what is wrong with the tests, or that there are none
            raise DataFormatError(f"{row.path}, line {row.line} ({row.question_id}): {error}") from error


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
