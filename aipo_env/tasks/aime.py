"""`aime24`, `aime25`: the thirty problems of a year's American Invitational Mathematics Examination, answers 0 to 999."""

from __future__ import annotations

import os
from typing import ClassVar

from aipo_env.errors import DataFormatError
from aipo_env.grading import AIME, Grade, grade_answer, grade_async
from aipo_env.tasks.base import Task, check_index
from aipo_env.tasks.hub import DataSetTasks, HubSource, Row

# Copies of the data differ in the case of their columns, and in whether an answer is "025", 25 or 25.0.
_SPELLINGS = {"Problem": "problem", "Answer": "answer", "ID": "id", "Year": "year", "URL": "url"}
_NUMBERS = frozenset({"answer"})
SOURCE_2024 = HubSource(
    "aime24",
    "HuggingFaceH4/aime_2024",
    None,
    ("test",),
    ("problem", "answer"),
    hub_splits={"test": "train"},
    spellings=_SPELLINGS,
    numbers=_NUMBERS,
)
SOURCE_2025 = HubSource(
    "aime25", "math-ai/aime25", None, ("test",), ("problem", "answer"), spellings=_SPELLINGS, numbers=_NUMBERS
)


class AimeTasks(DataSetTasks):
    """One year of AIME; task i is row i.

    Args:
        split: "test" is the only one; the hub's name of it is taken too.
        data: a local .jsonl file or folder; see `aipo_env.tasks.hub.load_rows`.
        revision: of the hub's repository.
    """

    name: ClassVar[str]
    source: ClassVar[HubSource]
    year: ClassVar[int]
    """Of the examination, for rows that do not say it."""

    def __init__(
        self, split: str = "test", *, data: str | os.PathLike[str] | None = None, revision: str | None = None
    ) -> None:
        super().__init__(self.source, split, data, revision)
        self._golds = [_gold(row, f"{self.name} row {number}") for number, row in enumerate(self._rows, start=1)]
        ids = [str(row.get("id", index)) for index, row in enumerate(self._rows)]
        self._ids = ids if len(set(ids)) == len(ids) else [str(index) for index in range(len(ids))]

    def task(self, index: int) -> Task:
        """The task of this row."""
        index = check_index(index, self.num_tasks, self.name)
        row = self._rows[index]
        year = str(row.get("year", self.year))
        metadata: dict[str, object] = {"year": int(year) if year.isdecimal() else self.year}
        if isinstance(row.get("url"), str):
            metadata["url"] = row["url"]
        return Task(f"{self.name}/{self._ids[index]}", str(row["problem"]), self._golds[index], metadata)

    def grade(self, task: Task, answer: str) -> Grade:
        """Compares integers."""
        return grade_answer(task.gold, answer, AIME)

    async def grade_async(self, task: Task, answer: str) -> Grade:
        """As `grade`, without blocking the event loop."""
        return await grade_async(task.gold, answer, AIME)


class Aime24Tasks(AimeTasks):
    """AIME 2024, I and II."""

    name, source, year = "aime24", SOURCE_2024, 2024


class Aime25Tasks(AimeTasks):
    """AIME 2025, I and II."""

    name, source, year = "aime25", SOURCE_2025, 2025


def _gold(row: Row, where: str) -> str:
    """The answer of a row as plain digits: "025", 25 and 25.0 are "25"."""
    answer = row["answer"]
    text = str(answer).strip()
    whole, _, fraction = text.partition(".")
    if whole.isascii() and whole.isdecimal() and not fraction.strip("0") and int(whole) <= 999:
        return str(int(whole))
    raise DataFormatError(f"{where}: expected an integer from 0 to 999 as the answer, got {answer!r}.")
