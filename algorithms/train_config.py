"""Configuration of rollouts and of training: plain data, importable without torch."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from aipo_env.errors import ConfigurationError
from algorithms.config import ObjectiveConfig


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
    """How a policy is sampled."""

    temperature: float = 1.0
    """What logits are divided by; 0 is greedy."""
    top_p: float = 1.0
    """Keeps the most likely tokens whose probabilities reach this sum. 1 keeps all."""
    max_tokens: int = 512
    """Tokens behind the prompt, helpers' replies included."""
    batch_size: int = 256
    """Episodes that run at the same time."""

    def __post_init__(self) -> None:
        """Refuses values out of range."""
        if self.temperature < 0 or not 0 < self.top_p <= 1 or self.max_tokens < 1 or self.batch_size < 1:
            raise ConfigurationError(
                "sampling needs temperature >= 0, 0 < top_p <= 1, max_tokens >= 1 and batch_size >= 1; got "
                f"temperature={self.temperature}, top_p={self.top_p}, max_tokens={self.max_tokens}, "
                f"batch_size={self.batch_size}."
            )


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """One training run on one machine."""

    env: str = "rulebook-consult"
    """Environment id; the solo rollouts of a group use the same tasks and the same prompt."""
    env_options: dict[str, int | float | str] = dataclasses.field(default_factory=dict)
    """Options of `aipo_env.make` (level, max_consults, prompt, data, ...)."""
    eval_env: str | None = None
    """Environment id of the evaluations; None for the split "test" of `env`. Rules among `env_options` hold there too."""
    eval_options: dict[str, int | float | str] = dataclasses.field(default_factory=dict)
    """Options that differ for the evaluations (data, level, ...)."""
    allow_test_split: bool = False
    """Trains even on a split that is for evaluation."""
    agents: tuple[str, ...] = ()
    """The helpers, each "name" or "name=package.module:Class"; empty for the environment's default."""
    policy: str = "embedded"
    """ "embedded", "smollm2", or a directory or hub id that `transformers` loads."""
    out: Path = Path("runs/train")
    """Folder of metrics, traces, checkpoints and the trained policy."""
    seed: int = 0
    """Decides the tasks, the sampling and the helpers' seeds."""
    steps: int = 100
    """Optimizer batches."""
    prompts_per_step: int = 16
    """Groups in a batch."""
    samples_per_prompt: int = 16
    """Rollouts in a group."""
    solo_share: float = 0.5
    """Share of each group that is rolled out without help. 1 trains without helpers at all."""
    final_solo_share: float | None = None
    """The share at the last step, reached linearly: 1 takes the help away by and by. None keeps `solo_share`."""
    objective: ObjectiveConfig = dataclasses.field(default_factory=ObjectiveConfig)
    """What is maximised."""
    sampling: SamplingConfig = dataclasses.field(default_factory=lambda: SamplingConfig(max_tokens=64))
    """How rollouts are sampled; the learner uses the same temperature."""
    learning_rate: float = 5e-4
    """AdamW's peak learning rate."""
    warmup_steps: int = 10
    """Steps over which the learning rate rises from 0."""
    final_learning_rate: float = 1.0
    """Share of the peak at which a linear decay ends; 1 keeps it constant."""
    betas: tuple[float, float] = (0.9, 0.99)
    """AdamW's decay rates."""
    weight_decay: float = 0.0
    """AdamW's decoupled weight decay."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm."""
    updates_per_batch: int = 1
    """Optimizer steps on one batch of rollouts."""
    micro_batch_size: int = 64
    """Sequences in one forward and backward pass; changes memory and speed, not the result."""
    dynamic_sampling: int = 0
    """DAPO: draws up to this many further batches of prompts until all groups have differing rewards. 0: off."""
    overlong_buffer: int = 0
    """DAPO: tokens before `sampling.max_tokens` at which the soft penalty on length sets in. 0: off."""
    eval_every: int = 0
    """Steps between evaluations on the test tasks; 0 evaluates at the end alone."""
    eval_tasks: int = 100
    """Test tasks of an evaluation."""
    eval_samples: int = 8
    """Samples for each of them."""
    checkpoint_every: int = 50
    """Steps between checkpoints; 0 writes one at the end alone."""
    trace_every: int = 25
    """Steps between batches whose trajectories are written to traces.jsonl, the first batch included; 0 writes none."""
    device: str = "cpu"
    """A torch device."""

    def __post_init__(self) -> None:
        """Refuses what cannot work, and says what to change."""
        least = {
            "steps": 0, "prompts_per_step": 1, "samples_per_prompt": 1, "updates_per_batch": 1, "micro_batch_size": 1,
            "eval_tasks": 1, "eval_samples": 1, "warmup_steps": 0, "dynamic_sampling": 0, "overlong_buffer": 0,
            "eval_every": 0, "checkpoint_every": 0, "trace_every": 0,
        }  # fmt: skip
        for name, value in least.items():
            if getattr(self, name) < value:
                raise ConfigurationError(f"{name} must be at least {value}, got {getattr(self, name)}.")
        for name in ("solo_share", "final_solo_share"):
            share = getattr(self, name)
            if share is not None and not 0 <= share <= 1:
                raise ConfigurationError(f"{name} is a share between 0 and 1, got {share}.")
        if self.samples_per_prompt < 2:
            raise ConfigurationError(
                "a group needs at least 2 samples, or every advantage is 0; raise samples_per_prompt."
            )
        if self.sampling.temperature == 0:
            raise ConfigurationError("training samples: temperature must be above 0 (1.0 if in doubt).")
        if self.sampling.top_p < 1:
            raise ConfigurationError(
                "training needs top_p=1: tokens that truncation makes impossible have no log-probability under the sampler."
            )
        if not self.learning_rate > 0 or not self.max_grad_norm > 0 or not 0 <= self.final_learning_rate <= 1:
            raise ConfigurationError(
                "learning_rate and max_grad_norm must be above 0 and final_learning_rate between 0 and 1; got "
                f"{self.learning_rate}, {self.max_grad_norm} and {self.final_learning_rate}."
            )
        if self.overlong_buffer > self.sampling.max_tokens:
            raise ConfigurationError("overlong_buffer must fit into sampling.max_tokens.")

    def num_solo(self, step: int) -> int:
        """Rollouts of each group that get no help in the step after `step` finished ones."""
        final = self.solo_share if self.final_solo_share is None else self.final_solo_share
        progress = min(1.0, step / max(1, self.steps - 1))
        return round((self.solo_share + (final - self.solo_share) * progress) * self.samples_per_prompt)

    @property
    def ever_assisted(self) -> bool:
        """Whether any rollout of the run gets help."""
        return min(self.num_solo(0), self.num_solo(max(0, self.steps - 1))) < self.samples_per_prompt
