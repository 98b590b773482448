"""What a policy can do, alone and with help."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from aipo_env.metrics import pass_at_k
from aipo_env.trajectory import Trajectory
from algorithms.rollout import Roller, RolloutRequest


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Accuracy over tasks; every task has the same number of samples."""

    pass1: float
    """The mean of correct / samples: the unbiased pass@1."""
    pass_k: float
    k: int
    num_tasks: int
    num_samples: int
    consults_per_episode: float


def evaluate(
    roller: Roller,
    task_indices: Sequence[int],
    *,
    assisted: bool,
    num_samples: int,
    seed: int,
    on_episode: Callable[[], None] | None = None,
) -> tuple[Evaluation, list[Trajectory]]:
    """Samples each task and grades; also returns the trajectories.

    Args:
        roller: policy and environment.
        task_indices: the tasks.
        assisted: whether helpers answer.
        num_samples: samples for each task; also the k of `pass_k`.
        seed: seeds the sampling and the helpers.
        on_episode: called when an episode is finished.
    """
    requests = [
        RolloutRequest(
            index,
            assisted=assisted,
            seed=seed + position * num_samples + sample,
            group=position,
            sample=sample,
        )
        for position, index in enumerate(task_indices)
        for sample in range(num_samples)
    ]
    done: dict[int, Trajectory] = {}
    for number, trajectory in roller.iterate(requests, seed):
        done[number] = trajectory
        if on_episode is not None:
            on_episode()
    trajectories = [done[number] for number in range(len(requests))]
    correct = [0] * len(task_indices)
    for trajectory in trajectories:
        correct[trajectory.group] += trajectory.verdict == "correct"
    count = len(task_indices)
    return (
        Evaluation(
            pass1=sum(correct) / (count * num_samples),
            pass_k=sum(pass_at_k(num_samples, c, num_samples) for c in correct) / count,
            k=num_samples,
            num_tasks=count,
            num_samples=num_samples,
            consults_per_episode=sum(t.num_consults for t in trajectories) / len(trajectories),
        ),
        trajectories,
    )
