"""The `--aipo.*` flags: what the cluster learner adds to OpenRLHF's own flags."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from aipo_env.advantages import AgentBaseline, PolicyBaseline
from aipo_env.errors import ConfigurationError
from aipo_env.make_options import Options
from algorithms.config import OWN_FIELDS, ObjectiveConfig

CONFIG_VARIABLE = "AIPO_CLUSTER_CONFIG"
"""The environment variable that carries the config to Ray's workers."""

_PREFIX = "--aipo."


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "aipo" / "openrlhf"


@dataclasses.dataclass(frozen=True)
class ClusterConfig:
    """What a run on OpenRLHF needs beside OpenRLHF's flags."""

    env: str
    """Environment id of a training set, for example math-consult."""
    env_options: Options = dataclasses.field(default_factory=Options)
    """Options of `aipo_env.make` (split, max_consults, prompt, data, level, ...)."""
    agents: tuple[str, ...] = ()
    """The helpers, each "name", "name=package.module:Class" or "name=path/to/policy"; empty for the environment's default."""
    imports: tuple[str, ...] = ()
    """Modules that every process imports first: those that register environments, helpers or coefficients."""
    num_tasks: int | None = None
    """The first tasks of the family to train on; None for all of them."""
    eval_tasks: int = 0
    """The first tasks to evaluate on, every --eval.steps steps, without helpers; 0 for no evaluation."""
    eval_options: Options = dataclasses.field(default_factory=Options)
    """Options that differ for the evaluation, usually the split: `--aipo.eval-options split test`."""
    eval_env: str | None = None
    """Environment id of the evaluation, for example math500-consult; None for the same as `env`. It is played without helpers,
    by the rules among `env_options`."""
    allow_test_split: bool = False
    """Trains even on a split that is for evaluation."""
    solo_share: float = 0.5
    """Share of each group that is rolled out without help. 1 trains without helpers at all."""
    consult_timeout: float = 60.0
    """Seconds that a helper has for one reply."""
    seed: int = 0
    """Decides the helpers' seeds, which differ by task, sample and epoch."""
    traces: Path | None = None
    """Folder for the trajectories of all rollouts, one file per engine; None to write none."""
    cache: Path = dataclasses.field(default_factory=_cache)
    """Folder of the exported prompts. On several nodes it has to be one that all of them see."""
    policy_baseline: PolicyBaseline = ObjectiveConfig.policy_baseline
    """What a rollout's reward is compared with for POLICY tokens. mode: the rollouts of the same prompt and the same mode,
    assisted or solo. group: all rollouts of the prompt, as OpenRLHF does it."""
    self_imitation: float = ObjectiveConfig.self_imitation
    """How much an assisted rollout's outcome, where positive, adds to the advantage of its POLICY tokens."""
    agent_loss: str = ObjectiveConfig.agent_loss
    """Term for AGENT tokens: aipo, mask, clone, is, luffy, or one that a module of `imports` registers."""
    agent_weight: float = ObjectiveConfig.agent_weight
    """lambda: weight of the AGENT term."""
    agent_baseline: AgentBaseline = ObjectiveConfig.agent_baseline
    """What a reply's reward is compared with. none: nothing, the advantage is the outcome. solo: the mean of the group's solo
    rollouts; the group's mean where it has none. group: the mean of all rollouts of the prompt."""
    c_min: float = ObjectiveConfig.c_min
    """Floor of pi / mu where the advantage is positive. Read by aipo."""
    c_max: float = ObjectiveConfig.c_max
    """Cap of pi / mu. Read by aipo."""
    delta: float = ObjectiveConfig.delta
    """Trust region in probability. Read by aipo and clone."""
    luffy_gamma: float = ObjectiveConfig.luffy_gamma
    """gamma of f(pi) = pi / (pi + gamma). Read by luffy."""

    def __post_init__(self) -> None:
        """Refuses values out of range; imports the modules of `imports`, which may register what is checked here."""
        for module in self.imports:
            try:
                importlib.import_module(module)
            except ImportError as error:
                raise ConfigurationError(
                    f"--aipo.imports names {module!r}, which cannot be imported ({error}). It has to be on the Python path of "
                    "every node: install it there, or set PYTHONPATH in the Ray runtime environment."
                ) from error
        least = {"eval_tasks": (self.eval_tasks, 0), "seed": (self.seed, 0)}
        if self.num_tasks is not None:
            least["num_tasks"] = (self.num_tasks, 1)
        for name, (value, bound) in least.items():
            if value < bound:
                raise ConfigurationError(f"--aipo.{name} is at least {bound}, got {value}.")
        if not 0 <= self.solo_share <= 1:
            raise ConfigurationError(f"--aipo.solo_share is a share between 0 and 1, got {self.solo_share!r}.")
        if not self.consult_timeout > 0:
            raise ConfigurationError(
                f"--aipo.consult_timeout is in seconds and positive, got {self.consult_timeout!r}."
            )
        for name in ("eval_options", "eval_env"):
            if getattr(self, name) and not self.eval_tasks:
                raise ConfigurationError(
                    f"--aipo.{name} {getattr(self, name)} is read by the evaluation, and --aipo.eval_tasks is 0. Say on how "
                    "many tasks to evaluate, or leave it out."
                )
        _ = self.objective

    @property
    def objective(self) -> ObjectiveConfig:
        """Our part of the objective (`OWN_FIELDS`); OpenRLHF's own flags stand for the rest."""
        own = {field.name for field in dataclasses.fields(self)}
        return ObjectiveConfig(**{name: getattr(self, name) for name in OWN_FIELDS if name in own})

    def with_absolute_paths(self) -> ClusterConfig:
        """The config as Ray's workers need it, whose working directory is another."""
        traces = None if self.traces is None else self.traces.absolute()
        return dataclasses.replace(self, traces=traces, cache=self.cache.absolute())

    def to_json(self) -> str:
        """The config as text, for the environment variable."""
        return json.dumps(dataclasses.asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> ClusterConfig:
        """The inverse of `to_json`."""
        values = json.loads(text)
        for name in ("agents", "imports"):
            values[name] = tuple(values[name])
        for name in ("traces", "cache"):
            values[name] = None if values[name] is None else Path(values[name])
        return cls(**values)

    @classmethod
    def from_environment(cls) -> ClusterConfig:
        """The config of the run that this process works for.

        Raises:
            ConfigurationError: the process was not started by our entry point.
        """
        text = os.environ.get(CONFIG_VARIABLE)
        if text is None:
            raise ConfigurationError(
                f"this process needs {CONFIG_VARIABLE} in its environment, and it is not there. Start the run with "
                "`python algorithms/aipo_openrlhf.py`, which hands it to all of Ray's workers; OpenRLHF's own command does not."
            )
        return cls.from_json(text)


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Splits a command line into our flags with their values and all the rest, each in its order."""
    ours: list[str] = []
    theirs: list[str] = []
    target = theirs
    for argument in arguments:
        if argument.startswith("--"):
            target = ours if argument.startswith(_PREFIX) else theirs
        target.append(argument)
    return ours, theirs


def parse_options(arguments: Sequence[str]) -> ClusterConfig:
    """Reads our flags.

    Args:
        arguments: `--aipo.*` flags and their values, nothing else; with "--help" among them, prints them and exits.
    """
    from aipo_env.parsing import parse

    def options(*, aipo: ClusterConfig) -> ClusterConfig:
        return aipo

    about = "Trains on OpenRLHF. Every flag without aipo. is OpenRLHF's: python -m openrlhf.cli.train_ppo_ray --help"
    return parse(options, arguments, "aipo_openrlhf.py", about)()
