"""`gsm8k`: grade-school word problems with a number as the answer."""

from __future__ import annotations

import os

from aipo_env.errors import DataFormatError
from aipo_env.grading import GSM8K, Grade, grade_answer, grade_async
from aipo_env.tasks.base import Task, check_index
from aipo_env.tasks.hub import DataSetTasks, HubSource

SOURCE = HubSource("gsm8k", "openai/gsm8k", "main", ("train", "test"), ("question", "answer"))


class Gsm8kTasks(DataSetTasks):
    """GSM8K; task i is row i. The gold answer is what follows `####`.

    Args:
        split: "train" or "test".
        data: a local .jsonl file or folder; see `aipo_env.tasks.hub.load_rows`.
        revision: of the hub's repository.
    """

    name = "gsm8k"

    def __init__(
        self, split: str = "test", *, data: str | os.PathLike[str] | None = None, revision: str | None = None
    ) -> None:
        super().__init__(SOURCE, split, data, revision)
        for number, row in enumerate(self._rows, start=1):
            if "####" not in str(row["answer"]):
                raise DataFormatError(
                    f"gsm8k row {number}: expected '#### <number>' at the end of 'answer', found none."
                )

    def task(self, index: int) -> Task:
        """The task of this row."""
        row = self._rows[check_index(index, self.num_tasks, self.name)]
        gold = str(row["answer"]).rsplit("####", 1)[1].strip().replace(",", "")
        return Task(id=f"gsm8k/{self.split}/{index}", problem=str(row["question"]), gold=gold)

    def grade(self, task: Task, answer: str) -> Grade:
        """Compares numbers."""
        return grade_answer(task.gold, answer, GSM8K)

    async def grade_async(self, task: Task, answer: str) -> Grade:
        """As `grade`, without blocking the event loop."""
        return await grade_async(task.gold, answer, GSM8K)
