"""The AIPO-style objective: an RLVR surrogate on the policy's own tokens, plus a term on the helpers' tokens.

    J = (1/N_P) sum over POLICY tokens of the algorithm's clipped surrogate
      + (lambda/N_A) sum over AGENT tokens of  M_t * sg(w_t) * A * log pi(a_t)
    w_t = clip(pi(a_t) / mu(a_t), c_min if A > 0 else 0, c_max)
    M_t = 0 if A * (pi - pi_old) > 0 and |pi - pi_old| > delta else 1

The loss is -J. `docs/objective.md` derives it, lists every variant and says what the divisors N_P and N_A
are. All functions are pure; tokens of many sequences lie flat in one row, so packing and padding cannot
change a number.

Dimensions: T packed tokens, P the POLICY tokens among them, A the AGENT tokens among them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from aipo_env.errors import ConfigurationError
from aipo_env.trajectory import Source
from algorithms.config import ObjectiveConfig, declare_agent_loss

PADDING = -1
"""Source of a row that is no token; any value outside `Source` does. No loss, no gradient, no count."""

COEFFICIENT_EDGES = (0.0, 1e-4, 1e-2, 0.1, 0.5, 1.0, 1.5, 2.0)
"""Where the bins of `agent/coefficient_from/*` begin; each ends where the next begins, and the last has no end."""

_MAX_LOG_RATIO = 20.0  # keeps exp() finite; e^20 is far outside every clip


@dataclass(frozen=True)
class Normalizer:
    """Counts of the whole optimizer batch, which every micro-batch and every rank divides by.

    With the same normalizer the losses (and gradients) of the parts of a batch add up to those of the whole.
    Where a framework averages gradients over ranks, multiply the loss by the number of ranks.
    """

    num_policy_tokens: int
    """POLICY tokens."""
    num_agent_tokens: int
    """AGENT tokens."""
    num_sequences: int
    """Sequences with at least one POLICY token."""

    def __add__(self, other: Normalizer) -> Normalizer:
        """Counts of two parts of a batch that share no sequence."""
        return Normalizer(
            self.num_policy_tokens + other.num_policy_tokens,
            self.num_agent_tokens + other.num_agent_tokens,
            self.num_sequences + other.num_sequences,
        )


def batch_normalizer(sources_T: Int[Tensor, " tokens"], sequence_ids_T: Int[Tensor, " tokens"]) -> Normalizer:
    """Counts what `objective_loss` divides by.

    Args:
        sources_T: a `Source` per token; other values are padding.
        sequence_ids_T: which sequence a token belongs to; any integers.
    """
    policy_T = sources_T == Source.POLICY
    return Normalizer(
        num_policy_tokens=int(policy_T.sum()),
        num_agent_tokens=int((sources_T == Source.AGENT).sum()),
        num_sequences=torch.unique(sequence_ids_T[policy_T]).numel(),
    )


@dataclass(frozen=True)
class ObjectiveOutput:
    """What one call of `objective_loss` returns."""

    loss: Float[Tensor, ""]
    """-J, differentiable even where no row bears loss."""
    sums: dict[str, Float[Tensor, ""]]
    """Detached sums from which metrics are made; they add up over micro-batches and ranks."""

    @property
    def metrics(self) -> dict[str, float]:
        """Readable metrics of this call alone (see `combine_metrics`)."""
        return combine_metrics([self.sums])


def combine_metrics(parts: Iterable[dict[str, Tensor]]) -> dict[str, float]:
    """Turns the `sums` of the parts of a batch into metrics of the batch.

    `tokens/*` are counts and `loss/*` the two terms as they enter the loss; `policy/*` and `agent/*` are
    means over the tokens of that source, and are left out where there is none. Reading them waits for the
    device.
    """
    totals: dict[str, float] = {}
    for part in parts:
        for name, value in part.items():
            totals[name] = totals.get(name, 0.0) + float(value)
    metrics = {}
    for name, total in totals.items():
        family = name.split("/")[0]
        if family not in ("policy", "agent"):
            metrics[name] = total
        elif count := totals[f"tokens/{family}"]:
            metrics[name] = total / count
    return metrics


@dataclass(frozen=True)
class AgentTokens:
    """What the coefficient of AGENT tokens may depend on; every tensor is detached."""

    logprobs_A: Float[Tensor, " agent"]
    """log pi of the current policy."""
    old_logprobs_A: Float[Tensor, " agent"]
    """log pi of the policy at the start of the inner updates."""
    mu_logprobs_A: Float[Tensor, " agent"]
    """log mu of the helper; 0.0 where it is unknown."""
    advantages_A: Float[Tensor, " agent"]
    """The advantage of the token's trajectory."""


AgentCoefficient = Callable[[AgentTokens, ObjectiveConfig], Tensor]
"""Maps AGENT tokens to one weight each: the w_t of the formula. It is detached by the caller."""


def _zero(tokens: AgentTokens, config: ObjectiveConfig) -> Tensor:
    return torch.zeros_like(tokens.logprobs_A)


def _one(tokens: AgentTokens, config: ObjectiveConfig) -> Tensor:
    return torch.ones_like(tokens.logprobs_A)


def _importance_ratio(tokens: AgentTokens, config: ObjectiveConfig) -> Tensor:
    return (tokens.logprobs_A - tokens.mu_logprobs_A).clamp(max=_MAX_LOG_RATIO).exp()


def _one_sided_clip(tokens: AgentTokens, config: ObjectiveConfig) -> Tensor:
    floor_A = config.c_min * (tokens.advantages_A > 0).to(tokens.logprobs_A.dtype)
    return _importance_ratio(tokens, config).maximum(floor_A).clamp(max=config.c_max)


def _luffy_slope(tokens: AgentTokens, config: ObjectiveConfig) -> Tensor:
    # f(pi) = pi / (pi + gamma) = sigmoid(log pi - log gamma), so d f / d log pi = f (1 - f).
    shaped_A = torch.sigmoid(tokens.logprobs_A - _log(config.luffy_gamma, tokens.logprobs_A))
    return shaped_A * (1 - shaped_A)


_AGENT_COEFFICIENTS: dict[str, AgentCoefficient] = {
    "mask": _zero,
    "clone": _one,
    "is": _importance_ratio,
    "luffy": _luffy_slope,
    "aipo": _one_sided_clip,
}


def register_agent_coefficient(name: str, coefficient: AgentCoefficient) -> None:
    """Makes `ObjectiveConfig(agent_loss=name)` use your own coefficient for AGENT tokens.

    The term is M_t * sg(coefficient) * A * log pi, with the config's trust region (`delta=float("inf")`
    removes it).

    Args:
        name: a new name.
        coefficient: called with the AGENT tokens of one micro-batch, returns one weight per token.

    Raises:
        ConfigurationError: the name is taken.
    """
    declare_agent_loss(name)
    _AGENT_COEFFICIENTS[name] = coefficient


def agent_coefficient(tokens: AgentTokens, config: ObjectiveConfig) -> Tensor:
    """The coefficient w_t of each AGENT token, detached, before the trust region.

    Args:
        tokens: all that it may depend on.
        config: names the coefficient and holds its bounds.
    """
    return _AGENT_COEFFICIENTS[config.agent_loss](tokens, config).detach()


def objective_loss(
    logprobs_T: Float[Tensor, " tokens"],
    old_logprobs_T: Float[Tensor, " tokens"] | None,
    advantages_T: Float[Tensor, " tokens"],
    sources_T: Int[Tensor, " tokens"],
    mu_logprobs_T: Float[Tensor, " tokens"],
    sequence_ids_T: Int[Tensor, " tokens"],
    config: ObjectiveConfig,
    *,
    normalizer: Normalizer,
    reference_logprobs_T: Float[Tensor, " tokens"] | None = None,
) -> ObjectiveOutput:
    """The loss -J of one micro-batch of packed tokens.

    Rows whose source is neither POLICY nor AGENT get exactly zero gradient, whatever their values are. With
    sequence ratios or `sequence_mean`, the POLICY tokens of a sequence must lie in the same micro-batch.

    Args:
        logprobs_T: log pi of each token under the current policy; the one input that receives a gradient.
        old_logprobs_T: log pi at the start of the inner updates; None means that the current policy is the
            old one, which saves a forward pass where each batch is used for one update.
        advantages_T: advantage of each token.
        sources_T: a `Source` per token; `PADDING` for rows that are none.
        mu_logprobs_T: log-probability under what produced the token. AGENT: log mu, 0.0 where unknown.
            POLICY: the sampler's, read with `rollout_clip` only.
        sequence_ids_T: which sequence a token belongs to; any integers.
        config: the objective.
        normalizer: counts of the whole optimizer batch (`batch_normalizer`).
        reference_logprobs_T: log pi of the reference model, for `kl_coef`.

    Raises:
        ConfigurationError: `kl_coef` is set without `reference_logprobs_T`, or the tensors' lengths differ.
    """
    _check_lengths(
        logprobs_T,
        old_logprobs_T,
        advantages_T,
        sources_T,
        mu_logprobs_T,
        sequence_ids_T,
        reference_logprobs_T,
    )
    if config.kl_coef > 0 and reference_logprobs_T is None:
        raise ConfigurationError(
            f"kl_coef={config.kl_coef} needs reference_logprobs_T, but it is None; pass the reference "
            "model's log-probabilities, or set kl_coef=0"
        )
    logprobs_T = logprobs_T.to(torch.promote_types(logprobs_T.dtype, torch.float32))
    # Only the current policy is differentiated, whatever graph the other tensors still hang on.
    old_logprobs_T = (logprobs_T if old_logprobs_T is None else old_logprobs_T).detach()
    advantages_T, mu_logprobs_T = advantages_T.detach(), mu_logprobs_T.detach()

    policy_T = sources_T == Source.POLICY
    policy_loss, policy_sums = _policy_term(
        logprobs_T[policy_T],
        old_logprobs_T[policy_T],
        advantages_T[policy_T],
        mu_logprobs_T[policy_T],
        None if reference_logprobs_T is None else reference_logprobs_T[policy_T].detach(),
        sequence_ids_T[policy_T],
        config,
        normalizer,
    )
    agent_T = sources_T == Source.AGENT
    agent_loss, agent_sums = _agent_term(
        logprobs_T[agent_T],
        AgentTokens(
            logprobs_T[agent_T].detach(),
            old_logprobs_T[agent_T],
            mu_logprobs_T[agent_T],
            advantages_T[agent_T],
        ),
        config,
        normalizer,
    )
    counts = {f"tokens/{source.name.lower()}": _total(sources_T == source) for source in Source}
    return ObjectiveOutput(loss=policy_loss + agent_loss, sums={**counts, **policy_sums, **agent_sums})


def _policy_term(
    logprobs_P: Float[Tensor, " policy"],
    old_logprobs_P: Float[Tensor, " policy"],
    advantages_P: Float[Tensor, " policy"],
    rollout_logprobs_P: Float[Tensor, " policy"],
    reference_logprobs_P: Float[Tensor, " policy"] | None,
    sequence_ids_P: Int[Tensor, " policy"],
    config: ObjectiveConfig,
    normalizer: Normalizer,
) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
    """The RLVR algorithm's loss on POLICY tokens."""
    rule = config.policy_rule
    sequence_P, length_P = _sequence_lengths(sequence_ids_P)
    token_log_ratio_P = logprobs_P - old_logprobs_P
    log_ratio_P = token_log_ratio_P
    if rule.ratio == "sequence":
        # GSPO, arXiv 2507.18071: (pi(y) / pi_old(y)) ^ (1 / |y|) for every token of y.
        sum_P = torch.zeros_like(token_log_ratio_P).index_add(0, sequence_P, token_log_ratio_P)[sequence_P]
        log_ratio_P = sum_P / length_P
    ratio_P = log_ratio_P.clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO).exp()
    clipped_ratio_P = ratio_P.clamp(1 - rule.clip_low, 1 + rule.clip_high)

    if rule.surrogate == "cispo":
        # MiniMax-M1, arXiv 2506.13585: the clipped ratio weighs, the gradient flows through log pi alone.
        surrogate_P = clipped_ratio_P.detach() * advantages_P * logprobs_P
        was_clipped_P = clipped_ratio_P != ratio_P
    else:
        # PPO, arXiv 1707.06347, equation 7.
        surrogate_P = torch.minimum(ratio_P * advantages_P, clipped_ratio_P * advantages_P)
        was_clipped_P = clipped_ratio_P * advantages_P < ratio_P * advantages_P

    sums = {
        "policy/clip_fraction": _total(was_clipped_P),
        "policy/approx_kl": _total(_kl_estimate(-token_log_ratio_P.detach())),
        "policy/ratio": _total(ratio_P),
    }
    if config.rollout_clip is not None:
        low, high = config.rollout_clip
        mismatch_P = (old_logprobs_P - rollout_logprobs_P).clamp(max=_MAX_LOG_RATIO).exp()
        surrogate_P = mismatch_P.clamp(low, high) * surrogate_P
        sums["policy/rollout_ratio"] = _total(mismatch_P)
        sums["policy/rollout_clip_fraction"] = _total((mismatch_P < low) | (mismatch_P > high))
    loss_P = -surrogate_P
    if reference_logprobs_P is not None:
        kl_P = _kl_estimate(reference_logprobs_P - logprobs_P)
        sums["policy/reference_kl"] = _total(kl_P)
        if config.kl_coef > 0:
            loss_P = loss_P + config.kl_coef * kl_P

    if rule.aggregation == "sequence_mean":
        loss_P = loss_P / length_P
    loss = loss_P.sum() / _policy_divisor(config, normalizer)
    sums["loss/policy"] = loss.detach()
    return loss, sums


def _agent_term(
    logprobs_A: Float[Tensor, " agent"],
    tokens: AgentTokens,
    config: ObjectiveConfig,
    normalizer: Normalizer,
) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
    """The loss on AGENT tokens."""
    coefficient_A = agent_coefficient(tokens, config)
    if coefficient_A.shape != logprobs_A.shape:
        raise ConfigurationError(
            f"the coefficient of agent_loss={config.agent_loss!r} must return one weight per AGENT token, "
            f"shape {tuple(logprobs_A.shape)}, but it returned {tuple(coefficient_A.shape)}; do not reduce"
        )
    ratio_A = _importance_ratio(tokens, config)
    trusted_A = _inside_trust_region(tokens, config)
    if config.agent_loss == "mask":
        surrogate_A = torch.zeros_like(logprobs_A)
    elif config.agent_loss == "luffy":
        # f(pi) itself and not a weight on log pi (LUFFY, arXiv 2504.14945): the value is the paper's as well.
        surrogate_A = torch.sigmoid(logprobs_A - _log(config.luffy_gamma, logprobs_A)) * tokens.advantages_A
    else:
        surrogate_A = trusted_A * coefficient_A * tokens.advantages_A * logprobs_A

    if config.agent_normalizer == "agent_tokens":
        divisor = max(normalizer.num_agent_tokens, 1)
    elif config.policy_rule.aggregation == "constant_length":
        divisor = _policy_divisor(config, normalizer)
    else:
        divisor = max(normalizer.num_policy_tokens, 1)
    loss = -config.agent_weight * surrogate_A.sum() / divisor
    return loss, {
        "agent/coefficient": _total(trusted_A * coefficient_A),
        **_coefficient_histogram(trusted_A * coefficient_A),
        "agent/floor_fraction": _total(coefficient_A > ratio_A),
        "agent/cap_fraction": _total(coefficient_A < ratio_A),
        "agent/trust_region_fraction": _total(~trusted_A),
        "agent/probability": _total(tokens.logprobs_A.exp()),
        "agent/mu_known_fraction": _total(tokens.mu_logprobs_A != 0),
        "loss/agent": loss.detach(),
    }


def _coefficient_histogram(coefficient_A: Float[Tensor, " agent"]) -> dict[str, Tensor]:
    """How many tokens each bin holds; a coefficient below 0, which only a user's own may be, counts in the first."""
    inner = torch.tensor(COEFFICIENT_EDGES[1:], dtype=coefficient_A.dtype, device=coefficient_A.device)
    bin_A = torch.bucketize(coefficient_A, inner, right=True)
    return {f"agent/coefficient_from/{edge:g}": _total(bin_A == k) for k, edge in enumerate(COEFFICIENT_EDGES)}


def _inside_trust_region(tokens: AgentTokens, config: ObjectiveConfig) -> Bool[Tensor, " agent"]:
    """False where pi moved by more than delta, in probability, in the direction of the advantage."""
    if not config.has_trust_region:
        return torch.ones_like(tokens.logprobs_A, dtype=torch.bool)
    moved_A = tokens.logprobs_A.exp() - tokens.old_logprobs_A.exp()
    return ~((tokens.advantages_A * moved_A > 0) & (moved_A.abs() > config.delta))


def _policy_divisor(config: ObjectiveConfig, normalizer: Normalizer) -> int:
    """What the sum over POLICY tokens is divided by; at least 1, so that an empty batch gives 0, not NaN."""
    aggregation = config.policy_rule.aggregation
    if aggregation == "token_mean":
        return max(normalizer.num_policy_tokens, 1)
    if aggregation == "sequence_mean":
        return max(normalizer.num_sequences, 1)
    assert config.constant_length is not None  # ObjectiveConfig refuses the combination
    return max(normalizer.num_sequences, 1) * config.constant_length


def _sequence_lengths(
    sequence_ids_P: Int[Tensor, " policy"],
) -> tuple[Int[Tensor, " policy"], Int[Tensor, " policy"]]:
    """For each token the rank of its sequence among those present, and the sequence's number of tokens."""
    _, sequence_P, counts = torch.unique(sequence_ids_P, return_inverse=True, return_counts=True)
    return sequence_P, counts[sequence_P]


def _kl_estimate(log_ratio_P: Float[Tensor, " policy"]) -> Float[Tensor, " policy"]:
    """The k3 estimate of KL(p || q) at tokens from p, given log(q / p): unbiased and never negative."""
    log_ratio_P = log_ratio_P.clamp(max=_MAX_LOG_RATIO)
    return log_ratio_P.exp() - 1 - log_ratio_P


def _log(value: float, like: Tensor) -> Tensor:
    return torch.tensor(value, dtype=like.dtype, device=like.device).log()


def _total(values: Tensor) -> Float[Tensor, ""]:
    values = values.detach()
    return values.sum(dtype=torch.promote_types(values.dtype, torch.float32))


def _check_lengths(*tensors: Tensor | None) -> None:
    shapes = {tuple(tensor.shape) for tensor in tensors if tensor is not None}
    if len(shapes) != 1 or len(next(iter(shapes))) != 1:
        raise ConfigurationError(
            "objective_loss takes flat tensors with one entry per packed token, but the shapes are "
            f"{sorted(shapes)}; flatten the batch, or select the same rows of each tensor"
        )
