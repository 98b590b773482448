"""`mix`: several families as one, each with its share of the tasks that are drawn."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, cast

import numpy as np

from aipo_env.errors import ConfigurationError
from aipo_env.grading import Grade
from aipo_env.registry import make_tasks
from aipo_env.tasks.base import Task, TaskSet, check_index, is_confidential, is_for_evaluation, provenance_of


class MixTasks:
    """A mixture; a weight is a share of what is drawn, whatever the sizes: {"math": 3, "gsm8k": 1} draws 3 of 4 from math.

    Task i is one task for good: of finite parts one behind the other; endless parts follow, taking turns. Ids are
    "<part>/<id>", `metadata["part"]` names the part.

    Args:
        split: of the parts that are ids, "train" or "test".
        parts: environment id, or a name of yours, to a weight, or to a pair of a weight and a family. On a command line
            "math:3,gsm8k:1".
        options: options of all parts that are ids and have them (data=, level=, ...).
    """

    name = "mix"

    def __init__(
        self,
        split: str = "train",
        *,
        parts: str | Mapping[str, float | tuple[float, TaskSet]] = "rulebook:1",
        options: Mapping[str, Any] | None = None,
    ) -> None:
        given = _read(parts) if isinstance(parts, str) else parts
        pairs = {name: part if isinstance(part, tuple) else (part, None) for name, part in given.items()}
        if not pairs or not all(np.isfinite(weight) and weight > 0 for weight, _ in pairs.values()):
            raise ConfigurationError(
                f"parts has a positive weight for each part, as {{'math': 3, 'gsm8k': 1}}; got {parts!r}."
            )
        self.split = split
        self.parts: dict[str, TaskSet] = {
            name: family or make_tasks(name, split=split, **(options or {})) for name, (_, family) in pairs.items()
        }
        kinds = {getattr(part, "answers", "value") for part in self.parts.values()}
        if kinds != {"value"}:
            raise ConfigurationError(
                "parts whose answers are programs cannot be mixed: their answers are read otherwise."
            )
        if not is_for_evaluation(self) and (
            wrong := [name for name, part in self.parts.items() if is_for_evaluation(part)]
        ):
            raise ConfigurationError(
                f"{', '.join(wrong)}: for evaluation, and the mixture is for training (split={split!r}). Take training sets."
            )
        weights = np.array([weight for weight, _ in pairs.values()], dtype=float)
        self.weights = dict(zip(self.parts, (weights / weights.sum()).tolist(), strict=True))
        self._finite = {name: part.num_tasks for name, part in self.parts.items() if part.num_tasks is not None}
        self._endless = [name for name in self.parts if name not in self._finite]
        self.num_tasks = None if self._endless else sum(self._finite.values())
        self.confidential = any(map(is_confidential, self.parts.values()))

    def task(self, index: int) -> Task:
        """The task with this index."""
        name, inner = self._place(check_index(index, self.num_tasks, self.name))
        task = self.parts[name].task(inner)
        return dataclasses.replace(
            task, id=f"{name}/{task.id}", metadata=task.metadata | {"part": name}, confidential=self.confidential
        )

    def sample_index(self, rng: np.random.Generator) -> int:
        """Draws a part by its weight, then as the part draws."""
        names = list(self.parts)
        name = names[int(rng.choice(len(names), p=list(self.weights.values())))]
        inner = self.parts[name].sample_index(rng)
        if name in self._finite:
            return sum(size for other, size in self._before(name)) + inner
        return sum(self._finite.values()) + inner * len(self._endless) + self._endless.index(name)

    def grade(self, task: Task, answer: str) -> Grade:
        """As the task's part grades."""
        return self.parts[str(task.metadata["part"])].grade(_own(task), answer)

    async def grade_async(self, task: Task, answer: str) -> Grade:
        """As `grade`; without blocking where the part can."""
        graded = getattr(self.parts[str(task.metadata["part"])], "grade_async", None)
        return self.grade(task, answer) if graded is None else cast("Grade", await graded(_own(task), answer))

    def provenance(self) -> dict[str, object]:
        """Weight and provenance of each part."""
        known: dict[str, Any] = {name: provenance_of(part) for name, part in self.parts.items()}
        return {"source": "mix", "parts": {name: {"weight": self.weights[name], **known[name]} for name in known}}

    def _before(self, name: str) -> list[tuple[str, int]]:
        return list(self._finite.items())[: list(self._finite).index(name)]

    def _place(self, index: int) -> tuple[str, int]:
        for name, size in self._finite.items():
            if index < size:
                return name, index
            index -= size
        return self._endless[index % len(self._endless)], index // len(self._endless)


def _own(task: Task) -> Task:
    """A task as its part knows it."""
    return dataclasses.replace(task, id=task.id.removeprefix(f"{task.metadata['part']}/"))


def _read(text: str) -> dict[str, float]:
    try:
        return {name: float(weight) for name, weight in (part.rsplit(":", 1) for part in text.split(","))}
    except ValueError:
        raise ConfigurationError(f"parts is written as 'math:3,gsm8k:1', got {text!r}.") from None
