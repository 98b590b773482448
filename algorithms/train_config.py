"""Configuration of rollouts and of training: plain data, importable without torch."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Annotated, Any, Literal

from aipo_agents.backends.redaction import check_base_url
from aipo_env.errors import ConfigurationError
from aipo_env.field_types import check_fields
from aipo_env.groups import num_solo
from aipo_env.make_options import Options
from aipo_env.parsing import TABLE
from aipo_env.tasks.curriculum import CurriculumName
from algorithms.config import ObjectiveConfig, check_modes

Dtype = Literal["auto", "float32", "bfloat16"]
ReplyCredit = Literal["trajectory", "branch"]
HelperReward = Literal["team", "marginal", "learnable", "lookahead", "verdict"]
OptimizerName = Literal["adamw", "adamw8bit", "adamw8bit_stochastic"]


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
        check_fields(self)
        if (
            not 0 <= self.temperature < math.inf
            or not 0 < self.top_p <= 1
            or self.max_tokens < 1
            or self.batch_size < 1
        ):
            raise ConfigurationError(
                "sampling needs temperature >= 0, 0 < top_p <= 1, max_tokens >= 1 and batch_size >= 1; got "
                f"temperature={self.temperature}, top_p={self.top_p}, max_tokens={self.max_tokens}, "
                f"batch_size={self.batch_size}."
            )


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """Adapters of a low rank that are trained in place of the policy's weights (`algorithms.policies.adapters`)."""

    rank: int = 0
    """Of the adapters; 0 for none: all weights are trained."""
    alpha: int | None = None
    """The adapters' product counts alpha / rank times; None for twice the rank."""
    targets: tuple[str, ...] = ("all-linear",)
    """The layers that get one, by the ends of their names; "all-linear" is all but the output layer."""
    merge: bool = False
    """Writes the policies of the run whole, the adapter added to the weights, and not as adapters."""

    def __post_init__(self) -> None:
        """Refuses what cannot work, and what would have no effect."""
        check_fields(self)
        if self.rank < 0 or not self.targets or (self.alpha is not None and self.alpha < 1):
            raise ConfigurationError(
                f"lora needs rank >= 0, alpha >= 1 and targets; got {self.rank}, {self.alpha} and {self.targets}."
            )
        if self.rank == 0 and (self.alpha is not None or self.targets != ("all-linear",) or self.merge):
            raise ConfigurationError(
                "lora.alpha, lora.targets and lora.merge need an adapter: set lora.rank, 16 if in doubt."
            )

    @property
    def scale(self) -> int:
        """The adapters' alpha."""
        return 2 * self.rank if self.alpha is None else self.alpha


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """One training run on one machine."""

    env: str = "rulebook-consult"
    """Environment id, or "module:TaskFamily" or "module:ID" of your own; solo rollouts have the same tasks and prompt."""
    env_options: Options = dataclasses.field(default_factory=Options)
    """Options of `aipo_env.make` (level, max_consults, prompt, data, ...): those that can be written down."""
    eval_env: str | None = None
    """Environment id of the evaluations; None for the split "test" of `env`. Rules among `env_options` hold there too."""
    eval_options: Options = dataclasses.field(default_factory=Options)
    """Options that differ for the evaluations (data, level, ...)."""
    allow_test_split: bool = False
    """Trains even on a split that is for evaluation."""
    agents: tuple[str, ...] = ()
    """The helpers, each "name", "name=package.module:Class" or "name=path/to/policy"; empty for the environment's default."""
    policy: str = "embedded"
    """ "embedded" (it reads digits, A to X, `@#~&` and `+;=` alone), "smollm2", or a directory or hub id that `transformers`
    loads."""
    dtype: Dtype = "auto"
    """Of the policy's weights. "bfloat16" keeps fp32 masters, which AdamW moves. "auto" is "bfloat16" on GPUs for policies of
    ten million parameters and more, and "float32" else."""
    optimizer: OptimizerName = "adamw"
    """ "adamw8bit" keeps its moments in 8 bits. "adamw8bit_stochastic" has no masters beside: it rounds bf16 weights up or down
    by chance, so that small steps count on the mean."""
    recompute: bool = False
    """Keeps the inputs of layers alone and computes them a second time in the backward pass: less memory, a third more time."""
    lora: LoraConfig = dataclasses.field(default_factory=LoraConfig)
    """Adapters in place of the policy's weights."""
    out: Path = Path("runs/train")
    """Folder of metrics, traces, checkpoints and the trained policy."""
    seed: int = 0
    """Decides the tasks, the sampling and the helpers' seeds."""
    steps: int = 100
    """Optimizer batches."""
    curriculum: CurriculumName = "uniform"
    """The prompts that are drawn. "hard": those that the policy solves alone at most at `max_solo_rate`; "frontier": half of
    them such that are solved with help at a higher rate. Both go by the run's own rollouts, and by `rates` before."""
    max_solo_rate: float = 0.2
    """The solo pass rate up to which a curriculum takes a prompt for a hard one."""
    rates: Path | None = None
    """The results.json of an `aipo eval` of the training tasks, for a curriculum."""
    prompts_per_step: int = 32
    """Groups in a batch."""
    samples_per_prompt: int = 8
    """Rollouts in a group."""
    solo_share: float = 0.5
    """Share of each group that is rolled out without help. 1 trains without helpers at all."""
    final_solo_share: float | None = None
    """The share at the last step, reached linearly: 1 takes the help away by and by. None keeps `solo_share`. On the way, where
    baselines are by mode, a step that would leave a mode a single rollout gives that one to the other mode."""
    objective: ObjectiveConfig = dataclasses.field(default_factory=ObjectiveConfig)
    """What is maximised."""
    reply_credit: ReplyCredit = "trajectory"
    """What a reply is credited with: "trajectory", what its episode earned; "branch", what of that it does not earn where
    the question stays without a reply (`algorithms.reply_credit`). That costs rollouts, which count, and train nobody."""
    branch_continuations: int = 1
    """With "branch", how often an episode that earned something is played on without each of its replies."""
    sampling: SamplingConfig = dataclasses.field(default_factory=SamplingConfig)
    """How rollouts are sampled; the learner uses the same temperature."""
    sampler: str = "local"
    """What samples: "local", the model that is trained; "vllm", an engine in this process; or the address of a vLLM server that
    takes weights (`aipo_agents.backends.TrainableServer`). All but "local" get the weights after each step, and
    `objective.rollout_clip` is (0, 2) for them where it is None."""
    engine_args: Annotated[dict[str, int | float | bool | str], TABLE] = dataclasses.field(default_factory=dict)
    """With "vllm", arguments of vllm.EngineArgs, such as `{"gpu_memory_utilization": 0.5}`."""
    learning_rate: float | None = None
    """AdamW's peak learning rate. None: 3e-4 for policies of fewer than ten million parameters, as the embedded one, and 1e-6,
    which is usual for language models, for larger ones; of adapters ten times as much."""
    warmup_steps: int = 10
    """Steps over which the learning rate rises from 0."""
    final_learning_rate: float = 0.3
    """Share of the peak at which a linear decay over all `steps` ends; 1 keeps it constant."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's decay rates."""
    weight_decay: float = 0.0
    """AdamW's decoupled weight decay."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm."""
    updates_per_batch: int = 2
    """Optimizer steps on one batch of rollouts."""
    micro_batch_size: int = 64
    """Sequences in one forward and backward pass; changes memory and speed, not the result."""
    packing: bool = False
    """Puts several sequences into one row. `micro_batch_size` then counts rows, each with room for the longest sequence of the
    batch: tokens in a pass are at most so many times its length. Refused where a probe finds that the model does not keep the
    sequences of a row apart."""
    dynamic_sampling: int = 0
    """DAPO: draws up to this many further batches of prompts until all groups have differing rewards. 0: off."""
    overlong_buffer: int = 0
    """DAPO: tokens before `sampling.max_tokens` at which the soft penalty on length sets in. 0: off."""
    eval_every: int = 50
    """Steps between evaluations on the test tasks; 0 evaluates before the first step and after the last alone."""
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
        check_fields(self)
        least = {
            "steps": 0, "prompts_per_step": 1, "samples_per_prompt": 1, "updates_per_batch": 1, "micro_batch_size": 1,
            "eval_tasks": 1, "eval_samples": 1, "warmup_steps": 0, "dynamic_sampling": 0, "overlong_buffer": 0,
            "eval_every": 0, "checkpoint_every": 0, "trace_every": 0, "branch_continuations": 1,
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
        rate = 1.0 if self.learning_rate is None else self.learning_rate
        if not 0 < rate < math.inf or not self.max_grad_norm > 0 or not 0 <= self.final_learning_rate <= 1:
            raise ConfigurationError(
                "learning_rate and max_grad_norm must be above 0 and final_learning_rate between 0 and 1; got "
                f"{self.learning_rate}, {self.max_grad_norm} and {self.final_learning_rate}."
            )
        if not all(0 <= beta < 1 for beta in self.betas) or not 0 <= self.weight_decay < math.inf:
            raise ConfigurationError(
                f"betas must be at least 0 and below 1, and weight_decay at least 0; got {self.betas} and {self.weight_decay}."
            )
        if self.optimizer == "adamw8bit_stochastic" and (self.dtype == "float32" or self.lora.rank):
            raise ConfigurationError(
                'optimizer="adamw8bit_stochastic" is for bf16 weights without masters, and dtype="float32" has none, nor have '
                'adapters, which are fp32. Take optimizer="adamw8bit", or leave out the other.'
            )
        if "/" in self.sampler:
            check_base_url(self.sampler, "sampler")
        elif self.sampler not in ("local", "vllm"):
            raise ConfigurationError(
                f'sampler is "local", "vllm" or the address of a vLLM server, got {self.sampler!r}.'
            )
        if self.engine_args and self.sampler != "vllm":
            raise ConfigurationError(f'engine_args are for sampler="vllm", and it is {self.sampler!r}; leave them out.')
        if taken := {"model", "name"} & self.engine_args.keys():
            raise ConfigurationError(f"engine_args may not hold {min(taken)}: the engine's model is the policy.")
        if self.sampler == "vllm" and self.device.partition(":")[2] not in ("", "0"):
            raise ConfigurationError(
                f'sampler="vllm" takes the first GPU that it sees, and device is {self.device!r}. Set '
                f'CUDA_VISIBLE_DEVICES={self.device.partition(":")[2]} and device="cuda".'
            )
        if self.overlong_buffer > self.sampling.max_tokens:
            raise ConfigurationError("overlong_buffer must fit into sampling.max_tokens.")
        if self.curriculum == "uniform" and (self.rates is not None or self.max_solo_rate != 0.2):
            raise ConfigurationError(
                'rates= and max_solo_rate are for curriculum="hard" or "frontier"; leave them out.'
            )
        if not 0 <= self.max_solo_rate < 1:
            raise ConfigurationError(f"max_solo_rate is at least 0 and below 1, got {self.max_solo_rate}.")
        needs_solo, needs_help = self.curriculum != "uniform", self.curriculum == "frontier"
        if (needs_solo and not self.num_solo(0)) or (needs_help and not self.ever_assisted):
            raise ConfigurationError(
                f"curriculum={self.curriculum!r} goes by rollouts alone{' and with help' if needs_help else ''}, and "
                f"solo_share={self.solo_share} has none of a kind. Choose another solo_share or curriculum."
            )
        if self.reply_credit == "branch":
            if not self.ever_assisted or self.objective.agent_loss == "mask":
                raise ConfigurationError(
                    f'reply_credit="branch" is for replies that are learnt, and with solo_share={self.solo_share} and '
                    f"agent_loss={self.objective.agent_loss!r} none is; leave it out, or change these."
                )
            if self.objective.agent_baseline != "none":
                raise ConfigurationError(
                    'reply_credit="branch" compares a reply with the episode without it and has no other baseline: leave '
                    f'objective.agent_baseline at "none", it is {self.objective.agent_baseline!r}.'
                )
        elif self.branch_continuations != 1:
            raise ConfigurationError(
                'branch_continuations is for reply_credit="branch"; leave it out, or set that too.'
            )
        for share in (self.solo_share, self._final_share):
            check_modes(self.objective, self.samples_per_prompt, num_solo(share, self.samples_per_prompt))

    def num_solo(self, step: int) -> int:
        """Rollouts of each group that get no help in the step after `step` finished ones."""
        progress, size = min(1.0, step / max(1, self.steps - 1)), self.samples_per_prompt
        solo = num_solo(self.solo_share + (self._final_share - self.solo_share) * progress, size)
        if self.objective.policy_baseline == "mode" and 1 in (solo, size - solo):
            # Only between the ends of a schedule: they are refused where this would be so.
            return 0 if solo == 1 else size
        return solo

    @property
    def comparison(self) -> dict[str, Any]:
        """How `aipo_env.advantages.sample_advantages` compares the rollouts of a batch."""
        objective = self.objective
        return {
            "estimator": objective.policy_rule.advantage,
            "policy_baseline": objective.policy_baseline,
            "agent_baseline": objective.agent_baseline,
            "self_imitation": objective.imitation,
            "overlong": (self.sampling.max_tokens, self.overlong_buffer) if self.overlong_buffer else None,
        }

    @property
    def ever_assisted(self) -> bool:
        """Whether any rollout of the run gets help."""
        return min(self.num_solo(0), self.num_solo(max(0, self.steps - 1))) < self.samples_per_prompt

    @property
    def _final_share(self) -> float:
        return self.solo_share if self.final_solo_share is None else self.final_solo_share


@dataclasses.dataclass(frozen=True)
class HelperConfig:
    """How a helper is trained beside the policy, or for one.

    Of the run's options its own are those of optimizer, precision, adapters, evaluation and files, and of the objective
    algorithm, constant_length and kl_coef; what is said of the policy's rollouts is not for it. It uses a batch once.
    """

    train_helper: str | None = None
    """The helper that is trained, such as "knowledge"."""
    helper_policy: str = "embedded"
    """What it begins with: as for `policy`."""
    helper_replies: int = 8
    """Replies to each query that are compared."""
    helper_queries: int = 16
    """Queries of a step, of a task each."""
    helper_max_tokens: int = 128
    """Tokens of a reply."""
    helper_reward: HelperReward = "team"
    """ "team": what the episode earns that is played on behind the reply. "marginal": that, less what the policy earns alone on
    the task; nothing where that is 0.9 or more. "learnable": as "team", less for replies that the policy is less likely to
    write itself. "lookahead": as "team", times how much an update on the reply makes other right episodes likelier.
    "verdict", for verify: whether it is the embedded helper's."""
    helper_steps: int | None = None
    """Steps of the helper; as many as the policy's if left out."""
    helper_phase: str = "frozen"
    """ "frozen": the helper alone is trained, for the policy as it is. "alternate:20": 20 steps of the helper, then 20 of the
    policy, and so on."""

    def __post_init__(self) -> None:
        """Refuses what cannot be trained."""
        check_fields(self)
        others = {field.name for field in dataclasses.fields(self)} - {"train_helper"}
        if self.train_helper is None and (
            given := sorted(n for n in others if getattr(self, n) != getattr(type(self), n))
        ):
            raise ConfigurationError(f'{given[0]} is for a helper that is trained: name it, train_helper="knowledge".')
        if self.helper_steps is not None and self.helper_steps < 0:
            raise ConfigurationError(f"helper_steps must be at least 0, got {self.helper_steps}.")
        for name in ("helper_replies", "helper_queries", "helper_max_tokens"):
            if getattr(self, name) < 1 + (name == "helper_replies"):
                raise ConfigurationError(
                    f"{name} is at least {1 + (name == 'helper_replies')}, got {getattr(self, name)}."
                )
        kind, _, number = self.helper_phase.partition(":")
        if self.helper_phase != "frozen" and (kind != "alternate" or not number.isdecimal() or int(number) < 1):
            raise ConfigurationError(
                f'helper_phase is "frozen" or "alternate:20" with a number of steps, got {self.helper_phase!r}.'
            )
        if self.helper_reward == "verdict" and self.train_helper != "verify":
            raise ConfigurationError(f'helper_reward="verdict" is for "verify", and {self.train_helper!r} is trained.')

    @property
    def every(self) -> int | None:
        """Steps of a phase; None where the policy stays as it is."""
        return None if self.helper_phase == "frozen" else int(self.helper_phase.partition(":")[2])
