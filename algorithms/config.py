"""Configuration of the objective: plain data, importable without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal

from aipo_env.advantages import AdvantageEstimator, AgentBaseline, PolicyBaseline
from aipo_env.errors import ConfigurationError
from aipo_env.field_types import check_choice, check_fields

Algorithm = Literal["group_mean", "grpo", "dr_grpo", "dapo", "rloo", "reinforce_baseline", "gspo", "cispo"]
RatioLevel = Literal["token", "sequence"]
Surrogate = Literal["clip", "cispo"]
Aggregation = Literal["token_mean", "sequence_mean", "constant_length"]
AgentNormalizer = Literal["policy_tokens", "agent_tokens"]


@dataclass(frozen=True)
class PolicyRule:
    """What an RLVR algorithm does with POLICY tokens: the five choices in which the algorithms differ."""

    advantage: AdvantageEstimator
    """How rewards of a group become advantages (`aipo_env/advantages.py`)."""
    ratio: RatioLevel
    """Whether pi / pi_old is taken per token or as the geometric mean over a sequence's POLICY tokens."""
    surrogate: Surrogate
    """`clip`: min(r A, clip(r) A). `cispo`: sg(clip(r)) A log pi."""
    clip_low: float
    """The ratio's lower bound is 1 - clip_low."""
    clip_high: float
    """The ratio's upper bound is 1 + clip_high."""
    aggregation: Aggregation
    """How per-token losses become one number (`docs/objective.md`, "Aggregation")."""


PRESETS: dict[Algorithm, PolicyRule] = {
    "group_mean": PolicyRule("mean", "token", "clip", 0.2, 0.28, "token_mean"),
    "grpo": PolicyRule("mean_std", "token", "clip", 0.2, 0.2, "sequence_mean"),
    "dr_grpo": PolicyRule("mean", "token", "clip", 0.2, 0.2, "constant_length"),
    "dapo": PolicyRule("mean_std", "token", "clip", 0.2, 0.28, "token_mean"),
    "rloo": PolicyRule("leave_one_out", "token", "clip", 0.2, 0.2, "token_mean"),
    "reinforce_baseline": PolicyRule("mean_whitened", "token", "clip", 0.2, 0.2, "token_mean"),
    "gspo": PolicyRule("mean_std", "sequence", "clip", 3e-4, 4e-4, "sequence_mean"),
    "cispo": PolicyRule("mean_std", "token", "cispo", 1.0, 4.0, "token_mean"),
}
"""A rule per algorithm. `group_mean`, the default, is Dr.GRPO's advantage with DAPO's clip and token mean."""

_SHARED = frozenset({"agent_weight", "agent_normalizer", "agent_baseline", "self_imitation"})
_AGENT_FIELDS = _SHARED | {"c_min", "c_max", "delta", "luffy_gamma"}

AGENT_LOSS_FIELDS: dict[str, frozenset[str]] = {
    "mask": frozenset(),
    "clone": _SHARED | {"delta"},
    "is": _SHARED,
    "luffy": _SHARED | {"luffy_gamma"},
    "aipo": _SHARED | {"c_min", "c_max", "delta"},
}
"""The agent fields that each `agent_loss` reads; a loss that reads `delta` has the trust region."""


def declare_agent_loss(name: str) -> None:
    """Makes `name` a valid `agent_loss` that may read every agent field.

    Called by `algorithms.objective.register_agent_coefficient`, which also stores the function.
    """
    if name in AGENT_LOSS_FIELDS:
        raise ConfigurationError(
            f"agent_loss name must be new, but {name!r} is already registered; choose another name"
        )
    AGENT_LOSS_FIELDS[name] = _AGENT_FIELDS


@dataclass(frozen=True)
class ObjectiveConfig:
    """Every choice of the objective in `docs/objective.md`; the defaults are the project's own objective."""

    algorithm: Algorithm = "group_mean"
    """Preset for the POLICY tokens: a row of `PRESETS`. The next six fields override single entries of it."""
    advantage: AdvantageEstimator | None = None
    """Overrides the preset's advantage estimator."""
    ratio: RatioLevel | None = None
    """Overrides the preset's ratio level."""
    surrogate: Surrogate | None = None
    """Overrides the preset's surrogate."""
    clip_low: float | None = None
    """Overrides the preset's lower clip: the ratio is at least 1 - clip_low. In [0, 1]."""
    clip_high: float | None = None
    """Overrides the preset's upper clip: the ratio is at most 1 + clip_high. At least 0; `inf` removes it."""
    aggregation: Aggregation | None = None
    """Overrides the preset's aggregation."""
    constant_length: int | None = None
    """Tokens per sequence in the divisor of `constant_length` (Dr.GRPO: the longest allowed response)."""
    policy_baseline: PolicyBaseline = "mode"
    """What a rollout's reward is compared with for POLICY tokens. `mode`: the rollouts of the same prompt and the same mode,
    assisted or solo. `group`: all rollouts of the prompt."""
    agent_loss: str = "aipo"
    """Term for AGENT tokens: `aipo`, `mask`, `clone`, `is`, `luffy`, or a registered name."""
    agent_weight: float = 1.0
    """lambda: weight of the AGENT term. At least 0."""
    agent_normalizer: AgentNormalizer = "policy_tokens"
    """Divisor of the AGENT term. `policy_tokens`: an AGENT token weighs as much as an average POLICY token.
    `agent_tokens`: the mean over AGENT tokens, so the term's size does not depend on how often help is
    asked."""
    agent_baseline: AgentBaseline = "none"
    """What a reply's reward is compared with. `none`: nothing, so that A is the outcome, or 0 if that is negative. `solo`: the
    mean of the group's solo rollouts, which is what the policy gets without help; the group's mean where it has none. `group`:
    the mean of all rollouts of the prompt."""
    self_imitation: float = 1.0
    """How much an assisted rollout's outcome, where positive, is added to the advantage of its POLICY tokens: the policy also
    learns to write what it did itself in episodes that help brought to a right answer. At least 0. Not read by `mask`."""
    c_min: float = 1.0
    """Floor of pi / mu where A > 0. At least 0. Read by `aipo`."""
    c_max: float = 2.0
    """Cap of pi / mu. At least c_min; `inf` removes it. Read by `aipo`."""
    delta: float = 0.2
    """Trust region: an AGENT token gets no gradient once pi moved by more than delta in the direction of A.
    Above 0; `inf` removes it. Read by `aipo`, `clone` and registered coefficients."""
    luffy_gamma: float = 0.1
    """gamma of f(pi) = pi / (pi + gamma). Above 0. Read by `luffy`."""
    kl_coef: float = 0.0
    """Weight of the KL penalty to the reference model, on POLICY tokens only. At least 0."""
    rollout_clip: tuple[float, float] | None = None
    """Bounds (low, high) of the detached factor clip(pi_old / pi_rollout) on POLICY tokens, which corrects a
    sampler whose probabilities differ from the trainer's. None: no correction; (0, 2) where vLLM samples for `aipo train`."""

    @property
    def policy_rule(self) -> PolicyRule:
        """The preset with this config's overrides applied."""
        preset = PRESETS[self.algorithm]
        own = {field.name: getattr(self, field.name) for field in fields(PolicyRule)}
        return replace(preset, **{name: value for name, value in own.items() if value is not None})

    @property
    def imitation(self) -> float:
        """`self_imitation`, or 0 where replies are masked."""
        return self.self_imitation if "self_imitation" in AGENT_LOSS_FIELDS[self.agent_loss] else 0.0

    @property
    def has_trust_region(self) -> bool:
        """Whether this config's AGENT term reads `delta`."""
        return "delta" in AGENT_LOSS_FIELDS[self.agent_loss]

    def with_agent_loss(self, agent_loss: str) -> ObjectiveConfig:
        """A copy with another AGENT term; fields which that term does not read return to their defaults.

        Use it to run the variants beside each other: setting `agent_loss` alone is refused where a field that
        was set (say `c_min`) would no longer be read.
        """
        check_choice("agent_loss", agent_loss, AGENT_LOSS_FIELDS, hint=_REGISTER_HINT)
        unread = _AGENT_FIELDS - AGENT_LOSS_FIELDS[agent_loss]
        defaults = {field.name: field.default for field in fields(self) if field.name in unread}
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return ObjectiveConfig(**{**values, **defaults, "agent_loss": agent_loss})

    def __post_init__(self) -> None:
        """Refuses values that are out of range and settings that would be read by nobody."""
        check_fields(self)
        check_choice("agent_loss", self.agent_loss, AGENT_LOSS_FIELDS, hint=_REGISTER_HINT)
        rule = self.policy_rule
        infinity = float("inf")
        for name, value, holds, expected, fix in (
            ("clip_low", rule.clip_low, 0 <= rule.clip_low <= 1, "in [0, 1]", "1 removes the bound"),
            ("clip_high", rule.clip_high, rule.clip_high >= 0, "at least 0", "infinity removes the bound"),
            ("agent_weight", self.agent_weight, 0 <= self.agent_weight < infinity, "finite and at least 0", _MASK),
            (
                "self_imitation",
                self.self_imitation,
                0 <= self.self_imitation < infinity,
                "finite and at least 0",
                "try 1",
            ),
            ("c_min", self.c_min, 0 <= self.c_min < infinity, "finite and at least 0", "0 removes the floor"),
            ("c_max", self.c_max, self.c_max > 0, "above 0", "infinity removes the cap"),
            ("c_max", self.c_max, self.c_max >= self.c_min, f"at least c_min={self.c_min}", "raise it"),
            ("delta", self.delta, self.delta > 0, "above 0", "infinity removes the trust region"),
            ("luffy_gamma", self.luffy_gamma, 0 < self.luffy_gamma < infinity, "finite and above 0", "try 0.1"),
            ("kl_coef", self.kl_coef, 0 <= self.kl_coef < infinity, "finite and at least 0", "0 switches it off"),
        ):
            if not holds:
                raise ConfigurationError(f"{name} must be {expected}, but it is {value!r}; {fix}")
        if self.rollout_clip is not None and not 0 <= self.rollout_clip[0] <= 1 <= self.rollout_clip[1]:
            raise ConfigurationError(
                "rollout_clip must be (low, high) with 0 <= low <= 1 <= high, but it is "
                f"{self.rollout_clip!r}; try (0.5, 2.0), or None to switch it off"
            )
        if rule.aggregation == "constant_length" and self.constant_length is None:
            raise ConfigurationError(
                "constant_length must be set for aggregation='constant_length' (the preset of 'dr_grpo'), "
                "but it is None; set it to the longest allowed response, or set aggregation='token_mean'"
            )
        if self.constant_length is not None:
            if self.constant_length < 1:
                raise ConfigurationError(
                    f"constant_length must be at least 1, but it is {self.constant_length}; set it to the "
                    "longest allowed response"
                )
            if rule.aggregation != "constant_length":
                raise ConfigurationError(
                    f"constant_length={self.constant_length} is read by aggregation='constant_length' only, "
                    f"but the aggregation is {rule.aggregation!r}; leave it out, or set the aggregation"
                )
        for field in fields(self):
            unread = field.name in _AGENT_FIELDS - AGENT_LOSS_FIELDS[self.agent_loss]
            if unread and getattr(self, field.name) != field.default:
                raise ConfigurationError(
                    f"{field.name} is not read by agent_loss={self.agent_loss!r}, but it is set to "
                    f"{getattr(self, field.name)!r}; leave it out, or derive the variant with "
                    "config.with_agent_loss(...)"
                )


OWN_FIELDS = (
    *("policy_baseline", "agent_loss", "agent_weight", "agent_normalizer", "agent_baseline", "self_imitation"),
    *("c_min", "c_max", "delta", "luffy_gamma"),
)
"""The fields of `ObjectiveConfig` that are ours in every trainer; its own settings stand for all others."""


def check_own_fields(config: ObjectiveConfig, instead: str) -> None:
    """Refuses an objective of which a trainer with a POLICY loss of its own would not read a field.

    Args:
        config: the objective.
        instead: what decides, and what to do.

    Raises:
        ConfigurationError: a field outside `OWN_FIELDS` is set, or the AGENT term's divisor is a count that others do not make.
    """
    for field in fields(config):
        if field.name not in OWN_FIELDS and getattr(config, field.name) != field.default:
            raise ConfigurationError(
                f"{field.name} is not read here, but it is set to {getattr(config, field.name)!r}: {instead}"
            )
    if config.agent_normalizer != "policy_tokens":
        raise ConfigurationError(
            "agent_normalizer must be 'policy_tokens' here, because the trainer counts the policy's own tokens of an optimizer "
            f"step and no others, but it is {config.agent_normalizer!r}; leave it out and scale agent_weight instead"
        )


def check_modes(
    config: ObjectiveConfig,
    num_samples: int,
    solo: int,
    names: Sequence[str] = ("samples_per_prompt", "solo_share", "objective.policy_baseline"),
) -> None:
    """Refuses groups in which a mode has a single rollout, with nothing of its mode to be compared with.

    Args:
        config: of the run.
        num_samples: in a group.
        solo: of them without help.
        names: what the options are called where they are set.

    Raises:
        ConfigurationError: the advantage of its POLICY tokens would always be 0.
    """
    if config.policy_baseline == "mode" and num_samples > 1 and 1 in (solo, num_samples - solo):
        raise ConfigurationError(
            f"{names[2]} 'mode' compares a rollout with those of the same prompt and mode, but of {names[0]} {num_samples} "
            f"samples {solo} is solo and {num_samples - solo} assisted: where a mode has one, its POLICY tokens' advantage "
            f"would always be 0. Raise {names[0]} (8 to 16 are usual), set another {names[1]}, or say {names[2]} group"
        )


_REGISTER_HINT = "a coefficient of your own is first registered with register_agent_coefficient"
_MASK = "use agent_loss='mask' to switch the AGENT term off"
