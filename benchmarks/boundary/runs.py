"""One run of the study: train, watch the solo accuracy on held-out problems, measure at the end."""

from __future__ import annotations

import dataclasses
import math
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from aipo_agents.noise import NoisyAgent
from aipo_env.make_options import AgentLike
from aipo_env.registry import make, make_agent
from aipo_env.tasks.rulebook import evaluate_expansion
from aipo_env.trajectory import Source
from algorithms import evaluation
from algorithms.policies import Policy, load_policy
from algorithms.rollout import LocalSampler
from algorithms.train_config import SamplingConfig, TrainConfig
from algorithms.trainer import Trainer
from algorithms.warmup import WarmupConfig, make_rules, make_sequence, sequence_loss
from benchmarks.boundary import chain, rivals
from benchmarks.boundary.design import HELPERS, METHODS, RunSpec, TaskName
from benchmarks.boundary.helpers import ForgetfulKnowledge, UnableHelper

ENV = "rulebook-consult"
ENV_OPTIONS: Mapping[TaskName, Mapping[str, Any]] = {
    "operator": {"level": 2, "operators": "@", "style": "terse", "prompt": "bare", "max_reply_chars": 40},
    "chain": {"level": 5, "digits": 2, "style": "terse", "prompt": "bare", "max_reply_chars": 40},
    "words": {"level": 2, "operators": "@", "style": "words", "prompt": "bare", "max_reply_chars": 40},
}
MAX_TOKENS: Mapping[TaskName, int] = {"operator": 48, "chain": 112, "words": 160}
WATCHED_TASKS, WATCH_EVERY = 128, 5
"""Held-out problems that are sampled while a run goes on, apart from those of the final measurement."""
FIRST_WATCHED = 1_000_000
"""Their first index in the test split."""
TEMPERATURES = {"0.6": 4, "0": 1}
"""Of the further measurements at the end, and their samples of each boundary problem; 0 is greedy."""
_APPROVED = r"((?:;?[0-9]\+[0-9]\+[0-9])+)=([0-9]+)</consult><feedback agent=\"verify\">correct<"
_TRAINERS = {
    "rl": Trainer, "sft": rivals.ImitationTrainer, "rft": rivals.FilteredImitationTrainer, "mixed": rivals.MixedGroupTrainer,
    "echo": rivals.EchoTrainer, "hint": rivals.HintTrainer, "sdpo": rivals.SelfDistillationTrainer,
    "filtered": rivals.FilteredTrainer,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class CurvePoint:
    """What was spent and what was learnt after some steps."""

    step: int
    rollouts: int
    trained_tokens: int
    """Tokens that bore loss with an advantage other than zero, over all updates."""
    consults: int
    """Questions that helpers answered (or solutions that a teacher wrote), in training."""
    helper_tokens: int
    """What they wrote."""
    cpu_seconds: float
    """Processor time of the training alone."""
    solo: float
    """pass@1 on the watched held-out problems, without help."""


@dataclasses.dataclass(frozen=True)
class RunResult:
    """A row of `boundary.json`."""

    id: str
    spec: dict[str, object]
    num_correct: list[int]
    """Solo at temperature 1, of `spec["eval_samples"]`, for each boundary problem."""
    cooler: dict[str, float]
    """Solo pass@1 at each of `TEMPERATURES`."""
    assisted: float
    """pass@1 with right helpers, two samples each."""
    beyond: dict[str, float]
    """What `measure_beyond` finds, of the tables "methods" and "helpers"."""
    curve: list[dict[str, float]]
    seconds: float
    device: str


def count_correct(
    policy: Policy,
    indices: Sequence[int],
    num_samples: int,
    *,
    seed: int,
    task: TaskName = "operator",
    assisted: bool = False,
    temperature: float = 1.0,
    options: Mapping[str, Any] = MappingProxyType({}),
) -> list[int]:
    """How many of `num_samples` attempts at each test problem are right.

    Args:
        policy: what is measured.
        indices: of problems of the test split.
        num_samples: attempts at each.
        seed: of the sampling.
        task: which problems.
        assisted: whether the embedded helpers answer.
        temperature: of the sampling.
        options: of the environment, that differ from the task's.
    """
    env = make(ENV, codec=policy.codec, split="test", **{**ENV_OPTIONS[task], **options})
    sampler = LocalSampler(policy, SamplingConfig(temperature=temperature, max_tokens=MAX_TOKENS[task]))
    return evaluation.count_correct(sampler, env, indices, num_samples=num_samples, seed=seed, assisted=assisted)


def known_loss(policy: Policy, task: TaskName) -> float:
    """The mean loss of a token on warm-up sequences about what the start policy knew."""
    rng, codec = np.random.default_rng(5), policy.codec
    if task == "chain":
        rules = chain.Rules.draw(np.random.default_rng(0))
        return sequence_loss(policy, [chain.make_sequence(rng, rules, codec, known=True) for _ in range(64)])
    recipe = WarmupConfig(known_share=1.0, asked_share=0.0, style="words" if task == "words" else "terse")
    rules_of_letters = make_rules(recipe)
    return sequence_loss(policy, [make_sequence(rng, rules_of_letters, recipe, codec) for _ in range(64)])


def measure_beyond(policy: Policy, spec: RunSpec, boundary: Sequence[int]) -> dict[str, float]:
    """What a run does beside what it is for.

    "known": `known_loss`, which the run begins with at "known at the start". "digits 2", "digits 4": solo
    pass@1 on operands of other lengths, for the operator. "false correct": where the policy alone, on chains, calls its own
    sum correct, how often it is wrong.
    """
    found = {"known": known_loss(policy, spec.task)}
    if spec.task == "operator":
        for digits in (2, 4):
            right = count_correct(policy, range(64), 1, seed=80, options={"digits": digits})
            found[f"digits {digits}"] = sum(right) / 64
    if spec.task == "chain":
        env = make(ENV, codec=policy.codec, split="test", **ENV_OPTIONS[spec.task])
        sampler = LocalSampler(policy, SamplingConfig(max_tokens=MAX_TOKENS[spec.task]))
        played = sampler.rollout(env, boundary, group_size=2, seed=81, solo_share=1.0)
        approved = [
            evaluate_expansion(sums) == value
            for t in played
            for sums, value in re.findall(_APPROVED, "".join(s.text for s in t.segments))
        ]
        if approved:
            found["false correct"] = 1 - sum(approved) / len(approved)
    return found


def train_config(spec: RunSpec, device: str) -> TrainConfig:
    """The settings of a run's trainer, the same for every method but for what method and spec say."""
    method = METHODS[spec.method]
    fields: dict[str, object] = {
        "env": ENV,
        "env_options": ENV_OPTIONS[spec.task],
        "seed": spec.seed,
        "steps": spec.steps,
        "prompts_per_step": 32,
        "samples_per_prompt": 8,
        "updates_per_batch": 2,
        "solo_share": method.solo_share,
        "objective": spec.objective_config(),
        "learning_rate": 3e-4,
        "final_learning_rate": 0.3,
        "betas": (0.9, 0.95),
        "sampling": SamplingConfig(max_tokens=MAX_TOKENS[spec.task]),
        "micro_batch_size": 64 if device == "cpu" else 256,
        "device": device,
    }
    return TrainConfig(**{**fields, **method.train, **spec.train})  # type: ignore[arg-type]


def make_trainer(spec: RunSpec, policy: Policy) -> Trainer:
    """The trainer of a run, with its helpers."""
    codec = policy.codec if spec.helper == "forgetful, mu known" else None
    agents: dict[str, AgentLike] = {}
    for name in HELPERS:
        if name not in spec.helpers:
            agents[name] = UnableHelper(name)
        elif spec.helper != "embedded" and name == "knowledge":
            agents[name] = ForgetfulKnowledge(spec.noise, codec=codec)
        else:
            agents[name] = NoisyAgent(make_agent(name, name), spec.noise) if spec.noise else name
    trainer = _TRAINERS[METHODS[spec.method].trainer](
        train_config(spec, str(policy.model.device.type)), policy=policy, agents=agents
    )
    if isinstance(trainer, rivals.ImitationTrainer | rivals.SelfDistillationTrainer):
        trainer.teacher_noise = spec.noise
    return trainer


def run(
    spec: RunSpec, start: Path, boundary: Sequence[int], device: str = "cpu", deadline: float = math.inf
) -> RunResult:
    """Trains and measures.

    Args:
        spec: the run.
        start: folder of the start policy of its architecture.
        boundary: indices of the test problems which that policy could not solve.
        device: a torch device.
        deadline: of `time.time`, after which it is measured as it is; its curve says how far it came.
    """
    started = time.perf_counter()
    policy = load_policy(str(start), device)
    known = known_loss(policy, spec.task)
    trainer = make_trainer(spec, policy)
    curve: list[CurvePoint] = []
    trained = consults = heard = 0
    spent = 0.0
    watched = range(FIRST_WATCHED, FIRST_WATCHED + WATCHED_TASKS)
    while True:
        last = trainer.step == spec.steps or time.time() > deadline
        if trainer.step % WATCH_EVERY == 0 or last:
            solo = sum(count_correct(policy, watched, 1, seed=1 + trainer.step, task=spec.task)) / WATCHED_TASKS
            curve.append(
                CurvePoint(trainer.step, trainer.num_rollouts, trained, consults, heard, round(spent, 1), solo)
            )
        if last:
            break
        before = time.process_time()
        metrics, trajectories = trainer.train_step()
        spent += time.process_time() - before
        trained += int(metrics["tokens/trained"]) * trainer.config.updates_per_batch
        consults += sum(t.num_consults + any(s.agent == "teacher" for s in t.segments) for t in trajectories)
        heard += sum(t.count(Source.AGENT) for t in trajectories)
    return RunResult(
        id=spec.id,
        spec=dataclasses.asdict(spec),
        num_correct=count_correct(policy, boundary, spec.eval_samples, seed=77, task=spec.task),
        cooler={
            name: sum(count_correct(policy, boundary, n, seed=78, task=spec.task, temperature=float(name)))
            / (n * len(boundary))
            for name, n in TEMPERATURES.items()
        },
        beyond={"known at the start": known, **measure_beyond(policy, spec, boundary)}
        if spec.table in ("methods", "helpers")
        else {},
        assisted=sum(count_correct(policy, boundary, 2, seed=79, task=spec.task, assisted=True)) / (2 * len(boundary)),
        curve=[dataclasses.asdict(point) for point in curve],
        seconds=round(time.perf_counter() - started, 1),
        device=device,
    )


def steps_until(curve: Sequence[Mapping[str, float]], level: float, what: str = "step") -> float | None:
    """Where the solo accuracy of a curve first passes `level`, by linear interpolation; None if it never does.

    Args:
        curve: points of `RunResult.curve`.
        level: of the solo accuracy.
        what: the axis: "step", "rollouts", "trained_tokens", "helper_tokens", "cpu_seconds" or "consults".
    """
    before: Mapping[str, float] | None = None
    for point in curve:
        if point["solo"] >= level:
            if before is None:
                return point[what]
            share = (level - before["solo"]) / (point["solo"] - before["solo"])
            return before[what] + share * (point[what] - before[what])
        before = point
    return None
