"""Which runs the study consists of."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

from aipo_env.errors import ConfigurationError, unknown_id
from algorithms.config import Algorithm, ObjectiveConfig
from algorithms.policies.embedded_model import ARCHITECTURES

Form = Literal["quick", "full", "words"]
TaskName = Literal["operator", "chain", "words"]
"""An operator of the rulebook; chains of them, which need all three helpers; and the operator put in words, for SmolLM2."""
PolicyName = Literal["llama", "qwen3", "gpt_neox", "smollm2"]
ALGORITHMS: tuple[Algorithm, ...] = ("grpo", "dapo", "rloo", "reinforce_baseline")
"""The RLVR algorithms of the cells."""
SEEDS = (0, 1, 2)
TUNING_SEED = 100
"""Of the runs by which settings were chosen; none of them is reported as a result."""
HELPERS = ("verify", "knowledge", "reasoning")


@dataclasses.dataclass(frozen=True)
class Method:
    """One way to learn the task."""

    label: str
    objective: Mapping[str, object]
    """Fields of `ObjectiveConfig`."""
    solo_share: float = 0.25
    trainer: Literal["rl", "sft", "rft", "mixed", "echo", "hint", "sdpo", "filtered"] = "rl"
    train: Mapping[str, object] = dataclasses.field(default_factory=dict)
    """Fields of `TrainConfig`; the learning rate is the one that was tuned."""
    tried: tuple[Mapping[str, object], ...] = ()
    """What was tried on `TUNING_SEED`: learning rates, and where there is one the weight of what was not sampled."""

    @property
    def teacher(self) -> bool:
        """Whether it needs somebody who solves the whole task."""
        return self.trainer in ("sft", "rft", "mixed")


def _grid(*weights: float) -> tuple[Mapping[str, object], ...]:
    return tuple({"learning_rate": rate, "agent_weight": weight} for weight in weights for rate in (3e-4, 6e-4))


_RATES = tuple({"learning_rate": rate} for rate in (1.5e-4, 3e-4, 6e-4, 1.2e-3))
_GROUP = {"policy_baseline": "group", "agent_baseline": "group", "self_imitation": 0.0}
_FORMER = {"agent_loss": "aipo", "agent_baseline": "solo", "agent_weight": 0.5, "self_imitation": 0.0}
_MASK = {"agent_loss": "mask", "policy_baseline": "group"}
_SFT = {"agent_loss": "clone", "agent_normalizer": "agent_tokens", "agent_baseline": "group", "self_imitation": 0.0}

METHODS: dict[str, Method] = {
    "grpo": Method("RLVR, no helpers", _MASK, solo_share=1.0),
    "mask": Method("helpers, replies masked", _MASK),
    "mask_mode": Method("helpers, replies masked, baselines by mode", {"agent_loss": "mask"}),
    "decay": Method("helpers, masked, help taken away by and by (EAPO)", _MASK, train={"final_solo_share": 1.0}),
    "hint": Method(
        "hints where all fail, not learnt (Guide)",
        {**_MASK, "rollout_clip": (0.0, 2.0)},
        trainer="hint",
        train={"learning_rate": 1.5e-4},
        tried=_RATES,
    ),
    "sdpo": Method(
        "the reply as a teacher's context (SDPO)", _MASK, 1.0, "sdpo", train={"learning_rate": 1.5e-4}, tried=_RATES
    ),
    "luffy": Method(
        "helpers, LUFFY's shaping", {**_GROUP, "agent_loss": "luffy", "agent_weight": 2.0}, tried=_grid(2.0, 8.0)
    ),
    "luffy_mixed": Method("LUFFY, full solutions in the group", {**_GROUP, "agent_loss": "luffy"}, 1.0, "mixed"),
    "echo": Method(
        "all replies at a constant weight (ECHO)",
        {**_GROUP, "agent_loss": "clone", "agent_weight": 0.05},
        trainer="echo",
        tried=_grid(0.05, 0.5),
    ),
    "clone": Method(
        "helpers, replies cloned", {**_GROUP, "agent_loss": "clone", "agent_weight": 0.5}, tried=_grid(0.5, 2.0)
    ),
    "former": Method("AIPO's former objective (solo baseline)", _FORMER, tried=_grid(0.5, 2.0)),
    "filtered": Method(
        "rollouts that ended right imitated, no RL", {"agent_loss": "clone", "agent_weight": 2.0}, trainer="filtered"
    ),
    "aipo": Method("AIPO", {"agent_weight": 2.0, "self_imitation": 1.0}, tried=_grid(0.5, 2.0)),
    "sft": Method("SFT, full solutions", _SFT, 1.0, "sft", train={"learning_rate": 1.2e-3}, tried=_RATES),
    "rft": Method(
        "RFT, full solutions that the grader calls right",
        _SFT,
        1.0,
        "rft",
        train={"learning_rate": 1.2e-3},
        tried=_RATES,
    ),
}
"""The methods, by name, at the settings that ended highest on `TUNING_SEED` (solo pass@1 at temperature 1); SFT, which without
a grader learns nothing there, at RFT's. SFT, RFT and LUFFY's mixed groups need a teacher who can solve the whole task; the
others ask a helper one question."""


@dataclasses.dataclass(frozen=True)
class RunSpec:
    """One training run of the study with its measurement: plain data, so that it can be sent to another process."""

    table: str
    """Which part of the study it belongs to: "tuning", "methods", "baselines", "cells", "parts", "rivals",
    "architectures", "helpers" or "words"."""
    name: str
    """Its row there: the method, or the setting that is changed ("c_min 0.1")."""
    method: str = "aipo"
    task: TaskName = "operator"
    architecture: PolicyName = "gpt_neox"
    algorithm: Algorithm = "group_mean"
    seed: int = 0
    steps: int = 60
    noise: float = 0.0
    """How often the helper (or the teacher) is wrong in training."""
    helper: Literal["embedded", "forgetful", "forgetful, mu known"] = "embedded"
    """The embedded Knowledge agent, spoilt by `NoisyAgent` at the rate `noise`, or `ForgetfulKnowledge`."""
    helpers: tuple[str, ...] = HELPERS
    """Those that know something; the others "cannot tell"."""
    objective: Mapping[str, object] = dataclasses.field(default_factory=dict)
    """Fields of `ObjectiveConfig` that differ from the method's."""
    train: Mapping[str, object] = dataclasses.field(default_factory=dict)
    """Fields of `TrainConfig` that differ from the method's."""
    eval_samples: int = 16
    """Samples of each boundary problem at the end, at temperature 1: the largest k of pass@k."""

    def __post_init__(self) -> None:
        """Refuses what is no run."""
        if self.method not in METHODS:
            raise unknown_id("method", self.method, METHODS)
        if (self.architecture == "smollm2") != (self.task == "words"):
            raise ConfigurationError(
                f"smollm2 plays the task words, and nobody else; got {self.architecture}, {self.task}."
            )
        if not 0 <= self.noise < 1 or self.steps < 1 or self.eval_samples < 1:
            raise ConfigurationError(
                f"a run needs 0 <= noise < 1, steps >= 1 and eval_samples >= 1; got noise={self.noise}, steps={self.steps}, "
                f"eval_samples={self.eval_samples}."
            )

    @property
    def id(self) -> str:
        """Names the run and nothing else: a readable part, and a hash of all that decides it, also the method."""
        method = METHODS[self.method]
        settings = dataclasses.asdict(self) | {
            "objective": {**method.objective, **self.objective},
            "train": {"solo_share": method.solo_share, **method.train, **self.train},
            "trainer": method.trainer,
        }
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:10]
        return f"{self.table}/{self.name}/{self.architecture}/{self.algorithm}/s{self.seed}/{digest}".replace(" ", "_")

    def objective_config(self) -> ObjectiveConfig:
        """The objective of this run."""
        fields = {"algorithm": self.algorithm, **METHODS[self.method].objective, **self.objective}
        return ObjectiveConfig(**fields)  # type: ignore[arg-type]


def full_design(seeds: Iterable[int] = SEEDS) -> list[RunSpec]:
    """Every run whose result is recorded, the most important ones first."""
    seeds = tuple(seeds)
    once = seeds[:1]
    return [
        *methods(seeds), *helpers(seeds), *tuning(), *baselines(seeds), *parts(once), *rivals(once), *architectures(once),
        *cells(once),
    ]  # fmt: skip


def quick_design() -> list[RunSpec]:
    """What fits into a quarter of an hour on two cores: the claim itself, at one seed, under noise."""
    return [
        RunSpec("methods", f"{method} 60%", method=method, noise=0.6)
        for method in ("aipo", "rft", "former", "clone", "echo", "mask", "grpo")
    ]


def words_design() -> list[RunSpec]:
    """The same question put to SmolLM2-135M, for one GPU that all runs share: `--device cuda --processes 12 --minutes 13`."""
    return [
        RunSpec("words", f"{m} 60%", m, "words", "smollm2", seed=s, noise=0.6, train={"learning_rate": 5e-5})
        for s in SEEDS
        for m in ("aipo", "rft", "echo", "grpo")
    ]


def tuning() -> Iterator[RunSpec]:
    """What each method's settings were chosen by: the same number of runs for each, at a seed that is not reported."""
    for name, method in METHODS.items():
        for tried in method.tried:
            objective = {k: v for k, v in tried.items() if k == "agent_weight"}
            rate = {"learning_rate": tried["learning_rate"]}
            label = " ".join([name, *(f"{k} {v}" for k, v in tried.items())])
            yield RunSpec("tuning", label, name, seed=TUNING_SEED, steps=40, noise=0.6, objective=objective, train=rate)


_ONCE = ("grpo", "mask", "mask_mode", "decay", "hint", "sdpo", "luffy_mixed", "filtered")
"""Methods of which one seed is run, with right helpers: those that stay at nought even there, and an upper reference."""


def methods(seeds: Iterable[int]) -> Iterator[RunSpec]:
    """All methods with a helper (or teacher) that is always right, and with one that is wrong in 60 %."""
    for seed in seeds:
        for noise in (0.6, 0.0):
            for method in reversed(METHODS):
                # Of a teacher who is always right the grader refuses nothing; what one who is not says is not sorted by SFT.
                twice = (method, noise) == ("rft", 0.0)
                once = (method, noise) == ("sft", 0.6) or (method in _ONCE and noise == 0.0)
                if not twice and (seed == 0 if once else method not in _ONCE):
                    yield RunSpec("methods", f"{method} {noise:.0%}", method=method, seed=seed, noise=noise)


def helpers(seeds: Iterable[int]) -> Iterator[RunSpec]:
    """The task that needs all three helpers, with some of them."""
    left: tuple[tuple[str, ...], ...] = (
        HELPERS, ("knowledge", "reasoning"), ("verify", "knowledge"), ("knowledge",), ("verify", "reasoning"),
    )  # fmt: skip
    for seed in seeds:
        for known in left:
            if seed == 0 or "knowledge" in known:
                yield RunSpec("helpers", ", ".join(known), task="chain", seed=seed, helpers=known)


def baselines(seeds: Iterable[int]) -> Iterator[RunSpec]:
    """Coefficient by baseline of the replies, on two architectures and at three rates of wrong ones; all else as in AIPO."""
    seeds = tuple(seeds)
    once = seeds[0]
    places: list[tuple[PolicyName, int, float]] = [
        *(("gpt_neox", s, 0.6) for s in seeds),
        ("qwen3", once, 0.6), ("gpt_neox", once, 0.3), ("gpt_neox", once, 0.0),
    ]  # fmt: skip
    for architecture, seed, noise in places:
        for coefficient in ("aipo", "clone"):
            for baseline in ("none", "solo", "group"):
                # Without a baseline they are the same to the bit, which one seed shows.
                if (coefficient, baseline) == ("clone", "none") and (seed, noise) != (once, 0.6):
                    continue
                changed = {"agent_loss": coefficient, "agent_baseline": baseline}
                name = f"{coefficient}, {baseline}" + ("" if noise == 0.6 else f", wrong in {noise:.0%}")
                yield RunSpec("baselines", name, noise=noise, architecture=architecture, seed=seed, objective=changed)


def architectures(seeds: Iterable[int]) -> Iterator[RunSpec]:
    """AIPO beside its strongest rival, for policies of other architectures."""
    for seed in seeds:
        for architecture in ("llama", "qwen3"):
            for method, noise in (("aipo", 0.6), ("rft", 0.6), ("aipo", 0.0), ("sft", 0.0)):
                name = f"{method} {noise:.0%}"
                yield RunSpec("architectures", name, method, architecture=architecture, seed=seed, noise=noise)


def rivals(seeds: Iterable[int]) -> Iterator[RunSpec]:
    """Rivals with what AIPO alone has, or without what it gave them; imitation without RL; and twice the steps."""
    imitating: dict[str, object] = {"objective": {"self_imitation": 1.0}}
    longer: dict[str, object] = {"steps": 120}
    changes: list[tuple[str, str, dict[str, object]]] = [
        ("rft", "RFT, no trust region", {"objective": {"delta": math.inf}}),
        ("luffy", "LUFFY's shaping, self-imitation", imitating),
        ("clone", "cloned, self-imitation", imitating),
        ("former", "former objective, self-imitation", imitating),
        ("filtered", "right rollouts imitated, no RL", {}),
        *((m, f"{m}, 120 steps", longer) for m in ("aipo", "rft")),
    ]
    for seed in seeds:
        for method, name, fields in changes:
            yield RunSpec("rivals", name, method, seed=seed, noise=0.6, **fields)  # type: ignore[arg-type]


def cells(seeds: Iterable[int]) -> Iterator[RunSpec]:
    """AIPO for every architecture and RLVR algorithm."""
    for seed in seeds:
        for a in ARCHITECTURES:
            for r in ALGORITHMS:
                yield RunSpec("cells", f"{a}, {r}", architecture=a, algorithm=r, seed=seed, noise=0.6)


def parts(seeds: Iterable[int]) -> Iterator[RunSpec]:
    """One setting of AIPO changed at a time, under noise."""
    known: dict[str, object] = {"helper": "forgetful, mu known"}
    smaller = {"prompts_per_step": 64, "samples_per_prompt": 4}
    changes: list[tuple[str, dict[str, object]]] = [
        ("one update a batch", {"train": {"updates_per_batch": 1}}),
        ("no self-imitation", {"objective": {"self_imitation": 0.0}}),
        ("self-imitation 0.3", {"objective": {"self_imitation": 0.3}}),
        ("64 problems x 4, solo share 0.5", {"train": {**smaller, "solo_share": 0.5}}),
        ("solo share 0.5", {"train": {"solo_share": 0.5}}),
        ("solo share 0", {"train": {"solo_share": 0.0}}),
        ("c_min 0 (pi / mu, capped)", {"objective": {"c_min": 0.0}}),
        ("c_min 0.3", {"objective": {"c_min": 0.3}}),
        ("no trust region", {"objective": {"delta": math.inf}}),
        ("mean over AGENT tokens, weight 1", {"objective": {"agent_normalizer": "agent_tokens", "agent_weight": 1.0}}),
        ("mixture helper, mu unknown", {"helper": "forgetful"}),
        ("the same, mu known", known),
        ("the same, mu known, c_max 1", {**known, "objective": {"c_max": 1.0}}),
        ("the same, mu known, no cap", {**known, "objective": {"c_max": math.inf}}),
        ("without Verify and Reasoning", {"helpers": ("knowledge",)}),
    ]
    for seed in seeds:
        for name, fields in changes:
            yield RunSpec("parts", name, seed=seed, noise=0.6, **fields)  # type: ignore[arg-type]
