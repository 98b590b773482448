"""What the parts of the study share: sizes, rules, the policy's training, what is measured of it, and what is kept."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import aipo_env
from aipo_env.make_options import AgentLike, Options
from algorithms.config import ObjectiveConfig
from algorithms.evaluation import count_correct
from algorithms.policies import Policy
from algorithms.rollout import LocalSampler
from algorithms.train_config import SamplingConfig, TrainConfig
from algorithms.trainer import Trainer

RULES: Options = {"level": 2, "operators": "@", "style": "terse", "prompt": "bare", "max_reply_chars": 40}
Measured = dict[str, float]


@dataclasses.dataclass(frozen=True)
class Settings:
    """Sizes."""

    out: Path = Path("runs/roles")
    """Gets roles.md, roles.json and the runs."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of each arm."""
    only: tuple[str, ...] = ()
    """The parts that are run, as in "policy credit"; of the others what is there is told. All if empty."""
    steps: int = 60
    """Of a helper; each has 16 queries of 8 replies."""
    policy_steps: int = 45
    """Of a policy; each has 16 problems of 8 rollouts, a quarter of them solo."""
    credit_steps: int = 20
    """Of a policy that two helpers reply to, with the credit of branches; each has 8 problems of 8 rollouts."""
    choice_steps: int = 30
    """Of a helper that chooses between two forms."""
    right_share: float = 0.5
    """Of the rule among the sequences that the start helper is tuned on; it mixes the rules place by place."""
    tuning_steps: int = 60
    """Of that."""
    warmup_steps: int = 100
    """In which the start policy of "credit" learns to go on without a reply."""
    copying_steps: int = 250
    """In which that of "forms" learns to copy an answer."""
    start_steps: int | None = None
    """Of the warm-up of the boundary study's start policy of chains, in place of its recipe's."""
    problems: int = 128
    """Of a measurement."""


def run_folder(settings: Settings, part: str, arm: str, seed: int) -> Path:
    """Of a run."""
    return settings.out / f"{part}-{arm}-{seed}"


def measured_in(folder: Path) -> Measured:
    """What a finished run measured; nothing of one that is not."""
    path = folder / "measured.json"
    found: Measured = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found


def kept(folder: Path, measure: Callable[[], Measured]) -> Measured:
    """What a run measured, which is done once."""
    if not measured_in(folder):
        (folder / "measured.json").write_text(json.dumps(measure()), encoding="utf-8")
    return measured_in(folder)


def helper_config(settings: Settings, out: Path, seed: int, **fields: Any) -> TrainConfig:
    """Of a helper's run."""
    given: dict[str, Any] = {
        "env": "rulebook-consult", "env_options": RULES, "out": out, "seed": seed, "steps": settings.steps,
        "updates_per_batch": 1, "prompts_per_step": 16, "samples_per_prompt": 8, "solo_share": 1.0,
        "objective": ObjectiveConfig(agent_loss="mask", policy_baseline="group"), "sampling": SamplingConfig(max_tokens=48),
        "eval_every": 0, "eval_tasks": settings.problems, "eval_samples": 1, "trace_every": 0,
    }  # fmt: skip
    return TrainConfig(**given | fields)


def train_policy(
    settings: Settings, out: Path, seed: int, policy: Policy, agents: Mapping[str, AgentLike], **fields: Any
) -> tuple[Trainer, Measured]:
    """Trains a policy in place with these helpers; its steps, rollouts and trained tokens, and how it ends."""
    given: dict[str, Any] = {
        "env": "rulebook-consult", "env_options": RULES, "out": out, "seed": seed, "steps": settings.policy_steps,
        "prompts_per_step": 16, "samples_per_prompt": 8, "solo_share": 0.25, "sampling": SamplingConfig(max_tokens=48),
        "eval_every": 15, "eval_tasks": settings.problems, "eval_samples": 1, "trace_every": 0, "checkpoint_every": 20,
    }  # fmt: skip
    trainer = Trainer(TrainConfig(**given | fields), policy=policy, agents=agents)
    rows = trainer.train(None, ())
    solo = {int(row["step"]): row["eval/solo_pass1"] for row in rows if "eval/solo_pass1" in row}
    return trainer, {
        "steps": rows[-1]["step"],
        "rollouts": rows[-1]["rollouts"],
        "trained tokens": trainer.config.updates_per_batch * sum(row.get("tokens/trained", 0.0) for row in rows),
        "solo at the start": rows[0]["eval/solo_pass1"],
        "assisted at the start": rows[0]["eval/assisted_pass1"],
        "solo": rows[-1]["eval/solo_pass1"],
        "assisted": rows[-1]["eval/assisted_pass1"],
        **{f"solo after {step}": value for step, value in solo.items()},
    }


def accuracy(policy: Policy, problems: int, agents: Mapping[str, AgentLike] | None = None) -> float:
    """How often a policy is right on test problems with these helpers; None for the embedded ones."""
    options: dict[str, Any] = {**RULES, "split": "test"} | ({} if agents is None else {"agents": agents})
    env = aipo_env.make("rulebook-consult", codec=policy.codec, **options)
    sampler = LocalSampler(policy, SamplingConfig(max_tokens=48))
    return sum(count_correct(sampler, env, range(problems), num_samples=1, seed=1, assisted=True)) / problems


def of_seeds(values: Sequence[float], form: str = ".3f") -> str:
    """The median, and each."""
    return f"{statistics.median(values):{form}} ({', '.join(f'{value:{form}}' for value in values)})"


def table(first: str, columns: Mapping[str, str], arms: Mapping[str, Sequence[Measured]], form: str = ".3f") -> str:
    """A table of arms.

    Args:
        first: what the arms are.
        columns: head to what is measured.
        arms: what was measured of the seeds of each.
        form: of a number.
    """
    lines = [f"| {first} | {' | '.join(columns)} |", "|---" * (1 + len(columns)) + "|"]
    for arm, found in arms.items():
        lines.append(f"| {arm} | {' | '.join(of_seeds([m[w] for m in found], form) for w in columns.values())} |")
    return "\n".join(lines)
