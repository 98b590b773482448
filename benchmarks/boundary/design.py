"""Which runs the study consists of."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from typing import Literal

from aipo_env.errors import ConfigurationError, unknown_id
from algorithms.config import Algorithm, ObjectiveConfig
from algorithms.policies.embedded_model import ARCHITECTURES, Architecture

Form = Literal["quick", "full"]
ALGORITHMS: tuple[Algorithm, ...] = ("grpo", "dapo", "rloo", "reinforce_baseline")
"""The RLVR algorithms of the cells."""


UNCHANGED = "unchanged"
"""The table of AIPO as it is, with what the ablations have in common."""
VARIED: Mapping[str, object] = {"architecture": "gpt_neox", "steps": 60}
"""What noise and ablations, of which there are many, have in common: the policy that learns fastest (its transition comes at
about step 26), and fewer steps."""


@dataclasses.dataclass(frozen=True)
class Method:
    """One way to learn the task."""

    label: str
    agent_loss: str
    solo_share: float
    trainer: Literal["rl", "imitation", "mixed"] = "rl"
    """What a batch is made of: rollouts; a teacher's full solutions; a teacher's in each group of solo rollouts."""
    objective: Mapping[str, object] = dataclasses.field(default_factory=dict)
    """Further fields of `ObjectiveConfig`."""


PLAIN = {"agent_baseline": "group", "policy_baseline": "group"}
"""What the methods of others do: one baseline, the mean of the group."""

METHODS: dict[str, Method] = {
    "grpo": Method("RLVR, no helpers", "mask", 1.0, objective={"policy_baseline": "group"}),
    "mask": Method("helpers, replies masked", "mask", 0.5, objective={"policy_baseline": "group"}),
    "clone": Method("helpers, replies cloned", "clone", 0.5, objective=PLAIN),
    "is": Method("helpers, pi/mu", "is", 0.5, objective=PLAIN),
    "luffy": Method("helpers, LUFFY's shaping", "luffy", 0.5, objective=PLAIN),
    "aipo": Method("AIPO", "aipo", 0.5),
    "sft": Method("SFT, full solutions", "clone", 1.0, "imitation", {"agent_normalizer": "agent_tokens", "agent_weight": 1.0}),
    "luffy_mixed": Method("LUFFY, full solutions in the group", "luffy", 1.0, "mixed", {**PLAIN, "agent_weight": 1.0}),
}  # fmt: skip
"""The methods, by name. The last two need a teacher who can solve the whole task; the others ask a helper one question."""


@dataclasses.dataclass(frozen=True)
class RunSpec:
    """One training run of the study with its measurement: plain data, so that it can be sent to another process."""

    table: str
    """Which part of the study it belongs to: "methods", "cells", "teachers", "noise", or the name of an ablation."""
    name: str
    """Its row there: the method, or the setting that is changed ("c_min 0.1")."""
    method: str = "aipo"
    architecture: Architecture = "llama"
    algorithm: Algorithm = "group_mean"
    seed: int = 0
    steps: int = 120
    noise: float = 0.0
    """How often the helper (or the teacher) is wrong in training."""
    helper: Literal["embedded", "forgetful", "forgetful, mu known"] = "embedded"
    """The embedded Knowledge agent, spoilt by `NoisyAgent` at the rate `noise`, or `ForgetfulKnowledge`."""
    helpers: tuple[str, ...] = ("verify", "knowledge", "reasoning")
    """Those that answer."""
    objective: Mapping[str, object] = dataclasses.field(default_factory=dict)
    """Fields of `ObjectiveConfig` that differ from the method's."""
    train: Mapping[str, object] = dataclasses.field(default_factory=dict)
    """Fields of `TrainConfig` that differ from the study's."""
    env: Mapping[str, object] = dataclasses.field(default_factory=dict)
    """Options of the environment that differ from the study's."""
    eval_samples: int = 16
    """Samples of each boundary problem at the end: the largest k of pass@k."""

    def __post_init__(self) -> None:
        """Refuses what is no run."""
        if self.method not in METHODS:
            raise unknown_id("method", self.method, METHODS)
        if self.architecture not in ARCHITECTURES:
            raise unknown_id("architecture", self.architecture, ARCHITECTURES)
        if not 0 <= self.noise < 1 or self.steps < 1 or self.eval_samples < 1:
            raise ConfigurationError(
                f"a run needs 0 <= noise < 1, steps >= 1 and eval_samples >= 1; got noise={self.noise}, steps={self.steps}, "
                f"eval_samples={self.eval_samples}."
            )

    @property
    def id(self) -> str:
        """Names the run and nothing else: a readable part, and a hash of every field."""
        text = json.dumps(dataclasses.asdict(self), sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:10]
        return f"{self.table}/{self.name}/{self.architecture}/{self.algorithm}/s{self.seed}/{digest}".replace(" ", "_")

    def objective_config(self) -> ObjectiveConfig:
        """The objective of this run."""
        method = METHODS[self.method]
        fields: dict[str, object] = {"algorithm": self.algorithm, "agent_loss": method.agent_loss}
        if method.agent_loss != "mask":
            fields["agent_weight"] = 2.0
        return ObjectiveConfig(**{**fields, **method.objective, **self.objective})  # type: ignore[arg-type]


def full_design(seeds: Iterable[int] = (0, 1, 2)) -> list[RunSpec]:
    """Every run whose result is recorded, the most important ones first."""
    seeds = tuple(seeds)
    return [*methods(seeds), *cells(seeds), *teachers(seeds), *noise(seeds), *ablations(seeds)]


def quick_design() -> list[RunSpec]:
    """What fits into a quarter of an hour on two cores: the claim itself, at one seed."""
    return [
        RunSpec("methods", method, method=method, eval_samples=64)
        for method in ("aipo", "clone", "mask", "grpo", "luffy", "sft")
    ]


def methods(seeds: Iterable[int]) -> list[RunSpec]:
    """All methods with a helper that is always right, measured to k = 256."""
    return [RunSpec("methods", m, method=m, seed=s, eval_samples=256) for s in seeds for m in METHODS]


def cells(seeds: Iterable[int]) -> list[RunSpec]:
    """AIPO, masked replies and no helpers, for every architecture and RLVR algorithm."""
    seeds = tuple(seeds)
    specs = [
        RunSpec("cells", "aipo", architecture=a, algorithm=r, seed=s)
        for s in seeds
        for a in ARCHITECTURES
        for r in ALGORITHMS
    ]
    # Both baselines stay at zero, whatever the seed; one shows it for each cell.
    return specs + [
        RunSpec("cells", m, method=m, architecture=a, algorithm=r, seed=seeds[0])
        for m in ("grpo", "mask")
        for a in ARCHITECTURES
        for r in ALGORITHMS
    ]


def teachers(seeds: Iterable[int]) -> list[RunSpec]:
    """Answers to questions against full solutions, on the other architectures."""
    return [
        RunSpec("teachers", m, method=m, architecture=a, seed=s)
        for s in seeds
        for a in ("qwen3", "gpt_neox")
        for m in ("aipo", "sft", "luffy_mixed")
    ]


def noise(seeds: Iterable[int]) -> list[RunSpec]:
    """Helpers, and teachers, that are often wrong."""
    return [
        RunSpec("noise", f"{m} {level:.0%}", method=m, seed=s, noise=level, **VARIED)  # type: ignore[arg-type]
        for s in seeds
        for level in (0.0, 0.3, 0.6)
        for m in ("aipo", "clone", "sft", "luffy", "luffy_mixed")
    ]


def ablations(seeds: Iterable[int]) -> list[RunSpec]:
    """One setting of AIPO changed at a time."""
    twice = {"updates_per_batch": 2}
    forgetful = {"helper": "forgetful", "noise": 0.3}
    known = {"helper": "forgetful, mu known", "noise": 0.3}
    apart: dict[str, object] = {"policy_baseline": "mode", "agent_baseline": "solo"}
    changes: list[tuple[str, str, dict[str, object]]] = [
        (UNCHANGED, "unchanged", {}),
        ("baselines", "one baseline for all", {"objective": PLAIN}),
        ("baselines", "one for the policy, solo for replies", {"objective": {"policy_baseline": "group"}}),
        ("baselines", "by mode for the policy, one for replies", {"objective": {"agent_baseline": "group"}}),
        ("baselines", "cloned replies, AIPO's baselines", {"method": "clone", "objective": apart}),
        ("c_min", "c_min 0 (pi / mu, capped)", {"objective": {"c_min": 0.0}}),
        ("c_min", "c_min 0.1", {"objective": {"c_min": 0.1}}),
        ("c_min", "c_min 0.3", {"objective": {"c_min": 0.3}}),
        ("lambda", "lambda 0.5", {"objective": {"agent_weight": 0.5}}),
        ("lambda", "lambda 1", {"objective": {"agent_weight": 1.0}}),
        ("lambda", "lambda 4", {"objective": {"agent_weight": 4.0}}),
        ("solo share", "solo share 0", {"train": {"solo_share": 0.0}}),
        ("solo share", "solo share 0.25", {"train": {"solo_share": 0.25}}),
        ("solo share", "solo share 0.75", {"train": {"solo_share": 0.75}}),
        ("solo share", "0.25 to 1: help is taken away", {"train": {"solo_share": 0.25, "final_solo_share": 1.0}}),
        ("consult cost", "consult cost 0.1", {"env": {"consult_cost": 0.1}}),
        ("consult cost", "consult cost 0.3", {"env": {"consult_cost": 0.3}}),
        ("mu", "mixture helper, 30 % wrong, mu unknown", forgetful),
        ("mu", "the same, mu known", known),
        ("c_max", "the same, mu known, c_max 1", {**known, "objective": {"c_max": 1.0}}),
        ("c_max", "the same, mu known, no cap", {**known, "objective": {"c_max": math.inf}}),
        ("delta", "2 updates a batch, delta 0.02", {"objective": {"delta": 0.02}, "train": twice}),
        ("delta", "2 updates a batch, delta 0.2", {"train": twice}),
        ("delta", "2 updates a batch, no trust region", {"objective": {"delta": math.inf}, "train": twice}),
        ("helpers", "without Verify and Reasoning", {"helpers": ("knowledge",)}),
        ("helpers", "without Knowledge", {"helpers": ("verify", "reasoning")}),
    ]
    return [
        RunSpec(table, name, seed=s, **{**VARIED, **fields})  # type: ignore[arg-type]
        for s in seeds
        for table, name, fields in changes
    ]
