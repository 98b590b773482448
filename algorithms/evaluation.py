"""What a policy can do, alone and with help."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from aipo_env.metrics import pass_at_k
from algorithms.rollout import Roller, RolloutRequest


def evaluate(
    roller: Roller,
    task_indices: Sequence[int],
    *,
    num_samples: int,
    seed: int,
    on_episode: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, float]:
    """Samples each task, alone and, where there are helpers, with help; returns pass@1 (unbiased) and pass@`num_samples`.

    Args:
        roller: policy and environment.
        task_indices: the tasks.
        num_samples: samples for each task and mode.
        seed: seeds the sampling and the helpers.
        on_episode: called with how many episodes are finished, and how many there are.
    """
    modes = {"solo": False, "assisted": True} if roller.env.config.assisted else {"solo": False}
    metrics: dict[str, float] = {}
    done, total = itertools.count(1), len(modes) * len(task_indices) * num_samples
    on_episode(0, total)
    for name, assisted in modes.items():
        requests = [
            RolloutRequest(index, assisted, seed + position * num_samples + sample, group=position, sample=sample)
            for position, index in enumerate(task_indices)
            for sample in range(num_samples)
        ]
        correct = [0] * len(task_indices)
        for _, trajectory in roller.iterate(requests, seed):
            correct[trajectory.group] += trajectory.verdict == "correct"
            on_episode(next(done), total)
        solved = sum(pass_at_k(num_samples, c, num_samples) for c in correct)
        metrics[f"eval/{name}_pass1"] = sum(correct) / (len(correct) * num_samples)
        metrics[f"eval/{name}_pass{num_samples}"] = solved / len(correct)
    return metrics
