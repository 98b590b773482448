"""`gpqa-diamond`: 198 graduate-level questions of physics, chemistry and biology with four choices each.

Its authors ask that no example is ever shown in plain text online, so the family is confidential: traces, renderings and
messages hold no text of it, unless `keep_texts` says otherwise.
"""

from __future__ import annotations

import hashlib
import os
import re

from aipo_env.errors import ConfigurationError
from aipo_env.grading import CHOICE, Grade, grade_answer, shuffle_choices
from aipo_env.tasks.base import Task, check_index
from aipo_env.tasks.hub import DataSetTasks, HubSource, Row

_CHOICES = ("Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")
_LETTERS = "ABCD"
_RECORD_ID = re.compile(r"rec[A-Za-z0-9]{14}")
_FACTS = {"domain": "High-level domain", "subdomain": "Subdomain"}
SOURCE = HubSource(
    "gpqa-diamond",
    "Idavidrein/gpqa",
    "gpqa_diamond",
    ("test",),
    # A choice may be a number, or a word such as "None" that a reader of tables takes for a missing value.
    {"Question": "text", **dict.fromkeys(_CHOICES, "value")},
    hub_splits={"test": "train"},
    reading={"keep_default_na": False},
    suffixes=(".csv", ".jsonl"),
    gated=True,
    confidential=True,
)


class GpqaDiamondTasks(DataSetTasks):
    """GPQA-Diamond; task i is row i, the gold answer a letter.

    The order of a row's choices is a function of `choice_seed` and its question alone: neither the other rows, nor their
    order, nor any global state matters.

    Args:
        split: "test" is the only one; the hub's name of it is taken too.
        data: a local .csv or .jsonl file, or folder; see `aipo_env.tasks.hub.load_rows`.
        revision: of the hub's repository.
        choice_seed: another seed is another order of the choices.
        keep_texts: lets traces and renderings hold the texts. Do not publish these.
    """

    name = "gpqa-diamond"

    def __init__(
        self,
        split: str = "test",
        *,
        data: str | os.PathLike[str] | None = None,
        revision: str | None = None,
        choice_seed: int = 0,
        keep_texts: bool = False,
    ) -> None:
        if isinstance(choice_seed, bool) or not isinstance(choice_seed, int) or choice_seed < 0:
            raise ConfigurationError(f"choice_seed is a whole number of at least 0, got {choice_seed!r}.")
        if keep_texts not in (True, False):
            raise ConfigurationError(f"keep_texts is True or False (1 or 0), got {keep_texts!r}.")
        super().__init__(SOURCE, split, data, revision)
        self.choice_seed = choice_seed
        self.confidential = not keep_texts
        """Whether the texts must not be written down."""
        ids = [str(row.get("Record ID", "")) for row in self._rows]
        # The column of another file may hold anything, and ids are written everywhere.
        named = len(set(ids)) == len(ids) and all(map(_RECORD_ID.fullmatch, ids))
        self._ids = ids if named else [str(index) for index in range(len(ids))]

    def task(self, index: int) -> Task:
        """The task of this row."""
        index = check_index(index, self.num_tasks, self.name)
        row = self._rows[index]
        question = str(row["Question"]).strip()
        key = int.from_bytes(hashlib.blake2b(question.encode(), digest_size=8).digest(), "big")
        choices, order = shuffle_choices([str(row[name]).strip() for name in _CHOICES], self.choice_seed, key)
        lines = "\n".join(f"{letter}) {choice}" for letter, choice in zip(_LETTERS, choices, strict=True))
        return Task(
            id=f"{self.name}/{self._ids[index]}",
            problem=f"{question}\n\n{lines}\n\nAnswer with the letter of the right choice.",
            # By its place: a wrong choice may read the same.
            gold=_LETTERS[order.index(0)],
            metadata=_metadata(row),
            confidential=self.confidential,
        )

    def grade(self, task: Task, answer: str) -> Grade:
        """Compares letters."""
        return grade_answer(task.gold, answer, CHOICE)

    async def grade_async(self, task: Task, answer: str) -> Grade:
        """As `grade`, which blocks nobody."""
        return self.grade(task, answer)

    def provenance(self) -> dict[str, object]:
        """What the data are, and the seed of the choices' order."""
        return {**super().provenance(), "choice_seed": self.choice_seed}


def _metadata(row: Row) -> dict[str, object]:
    """The field of science, which tells nothing of the question."""
    return {key: row[name] for key, name in _FACTS.items() if isinstance(row.get(name), str) and row[name]}
