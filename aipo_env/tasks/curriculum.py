"""Which tasks a training run draws, by what the policy can do of them alone and with help."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from aipo_env.errors import ConfigurationError
from aipo_env.tasks.base import TaskSet
from aipo_env.tasks.selection import read_outcomes

CurriculumName = Literal["uniform", "hard", "frontier"]

MEMORY = 0.5
"""What earlier outcomes of a task weigh when it is played again: the policy has changed since."""
BUFFER_SHARE = 0.5
"""Of the prompts of a batch, those that "frontier" takes from its buffer."""
MAX_TRIES, MAX_KNOWN = 256, 200_000
"""Tasks that "hard" looks at for one prompt; tasks whose outcomes are kept."""


class Curriculum:
    """Draws tasks, and learns from their outcomes what to draw.

    - "uniform" draws as the family does.
    - "hard" draws those whose solo pass rate is at most `max_solo_rate`. A task that was never played counts as hard; where no
      hard one is found, the hardest that was looked at is drawn.
    - "frontier" keeps a buffer: tasks whose solo pass rate is at most `max_solo_rate`, and whose pass rate with help is above
      it. Half of a batch comes from there, each task once; the rest, as the family draws, finds further ones.

    Everything is a function of the generator and of the state.

    Args:
        name: which of them.
        tasks: the family.
        max_solo_rate: up to which solo pass rate a task is hard.
        rates: results.json of an `aipo eval` of these tasks: what is known before the first step.
    """

    def __init__(
        self,
        name: CurriculumName,
        tasks: TaskSet,
        *,
        max_solo_rate: float = 0.2,
        rates: str | os.PathLike[str] | None = None,
    ) -> None:
        self.name, self.tasks, self.max_solo_rate = name, tasks, max_solo_rate
        self._known: dict[int, list[float]] = {}
        """Task to its correct and its finished solo rollouts, and assisted ones, earlier ones weighing less."""
        if rates is not None:
            measured = read_outcomes(rates)
            places = [index for index, _ in measured.values()] if tasks.num_tasks is None else range(tasks.num_tasks)
            ids = {index: tasks.task(index).id for index in places}
            counts = {index: measured[task_id][1] for index, task_id in ids.items() if task_id in measured}
            modes = ("solo", "assisted")
            self._known = {i: [float(n) for mode in modes for n in c.get(mode, (0, 0))] for i, c in counts.items()}
            if not self._known:
                raise ConfigurationError(
                    f"{rates} measured none of these tasks of {tasks.name}. Evaluate the split that is trained on, with the "
                    "same options (aipo eval --env-options split train)."
                )

    def draw(self, rng: np.random.Generator, count: int) -> Iterator[int]:
        """The tasks of a batch, one by one: what else is drawn from `rng` between them does no harm."""
        buffer = self.buffer() if self.name == "frontier" else []
        size = min(len(buffer), round(BUFFER_SHARE * count))
        yield from (buffer[place] for place in (rng.choice(len(buffer), size, replace=False).tolist() if size else ()))
        for _ in range(count - size):
            yield self._hard(rng) if self.name == "hard" else self.tasks.sample_index(rng)

    def observe(self, index: int, solo: Sequence[bool], assisted: Sequence[bool]) -> None:
        """Notes which rollouts of a task were correct; in a mode without rollouts, what is known stays."""
        counts = self._known.pop(index, [0.0] * 4)
        for place, outcomes in ((0, solo), (2, assisted)):
            if outcomes:
                counts[place] = MEMORY * counts[place] + sum(outcomes)
                counts[place + 1] = MEMORY * counts[place + 1] + len(outcomes)
        self._known[index] = counts
        if len(self._known) > MAX_KNOWN:
            del self._known[next(iter(self._known))]

    def solo_rate(self, index: int) -> float | None:
        """The share of correct solo rollouts of a task; None before the first."""
        correct, finished, _, _ = self._known.get(index, [0.0] * 4)
        return correct / finished if finished else None

    def buffer(self) -> list[int]:
        """The tasks that the policy fails alone and solves with help, those that were played last at the end."""
        bound = self.max_solo_rate
        known = self._known.items()
        return [i for i, (s, n, a, m) in known if n and m and s / n <= bound < a / m]

    def metrics(self) -> dict[str, float]:
        """How many tasks are known, hard, and in the buffer; nothing of "uniform"."""
        if self.name == "uniform":
            return {}
        rates = [self.solo_rate(index) for index in self._known]
        hard = sum(rate is not None and rate <= self.max_solo_rate for rate in rates)
        counted = {"known": len(rates), "hard": hard, "frontier": len(self.buffer())}
        return {f"curriculum/{name}": float(count) for name, count in counted.items()}

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds: plain values."""
        return {"known": [[index, *counts] for index, counts in self._known.items()]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self._known = {int(index): list(counts) for index, *counts in state["known"]}

    def _hard(self, rng: np.random.Generator) -> int:
        best: tuple[float, int] | None = None
        for _ in range(MAX_TRIES):
            index = self.tasks.sample_index(rng)
            rate = self.solo_rate(index)
            if rate is None or rate <= self.max_solo_rate:
                return index
            best = min(best or (rate, index), (rate, index))
        assert best is not None
        return best[1]
