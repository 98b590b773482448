"""Grading that does not hold up the event loop."""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor
from typing import Protocol, runtime_checkable

import numpy as np

from aipo_env.episode import Episode
from aipo_env.grading import Grade
from aipo_env.protocol import Action, Answer
from aipo_env.tasks.base import Task, TaskSet, is_confidential


@runtime_checkable
class AsyncGrading(Protocol):
    """What a task family may have beside `grade`: the same, without blocking. `aipo_env.grading.grade_async` is a help."""

    async def grade_async(self, task: Task, answer: str) -> Grade:
        """Grades an answer that the policy wrote."""
        ...


class GradedAhead:
    """A task family whose answers are graded before the episode asks for the grade, without blocking the event loop.

    `Episode.act` grades where it stands. Most answers are decided in microseconds, but a hard one may take half
    a second. A family with `grade_async` knows which is which. Of any other
    it cannot be told, so each of its answers is graded in a thread: one hop for an episode, none for a consult.

    Args:
        tasks: the family.
        executor: the threads; None for those of the event loop.
    """

    def __init__(self, tasks: TaskSet, executor: Executor | None = None) -> None:
        self._tasks = tasks
        self._async = tasks if isinstance(tasks, AsyncGrading) else None
        self._executor = executor
        self._ready: tuple[Task, str, Grade] | None = None
        self.name, self.num_tasks, self.confidential = tasks.name, tasks.num_tasks, is_confidential(tasks)

    def task(self, index: int) -> Task:
        """The family's own."""
        return self._tasks.task(index)

    def sample_index(self, rng: np.random.Generator) -> int:
        """The family's own."""
        return self._tasks.sample_index(rng)

    def grade(self, task: Task, answer: str) -> Grade:
        """The grade that is ready, else the family's own."""
        if self._ready is not None and self._ready[0] is task and self._ready[1] == answer:
            return self._ready[2]
        return self._tasks.grade(task, answer)

    async def act(self, episode: Episode, action: Action) -> None:
        """`episode.act(action)` without grading on the event loop."""
        understood = episode.understand(action)
        if not isinstance(understood, Answer):
            episode.act(action)
            return
        answer = understood.text
        if self._async is not None:
            grade = await self._async.grade_async(episode.task, answer)
        else:
            loop = asyncio.get_running_loop()
            # The thread gets nothing that changes: the episode may be given up while its answer is being graded.
            grade = await loop.run_in_executor(self._executor, self._tasks.grade, episode.task, answer)
        self._ready = (episode.task, answer, grade)
        try:
            episode.act(action)
        finally:
            self._ready = None
