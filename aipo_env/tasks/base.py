"""What a task family is."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import numpy as np

from aipo_env.errors import TaskIndexError
from aipo_env.grading import Grade


@dataclasses.dataclass(frozen=True, slots=True)
class Task:
    """One problem with its gold answer."""

    id: str
    """Unique in its family, stable across runs: "test/algebra/2584.json", "rulebook/l2/test/7/42"."""
    problem: str = dataclasses.field(repr=False)
    """Not part of `repr`, which ends up in logs; neither is `gold`."""
    gold: str = dataclasses.field(repr=False)
    """Known to the grader alone: no observation, info, consult request or trace holds it. Empty where a grader needs more
    than a text (the tests of a program)."""
    metadata: dict[str, object] = dataclasses.field(default_factory=dict)
    """JSON-serialisable facts that may be shown (level, subject)."""
    confidential: bool = False
    """Whether its texts must not be written down: traces and renderings then hold lengths in their place."""
    alternatives: tuple[str, ...] = dataclasses.field(default=(), repr=False)
    """Other answers that count, kept as `gold` is."""
    hints: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict, repr=False)
    """What helpers of a name may say, in order. Given to nobody but a helper that serves hints (`uses_hints`)."""


@runtime_checkable
class TaskSet(Protocol):
    """A source of tasks, finite or infinite.

    A family may have more: `split`, "train" or "test", which says what its tasks are for (`is_for_evaluation`);
    `async grade_async(task, answer)`, grading that blocks nobody; `answers`, "program" where an answer is one;
    `confidential`, whether its texts must not be written down; `provenance()`, what its data are; `row_keys(index)`, by what
    other harnesses know a task's row; `default_agents`, the helpers that make sense for it.
    """

    @property
    def name(self) -> str:
        """The family's name, as it stands in environment ids; an attribute will do, as with the next one."""
        ...

    @property
    def num_tasks(self) -> int | None:
        """How many there are; None where tasks are generated without end."""
        ...

    def task(self, index: int) -> Task:
        """The task with this index: a pure function of the family's options and the index.

        Raises:
            IndexError: when a finite family has no such task.
        """
        ...

    def sample_index(self, rng: np.random.Generator) -> int:
        """Draws the index of a task."""
        ...

    def grade(self, task: Task, answer: str) -> Grade:
        """Grades an answer that the policy wrote (the contents of its answer tag)."""
        ...


@runtime_checkable
class AsyncGrading(Protocol):
    """What a family may have beside `grade`: the same, without blocking. `aipo_env.grading.grade_async` is a help."""

    async def grade_async(self, task: Task, answer: str) -> Grade:
        """Grades an answer that the policy wrote."""
        ...


_FOR_EVALUATION = frozenset("test testing validation valid val dev eval evaluation heldout".split())  # noqa: SIM905


def evaluates(split: str) -> bool:
    """Whether a name of a split says that it is for evaluation, wholly or in part, as "train+test" and "Test[:50]" do."""
    return not _FOR_EVALUATION.isdisjoint(re.findall("[a-z]+", split.casefold()))


def is_for_evaluation(tasks: TaskSet) -> bool:
    """Whether the tasks are of a split that no policy should be trained on; a family without splits does not say so."""
    return evaluates(str(getattr(tasks, "split", "")))


def provenance_of(tasks: TaskSet) -> dict[str, object]:
    """Where tasks come from: repository, revision, hashes, what was left out; of generated ones the name alone."""
    says = getattr(tasks, "provenance", None)
    return {"source": "generated", "family": tasks.name} if says is None else dict(says())


def is_confidential(tasks: TaskSet) -> bool:
    """Whether the texts of a family must not be written down."""
    return bool(getattr(tasks, "confidential", False))


def check_index(index: int, num_tasks: int | None, name: str) -> int:
    """Validates a task index; returns it as an int, or raises TaskIndexError with the valid range."""
    if isinstance(index, bool) or not isinstance(index, int | np.integer):
        raise TaskIndexError(f"{name}: a task index is an integer, got {index!r}.")
    if index < 0 or (num_tasks is not None and index >= num_tasks):
        valid = "0 or more" if num_tasks is None else f"0 to {num_tasks - 1}"
        raise TaskIndexError(f"{name}: there is no task {index}; valid indices are {valid}.")
    return int(index)
