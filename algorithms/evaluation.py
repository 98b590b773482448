"""What a policy can do, alone and with help."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from aipo_env import ConsultEnv, Trajectory
from aipo_env.metrics import pass_at_k
from algorithms.rollout import LocalSampler


def count_correct(
    sampler: LocalSampler,
    env: ConsultEnv,
    tasks: Sequence[int],
    *,
    num_samples: int,
    seed: int,
    assisted: bool,
    on_episode: Callable[[Trajectory], None] = lambda trajectory: None,
) -> list[int]:
    """How many attempts at each task are right.

    Args:
        sampler: of the policy.
        env: made with the policy's tokenizer.
        tasks: the tasks.
        num_samples: attempts at each.
        seed: seeds the sampling and the helpers.
        assisted: whether helpers answer.
        on_episode: called with each trajectory when it is finished.
    """
    correct = [0] * len(tasks)
    solo_share = 0.0 if assisted else 1.0
    for trajectory in sampler.rollout(
        env, tasks, group_size=num_samples, seed=seed, solo_share=solo_share, on_episode=on_episode
    ):
        correct[trajectory.group] += trajectory.verdict == "correct"
    return correct


def evaluate(
    sampler: LocalSampler,
    env: ConsultEnv,
    tasks: Sequence[int],
    *,
    num_samples: int,
    seed: int,
    on_episode: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, float]:
    """Samples each task, alone and, where there are helpers, with help; returns pass@1 (unbiased) and pass@`num_samples`.

    Where the environment's solo rollouts are of self-help, those are a mode of their own beside the plain ones.

    Args:
        sampler: of the policy.
        env: made with the policy's tokenizer.
        tasks: the tasks.
        num_samples: samples for each task and mode.
        seed: seeds the sampling and the helpers.
        on_episode: called with how many episodes are finished, and how many there are.
    """
    modes = {"solo": (ConsultEnv(env.game.with_solo("plain")), False)}
    modes |= {"self_help": (env, False)} if env.config.solo == "self-help" else {}
    modes |= {"assisted": (env, True)} if env.config.assisted else {}
    metrics: dict[str, float] = {}
    done, total = 0, len(modes) * len(tasks) * num_samples

    def count(trajectory: Trajectory) -> None:
        nonlocal done
        done += 1
        on_episode(done, total)

    on_episode(0, total)
    for name, (played, assisted) in modes.items():
        correct = count_correct(
            sampler, played, tasks, num_samples=num_samples, seed=seed, assisted=assisted, on_episode=count
        )
        solved = sum(pass_at_k(num_samples, c, num_samples) for c in correct)
        metrics[f"eval/{name}_pass1"] = sum(correct) / (len(correct) * num_samples)
        metrics[f"eval/{name}_pass{num_samples}"] = solved / len(correct)
    return metrics
