"""What the runs start from: a warmed-up policy of each architecture, and the test problems that it cannot solve."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from aipo_env.errors import ConfigurationError
from algorithms.policies import load_policy
from algorithms.policies.loading import EMBEDDED
from algorithms.warmup import WarmupConfig, warm_up
from benchmarks.boundary import chain
from benchmarks.boundary.design import PolicyName, TaskName
from benchmarks.boundary.runs import count_correct

ATTEMPTS: Mapping[TaskName, int] = {"operator": 256, "chain": 16, "words": 16}
"""A problem that none of so many attempts solves lies outside the boundary. Of chains, in which a lucky guess is likelier, few
attempts leave out few problems."""


@dataclasses.dataclass(frozen=True)
class Start:
    """A start policy with its boundary problems."""

    task: TaskName
    architecture: PolicyName
    num_parameters: int
    candidates: int
    """Test problems that were tried."""
    solved: int
    """Those of them that at least one attempt solved; left out."""
    indices: list[int]
    """The boundary problems."""
    assisted: float
    """The start policy's pass@1 on the boundary problems with help."""


def start_folder(
    architecture: PolicyName,
    out: Path,
    task: TaskName = "operator",
    *,
    steps: int | None = None,
    device: str = "cpu",
    on_step: Callable[[int, float], None] | None = None,
) -> Path:
    """The folder of an architecture's start policy: the embedded one for Llama; others are warmed up once, and kept.

    Args:
        architecture: of the policy.
        out: the study's folder.
        task: what it is warmed up for.
        steps: of the warm-up, in place of the recipe's.
        device: of the warm-up.
        on_step: called with a step and its loss.
    """
    if (architecture, task, steps) == ("llama", "operator", None):
        return EMBEDDED
    folder = out / "start" / f"{task}-{architecture}"
    if not (folder / "model.safetensors").exists():
        partial = folder.with_name(f".{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        if task == "chain" and architecture != "smollm2":
            begun = load_policy(str(start_folder(architecture, out, steps=steps, device=device)), device)
            chain.warm_up(begun, partial, steps or chain.STEPS, on_step)
        elif architecture == "smollm2":
            # As it comes it neither asks nor boxes an answer.
            config = WarmupConfig(steps=steps or 300, batch_size=64, learning_rate=2e-4, style="words")
            warm_up(config, partial, on_step, policy=load_policy("smollm2", device))
        else:
            config = WarmupConfig(architecture=architecture)
            config = config if steps is None else dataclasses.replace(config, steps=steps)
            warm_up(config, partial, on_step, device=device)
        # A warm-up that was cut leaves nothing under the final name.
        partial.rename(folder)
    return folder


def measure_start(
    architecture: PolicyName,
    out: Path,
    num_problems: int,
    task: TaskName = "operator",
    *,
    attempts: int | None = None,
    device: str = "cpu",
) -> Start:
    """Finds test problems which the start policy does not solve in `attempts` attempts (None: `ATTEMPTS`); kept in `out`.

    Raises:
        ConfigurationError: the policy solves so many that there are too few left.
    """
    attempts = attempts or ATTEMPTS[task]
    path = out / "start" / f"{task}-{architecture}.{num_problems}x{attempts}.json"
    if path.exists():
        return Start(**json.loads(path.read_text(encoding="utf-8")))
    policy = load_policy(str(start_folder(architecture, out, task, device=device)), device)
    candidates = range(num_problems + num_problems // 4)
    correct = count_correct(policy, candidates, attempts, seed=11, task=task)
    unsolved = [i for i, c in zip(candidates, correct, strict=True) if c == 0]
    if len(unsolved) < num_problems:
        raise ConfigurationError(
            f"the {architecture} start policy solves {len(candidates) - len(unsolved)} of {len(candidates)} test problems in "
            f"{attempts} attempts; {num_problems} unsolved ones are needed. Warm it up on less, or take harder problems."
        )
    indices = unsolved[:num_problems]
    helped = count_correct(policy, indices, 4, seed=12, task=task, assisted=True)
    start = Start(
        task=task,
        architecture=architecture,
        num_parameters=policy.model.num_parameters(),
        candidates=len(candidates),
        solved=len(candidates) - len(unsolved),
        indices=indices,
        assisted=sum(helped) / (4 * num_problems),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(dataclasses.asdict(start)) + "\n", encoding="utf-8")
    return start
