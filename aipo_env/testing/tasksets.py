"""The check of a task family."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import numpy as np

from aipo_env.grading import Grade, Verdict
from aipo_env.tasks.base import Task, TaskSet, is_confidential
from aipo_env.testing.report import Report, shown

HOSTILE_ANSWERS = (
    "",
    " \n",
    "certainly no answer 0xdeadbeef",
    "x" * 20_000,
    "(" * 3_000 + ")" * 3_000,
    "9**9**9**9",
    "1e999999999",
    "nan",
    "\x00",
    "\ud800",
    "\\frac{1}{0}",
    "\\boxed{\\boxed{}}",
    "__import__('os').getcwd()",
    "[" * 500,
    "🙂‮",
)
_MEMBERS = ("name", "num_tasks", "task", "sample_index", "grade")


def check_taskset(
    tasks: TaskSet | Callable[[], TaskSet], *, num_samples: int = 20, max_seconds: float = 10.0
) -> list[str]:
    """Checks a task family: that its tasks can be repeated, and that its grader cannot be broken.

    Args:
        tasks: a family, or a class or function without arguments that makes one; then two of them are compared.
        num_samples: how many tasks are looked at.
        max_seconds: that grading one answer may take.

    Returns:
        Remarks on what is allowed but rarely meant, such as a gold answer that stands in its own problem.

    Raises:
        ConformanceError: listing what is wrong.
    """
    report = Report(f"the task family {getattr(tasks, '__name__', type(tasks).__name__)}")
    made = _make(tasks, report)
    if made is None:
        return report.finish()
    family, other = made
    report.expect(
        isinstance(family.name, str) and bool(family.name),
        f"name is the family's name, a text; got {shown(family.name)}.",
    )
    count = family.num_tasks
    if not report.expect(
        count is None or (isinstance(count, int) and not isinstance(count, bool) and count > 0),
        f"num_tasks is a positive integer, or None for a family without end; got {shown(count)}.",
    ):
        return report.finish()
    with report.random_state_untouched("making tasks and grading", reseed=1):
        indices = _indices(count, num_samples)
        found = _check_tasks(family, other, indices, report)
        for task in found:
            _check_gold(family, task, report)
        for task in found[:2]:
            _check_hostile_answers(family, task, max_seconds, report)
        _check_range(family, count, report)
        _check_sampling(family, count, report)
    return report.finish()


def _make(tasks: TaskSet | Callable[[], TaskSet], report: Report) -> tuple[TaskSet, TaskSet | None] | None:
    two: list[object] = [tasks, None]
    if isinstance(tasks, type) or (callable(tasks) and not isinstance(tasks, TaskSet)):
        try:
            two = [tasks(), tasks()]
        except Exception as error:
            report.expect(
                False,
                f"making it without arguments raised {type(error).__name__}: {error}. Give `split` and options defaults, or "
                "pass a family that is made: check_taskset(lambda: Family(...)).",
            )
            return None
    family, other = two
    if not isinstance(family, TaskSet):
        missing = [name for name in _MEMBERS if not hasattr(family, name)]
        report.expect(
            False, f"a task family has {', '.join(_MEMBERS)}; {type(family).__name__} lacks {', '.join(missing)}."
        )
        return None
    return family, other if isinstance(other, TaskSet) else None


def _indices(count: int | None, num_samples: int) -> list[int]:
    if count is None:
        return sorted({*range(num_samples - 1), 2**31 - 1})
    return sorted({int(i) for i in np.linspace(0, count - 1, num_samples)})


def _check_tasks(family: TaskSet, other: TaskSet | None, indices: list[int], report: Report) -> list[Task]:
    found: list[Task] = []
    for index in indices:
        task: object = _task(family, index, report)
        if task is None:
            continue
        if not isinstance(task, Task):
            finding = f"task({index}) must be an aipo_env.tasks.base.Task, got {shown(task)}."
            report.expect(False, finding, rule="type")
            continue
        texts = {field: getattr(task, field) for field in ("id", "problem", "gold")}
        for field, value in texts.items():
            finding = f"task({index}).{field} must be a text, got {shown(value)}."
            report.expect(isinstance(value, str), finding, rule=field)
        if not all(isinstance(value, str) for value in texts.values()):
            continue
        found.append(task)
        finding = f"task({index}) has an empty id or problem."
        report.expect(bool(task.id) and bool(task.problem), finding, rule="empty")
        _check_metadata(task, index, report)
        report.expect(
            task.confidential == is_confidential(family),
            f"the family says confidential={is_confidential(family)} and task({index}) says {task.confidential}. Pass the "
            "family's own to Task(confidential=...), so that texts are left out wherever the task goes.",
            rule="confidential",
        )
        # A letter or a digit stands in nearly every problem.
        if len(task.gold) > 1 and task.gold in task.problem:
            report.remark(f"the gold answer {shown(task.gold)} of task({index}) stands in its problem.")
    ids = [task.id for task in found]
    twice = sorted({i for i in ids if ids.count(i) > 1})
    report.expect(
        not twice,
        f"ids must be unique in the family; {shown(twice[0] if twice else '')} names several tasks. Put the index into it.",
    )
    for index, task in reversed(list(zip(indices, found, strict=False))):
        for again, whose in ((family, "a second call"), (other, "another instance")):
            if again is not None and len(found) == len(indices):
                new = _task(again, index, report)
                report.expect(
                    new is None or new == task,
                    f"task({index}) must be a function of the options and the index alone; {whose} gave "
                    f"{_difference(task, new)}. Derive its random numbers from the index.",
                    rule=f"pure, {whose}",
                )
    return found


def _difference(task: Task, other: Task | None) -> str:
    for field in ("id", "problem", "gold", "metadata", "confidential"):
        one, two = getattr(task, field), getattr(other, field, None)
        if one != two and field == "problem" and task.confidential:
            return "another problem"
        if one != two:
            return f"the {field} {shown(two)} instead of {shown(one)}"
    return "another task"


def _task(family: TaskSet, index: int, report: Report) -> Task | None:
    try:
        return family.task(index)
    except Exception as error:
        finding = f"task({index}) raised {type(error).__name__}: {error}; it is a valid index."
        report.expect(False, finding, rule="raises")
        return None


def _check_metadata(task: Task, index: int, report: Report) -> None:
    try:
        same = json.loads(json.dumps(task.metadata, allow_nan=False)) == task.metadata
    except (TypeError, ValueError) as error:
        finding = f"task({index}).metadata must be JSON-serialisable: {error}. Use numbers, texts and lists."
        report.expect(False, finding, rule="metadata")
        return
    report.expect(
        same,
        f"task({index}).metadata does not survive JSON: {shown(task.metadata)}. Use lists for tuples and texts for keys.",
        rule="metadata",
    )
    if task.gold and any(str(value) == task.gold for value in task.metadata.values()):
        report.remark(
            f"the metadata of task({index}) holds its gold answer {shown(task.gold)}, and metadata may be shown."
        )


def _check_gold(family: TaskSet, task: Task, report: Report) -> None:
    if not task.gold:
        report.remark(f"{task.id} has no gold answer; whether a right answer counts was not looked at.")
        return
    grade = _grade(family, task, task.gold, report)
    report.expect(
        grade is None or grade.correct,
        f"the gold answer {shown(task.gold)} of {task.id} must be graded correct; it was "
        f"{grade.verdict.value if grade else ''} by the rule {grade.rule if grade else ''!r}. Write the gold answer as a "
        "policy would, or widen grade().",
        rule="gold",
    )


def _check_hostile_answers(family: TaskSet, task: Task, max_seconds: float, report: Report) -> None:
    for answer in HOSTILE_ANSWERS:
        start = time.monotonic()
        grade = _grade(family, task, answer, report)
        seconds = time.monotonic() - start
        report.expect(
            seconds <= max_seconds,
            f"grading {shown(answer)} took {seconds:.1f} s; at most {max_seconds:g} s is expected. Refuse what is too long "
            "or too large before you read it.",
            rule="slow",
        )
        if grade is None:
            continue
        report.expect(
            not grade.correct or answer.strip() == task.gold.strip(),
            f"the answer {shown(answer)} to {task.id} was graded correct; the gold answer is {shown(task.gold)}. Compare "
            "the whole answer.",
            rule="hostile",
        )
        again = _grade(family, task, answer, report)
        report.expect(
            again is None or again.correct == grade.correct,
            f"grading {shown(answer)} twice gave {grade.correct}, then {again.correct if again else None}. grade() must be a "
            "function of the task and the answer.",
            rule="twice",
        )


def _grade(family: TaskSet, task: Task, answer: str, report: Report) -> Grade | None:
    try:
        grade: object = family.grade(task, answer)
    except Exception as error:
        report.expect(
            False,
            f"grade(task, {shown(answer)}) raised {type(error).__name__}: {str(error)[:200]}. A policy may write anything: "
            "what cannot be read is Grade(False, Verdict.UNPARSABLE, ...).",
            rule="grade raises",
        )
        return None
    if not isinstance(grade, Grade):
        finding = f"grade must return an aipo_env.grading.Grade, got {shown(grade)}."
        report.expect(False, finding, rule="grade type")
        return None
    report.expect(
        grade.correct == (grade.verdict is Verdict.CORRECT),
        f"Grade.correct is True exactly when the verdict is CORRECT; got {grade.correct} with {grade.verdict!r}.",
        rule="verdict",
    )
    return grade


def _check_range(family: TaskSet, count: int | None, report: Report) -> None:
    for index in (-1,) if count is None else (-1, count, 2**40):
        try:
            family.task(index)
        except IndexError:
            continue
        except Exception as error:
            came = f"it raised {type(error).__name__}"
        else:
            came = "it returned a task"
        report.expect(
            False,
            f"task({index}) must raise IndexError, for there is no such task; {came}. "
            "aipo_env.tasks.base.check_index(index, num_tasks, name) does it.",
            rule="range",
        )


def _check_sampling(family: TaskSet, count: int | None, report: Report) -> None:
    def draw(seed: int) -> list[object]:
        rng = np.random.default_rng(seed)
        return [family.sample_index(rng) for _ in range(20)]

    try:
        one, two = draw(1), draw(1)
    except Exception as error:
        report.expect(False, f"sample_index(rng) raised {type(error).__name__}: {error}.")
        return
    report.expect(
        one == two,
        f"sample_index must draw from `rng` alone; equal generators gave {shown(one[:4])} and {shown(two[:4])}.",
    )
    bad = [
        i for i in one if not isinstance(i, int) or isinstance(i, bool) or i < 0 or (count is not None and i >= count)
    ]
    report.expect(
        not bad,
        f"sample_index returns the index of a task, an int from 0 to {'any' if count is None else count - 1}; got "
        f"{shown(bad[0] if bad else None)}.",
    )
    report.expect(
        count == 1 or len(set(map(str, one + draw(2)))) > 1,
        f"sample_index gave {shown(one[0])} forty times; draw from all tasks.",
    )
