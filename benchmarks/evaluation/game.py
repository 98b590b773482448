"""The environment of an evaluation: it counts what helpers take, and a grader that fails fails one episode, not the run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aipo_env.episode import Episode
from aipo_env.errors import GradingError
from aipo_env.game import ConsultGame
from aipo_env.grading import Grade, Verdict
from aipo_env.gym_env import ConsultEnv
from aipo_env.protocol import Reply
from aipo_env.tasks.base import AsyncGrading, Task, TaskSet, is_confidential

EpisodeKey = tuple[str, int]
"""An episode's task id and seed."""


class MeteredGame(ConsultGame):
    """A game that keeps each reply of a helper until the episode's facts are written down.

    Args:
        game: the game that is played.
    """

    def __init__(self, game: ConsultGame) -> None:
        self.grading = FallibleGrading.around(game.tasks)
        super().__init__(
            self.grading,
            game.agents,
            game.config,
            prompt=game.prompt,
            solo_prompt=game.solo_prompt,
            consult_timeout=game.consult_timeout,
            reward_fn=game.reward_fn,
            dialect=game.dialect,
            env_id=game.env_id,
            owned=game.owned,
        )
        self.finds_leaks = True
        self._replies: dict[EpisodeKey, list[tuple[str, Reply]]] = {}

    def tell(self, episode: Episode, replies: Sequence[Reply]) -> None:
        """Hands the replies on, and keeps them."""
        kept = self._replies.setdefault((episode.task.id, episode.seed), [])
        kept.extend(zip(episode.requests, replies, strict=True))
        super().tell(episode, replies)

    def take_replies(self, episode: EpisodeKey) -> list[tuple[str, Reply]]:
        """The replies of an episode in their order, with the helpers' names; forgets them."""
        return self._replies.pop(episode, [])


class FallibleGrading:
    """A task family whose grader may fail: the grade is then HARNESS_ERROR, which is no verdict on the answer.

    Args:
        tasks: the family.
    """

    def __init__(self, tasks: TaskSet) -> None:
        self.tasks = tasks
        self.name, self.num_tasks, self.confidential = tasks.name, tasks.num_tasks, is_confidential(tasks)
        self.failures: dict[str, str] = {}
        """Task id to what the grader last said."""

    @classmethod
    def around(cls, tasks: TaskSet) -> FallibleGrading:
        """Wraps a family; one that grades without blocking goes on to do so."""
        return _AsyncFallibleGrading(tasks) if isinstance(tasks, AsyncGrading) else cls(tasks)

    def task(self, index: int) -> Task:
        """The family's own."""
        return self.tasks.task(index)

    def sample_index(self, rng: np.random.Generator) -> int:
        """The family's own."""
        return self.tasks.sample_index(rng)

    def grade(self, task: Task, answer: str) -> Grade:
        """The family's own grade, or HARNESS_ERROR."""
        try:
            return self.tasks.grade(task, answer)
        except GradingError as error:
            return self._failed(task, error)

    def _failed(self, task: Task, error: GradingError) -> Grade:
        self.failures[task.id] = f"GradingError: {error}"
        return Grade(False, Verdict.HARNESS_ERROR, "grader", None)


class _AsyncFallibleGrading(FallibleGrading):
    async def grade_async(self, task: Task, answer: str) -> Grade:
        assert isinstance(self.tasks, AsyncGrading)
        try:
            return await self.tasks.grade_async(task, answer)
        except GradingError as error:
            return self._failed(task, error)


def metered(env: ConsultEnv) -> ConsultEnv:
    """The same environment with a `MeteredGame`; it keeps its spec, by which traces can be played again."""
    made = ConsultEnv(MeteredGame(env.game))
    made.spec = env.spec
    return made
