"""One run of the study: train, watch the solo accuracy on held-out problems, measure at the end."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

from aipo_agents.noise import NoisyAgent
from aipo_env.make_options import AgentLike
from aipo_env.registry import make, make_agent
from algorithms import evaluation
from algorithms.policies import Policy, load_policy
from algorithms.rollout import LocalSampler
from algorithms.train_config import SamplingConfig, TrainConfig
from algorithms.trainer import Trainer
from benchmarks.boundary.design import METHODS, RunSpec
from benchmarks.boundary.helpers import ForgetfulKnowledge
from benchmarks.boundary.imitation import ImitationTrainer, MixedGroupTrainer

ENV = "rulebook-consult"
ENV_OPTIONS: dict[str, int | float | str] = {
    "level": 2, "operators": "@", "style": "terse", "prompt": "bare", "max_reply_chars": 40,
}  # fmt: skip
SAMPLING = SamplingConfig(max_tokens=48)
WATCHED_TASKS, WATCHED_SAMPLES, WATCH_EVERY = 128, 2, 10
"""Held-out problems that are sampled while a run goes on, apart from those of the final measurement."""
FIRST_WATCHED = 1_000_000
"""Their first index in the test split."""


@dataclasses.dataclass(frozen=True)
class CurvePoint:
    """What was spent and what was learnt after some steps."""

    step: int
    rollouts: int
    trained_tokens: int
    """Tokens that bore loss with an advantage other than zero, over all updates."""
    consults: int
    """Questions that helpers answered (or solutions that a teacher wrote), in training."""
    solo: float
    """pass@1 on the watched held-out problems, without help."""
    assisted: float
    """The same with help."""


@dataclasses.dataclass(frozen=True)
class RunResult:
    """A row of `boundary.json`."""

    id: str
    spec: dict[str, object]
    num_correct: list[int]
    """Solo, of `spec["eval_samples"]`, for each boundary problem."""
    curve: list[dict[str, float]]
    seconds: float
    device: str


def count_correct(
    policy: Policy, indices: Sequence[int], num_samples: int, *, seed: int, assisted: bool = False
) -> list[int]:
    """How many of `num_samples` attempts at each test problem are right.

    Args:
        policy: what is measured.
        indices: of problems of the test split.
        num_samples: attempts at each.
        seed: of the sampling.
        assisted: whether the embedded helpers answer.
    """
    env = make(ENV, codec=policy.codec, split="test", **ENV_OPTIONS)  # type: ignore[arg-type]
    return evaluation.count_correct(
        LocalSampler(policy, SAMPLING), env, indices, num_samples=num_samples, seed=seed, assisted=assisted
    )


def train_config(spec: RunSpec, device: str) -> TrainConfig:
    """The settings of a run's trainer, the same for every method but for what the spec changes."""
    method = METHODS[spec.method]
    fields: dict[str, object] = {
        "env": ENV,
        "env_options": {**ENV_OPTIONS, **spec.env},
        "seed": spec.seed,
        "steps": spec.steps,
        "prompts_per_step": 32,
        "samples_per_prompt": 8,
        "solo_share": method.solo_share,
        "objective": spec.objective_config(),
        "learning_rate": 3e-4,
        "final_learning_rate": 0.3,
        "betas": (0.9, 0.95),
        "sampling": SAMPLING,
        "micro_batch_size": 64 if device == "cpu" else 256,
        "device": device,
    }
    return TrainConfig(**{**fields, **spec.train})  # type: ignore[arg-type]


def make_trainer(spec: RunSpec, policy: Policy) -> Trainer:
    """The trainer of a run, with its helpers."""
    config = train_config(spec, str(policy.model.device.type))
    kind = METHODS[spec.method].trainer
    if kind == "imitation":
        imitation = ImitationTrainer(config, policy=policy)
        imitation.teacher_noise = spec.noise
        return imitation
    if kind == "mixed":
        mixed = MixedGroupTrainer(config, policy=policy)
        mixed.teacher_noise = spec.noise
        return mixed
    helpers: dict[str, AgentLike] = {name: name for name in spec.helpers}
    if spec.helper != "embedded":
        codec = policy.codec if spec.helper == "forgetful, mu known" else None
        helpers["knowledge"] = ForgetfulKnowledge(spec.noise, codec=codec)
    elif spec.noise:
        helpers = {name: NoisyAgent(make_agent(name, name), spec.noise) for name in spec.helpers}
    return Trainer(config, policy=policy, agents=helpers)


def run(spec: RunSpec, start: Path, boundary: Sequence[int], device: str = "cpu") -> RunResult:
    """Trains and measures.

    Args:
        spec: the run.
        start: folder of the start policy of its architecture.
        boundary: indices of the test problems which that policy could not solve.
        device: a torch device.
    """
    started = time.perf_counter()
    policy = load_policy(str(start), device)
    trainer = make_trainer(spec, policy)
    curve: list[CurvePoint] = []
    trained = consults = 0
    watched = range(FIRST_WATCHED, FIRST_WATCHED + WATCHED_TASKS)
    while True:
        if trainer.step % WATCH_EVERY == 0 or trainer.step == spec.steps:
            shares = [
                sum(count_correct(policy, watched, WATCHED_SAMPLES, seed=1 + trainer.step, assisted=help_))
                / (WATCHED_TASKS * WATCHED_SAMPLES)
                for help_ in (False, True)
            ]
            curve.append(CurvePoint(trainer.step, trainer.num_rollouts, trained, consults, *shares))
        if trainer.step == spec.steps:
            break
        metrics, trajectories = trainer.train_step()
        trained += int(metrics["tokens/trained"]) * trainer.config.updates_per_batch
        consults += sum(t.num_consults + any(s.agent == "teacher" for s in t.segments) for t in trajectories)
    return RunResult(
        id=spec.id,
        spec=dataclasses.asdict(spec),
        num_correct=count_correct(policy, boundary, spec.eval_samples, seed=77),
        curve=[dataclasses.asdict(point) for point in curve],
        seconds=round(time.perf_counter() - started, 1),
        device=device,
    )


def steps_until(curve: Sequence[dict[str, float]], level: float, what: str = "step") -> float | None:
    """Where the solo accuracy of a curve first passes `level`, by linear interpolation; None if it never does.

    Args:
        curve: points of `RunResult.curve`.
        level: of the solo accuracy.
        what: the axis: "step", "rollouts", "trained_tokens" or "consults".
    """
    before: dict[str, float] | None = None
    for point in curve:
        if point["solo"] >= level:
            if before is None:
                return point[what]
            share = (level - before["solo"]) / (point["solo"] - before["solo"])
            return before[what] + share * (point[what] - before[what])
        before = point
    return None
