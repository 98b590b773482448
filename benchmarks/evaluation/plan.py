"""One run of an evaluation: a suite, alone or with help, resolved to the last number."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from aipo_env.errors import ConfigurationError
from aipo_env.tasks.base import TaskSet
from benchmarks.evaluation.config import EvaluationConfig
from benchmarks.evaluation.suites import Suite


@dataclasses.dataclass(frozen=True)
class RunPlan:
    """What is played; sampling is a function of this and the policy alone."""

    suite: Suite
    assisted: bool
    tasks: tuple[int, ...]
    """Indices in the family, in the order in which they are played."""
    num_samples: int
    temperature: float
    top_p: float
    max_tokens: int
    """Tokens behind the prompt."""
    context: int | None
    """Tokens that the model takes, prompt included; None where that is left to the backend."""
    seed: int
    self_help: bool = False
    """Whether the policy, alone, writes the helpers' replies itself."""

    @property
    def mode(self) -> str:
        """How episodes are played: "assisted", "solo" or "self-help"."""
        return "assisted" if self.assisted else "self-help" if self.self_help else "solo"

    @property
    def name(self) -> str:
        """Names the run in files: "math500.solo"."""
        return f"{self.suite.name}.{self.mode}"

    @property
    def num_episodes(self) -> int:
        """Episodes of the whole run."""
        return len(self.tasks) * self.num_samples

    def episodes(self) -> Iterator[tuple[int, int, int]]:
        """Position in `tasks`, task index and sample of each episode.

        The samples of a task follow each other: they share its prompt.
        """
        for group, index in enumerate(self.tasks):
            for sample in range(self.num_samples):
                yield group, index, sample

    def sampling(self) -> dict[str, object]:
        """How episodes are sampled, as settings and results name it."""
        return {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_tokens": self.max_tokens,
            "context": self.context,
            "greedy": self.temperature == 0,
        }


def plan_run(
    config: EvaluationConfig, suite: Suite, tasks: TaskSet, *, assisted: bool, own_context: int | None
) -> RunPlan:
    """Resolves one run.

    Args:
        config: what was asked for.
        suite: one of its suites.
        tasks: the suite's family.
        assisted: whether helpers answer.
        own_context: tokens that the model takes by its own account; None where it does not say.

    Raises:
        ConfigurationError: for more context than the model has, or tasks that the family has not.
    """
    if config.context is not None and own_context is not None and config.context > own_context:
        raise ConfigurationError(
            f"--context {config.context} is more than the {own_context} tokens that {config.policy} takes. Lower it, or leave "
            "it out."
        )
    return RunPlan(
        suite=suite,
        assisted=assisted,
        tasks=_task_indices(config, suite, tasks),
        num_samples=config.samples_of(suite.name),
        temperature=config.temperature_of(suite.name),
        top_p=suite.top_p if config.top_p is None else config.top_p,
        max_tokens=config.max_tokens_of(suite.name),
        context=own_context if config.context is None else config.context,
        seed=config.seed,
        self_help=config.mode == "self-help",
    )


def _task_indices(config: EvaluationConfig, suite: Suite, tasks: TaskSet) -> tuple[int, ...]:
    total = tasks.num_tasks
    if config.tasks:
        if len(set(config.tasks)) < len(config.tasks):
            raise ConfigurationError("--tasks names a task twice; for several samples of a task use --samples.")
        if total is not None and max(config.tasks) >= total:
            raise ConfigurationError(f"--tasks {max(config.tasks)}: {suite.name} has the tasks 0 to {total - 1}.")
        return config.tasks
    wanted = suite.num_tasks if config.num_tasks is None else config.num_tasks
    count = total if wanted is None else wanted if total is None else min(wanted, total)
    if not count:
        raise ConfigurationError(
            f"{suite.name} has no end: say how many tasks (--num-tasks 100) or which (--tasks 3 7)."
        )
    return tuple(range(count))
