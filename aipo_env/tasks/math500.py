"""`math500`: the 500 competition problems of MATH-500, graded by mathematical equivalence."""

from __future__ import annotations

import os

from aipo_env.grading import MATH500, Grade, grade_answer, grade_async
from aipo_env.tasks.base import Task, check_index
from aipo_env.tasks.hub import DataSetTasks, HubSource

SOURCE = HubSource("math500", "HuggingFaceH4/MATH-500", None, ("test",), ("problem", "answer"))


class Math500Tasks(DataSetTasks):
    """MATH-500; task i is row i.

    Args:
        split: "test" is the only one.
        data: a local .jsonl file or folder; see `aipo_env.tasks.hub.load_rows`.
        revision: of the hub's repository.
    """

    name = "math500"

    def __init__(
        self, split: str = "test", *, data: str | os.PathLike[str] | None = None, revision: str | None = None
    ) -> None:
        super().__init__(SOURCE, split, data, revision)

    def task(self, index: int) -> Task:
        """The task of this row."""
        row = self._rows[check_index(index, self.num_tasks, self.name)]
        return Task(
            id=str(row.get("unique_id", f"math500/{index}")),
            problem=str(row["problem"]),
            gold=str(row["answer"]),
            metadata={key: row[key] for key in ("subject", "level") if key in row},
        )

    def grade(self, task: Task, answer: str) -> Grade:
        """Grades by mathematical equivalence."""
        return grade_answer(task.gold, answer, MATH500)

    async def grade_async(self, task: Task, answer: str) -> Grade:
        """As `grade`, without blocking the event loop."""
        return await grade_async(task.gold, answer, MATH500)
