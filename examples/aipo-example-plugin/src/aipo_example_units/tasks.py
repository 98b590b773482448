"""The task family: `How many yard are 3 furlong?`."""

from __future__ import annotations

import numpy as np

from aipo_env.errors import ConfigurationError, unknown_id
from aipo_env.grading import Grade, Verdict
from aipo_env.tasks.base import Task, check_index
from aipo_example_units.factors import KINDS, convert

PAIRS = [
    (kind, unit, target)
    for kind, worth in KINDS.items()
    for unit in worth
    for target in worth
    if worth[unit] > worth[target] and worth[unit] % worth[target] == 0
]
"""Every kind with a unit and a smaller one that divides it."""


class UnitTasks:
    """An endless family; task i is a function of (seed, split, i) alone.

    Args:
        split: "train" asks for even amounts, "test" for odd ones, so that no problem is in both.
        seed: another seed is another sequence of problems.
        largest: the amounts go up to this.
    """

    name = "units"
    num_tasks = None

    def __init__(self, split: str = "train", *, seed: int = 0, largest: int = 20) -> None:
        if split not in ("train", "test"):
            raise unknown_id("units split", split, ["train", "test"])
        if largest < 2:
            raise ConfigurationError(f"largest is the largest amount, 2 or more; got {largest!r}.")
        self.split, self.seed, self.largest = split, seed, largest

    def task(self, index: int) -> Task:
        """The task with this index."""
        index = check_index(index, None, self.name)
        odd = self.split == "test"
        rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(odd, index)))
        kind, unit, target = PAIRS[int(rng.integers(len(PAIRS)))]
        amount = 2 * int(rng.integers(1, self.largest // 2 + 1)) - odd
        return Task(
            id=f"units/{self.split}/{self.seed}/{index}",
            problem=f"How many {target} are {amount} {unit}?",
            gold=str(convert(amount, unit, target)),
            metadata={"kind": kind},
        )

    def sample_index(self, rng: np.random.Generator) -> int:
        """Draws the index of a task."""
        return int(rng.integers(2**31))

    def grade(self, task: Task, answer: str) -> Grade:
        """Compares whole numbers; the unit may stand behind."""
        number, _, unit = answer.strip().partition(" ")
        if not number:
            return Grade(False, Verdict.NO_ANSWER, "units:number", None)
        correct = number.replace(",", "") == task.gold and unit in ("", task.problem.split()[2])
        return Grade(correct, Verdict.CORRECT if correct else Verdict.WRONG, "units:number", answer)
