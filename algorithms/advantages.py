"""From rewards to advantages: pure functions on the rewards of a batch and the group of each sample.

A group holds the samples of one prompt, assisted and solo ones alike. Groups may differ in size and lie in
any order. A sample that has nothing to be compared with (a group of one, or of equal rewards) has advantage
exactly 0.

Dimensions: S samples (sequences), T packed tokens.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from aipo_env.errors import ConfigurationError
from algorithms.config import AdvantageEstimator
from algorithms.train_config import TrainConfig

STD_EPSILON = 1e-4
"""Added to a group's standard deviation, as TRL does."""


def compute_advantages(
    rewards_S: Float[Tensor, " samples"],
    group_ids_S: Int[Tensor, " samples"],
    estimator: AdvantageEstimator,
    num_tokens_S: Int[Tensor, " samples"] | None = None,
    *,
    compared_S: Int[Tensor, " samples"] | None = None,
) -> Float[Tensor, " samples"]:
    """The advantages of `estimator` (`ObjectiveConfig.policy_rule.advantage`).

    Args:
        rewards_S: one finite reward per sample.
        group_ids_S: the sample's group; any integers. What an estimator divides by is the whole group's.
        estimator: `mean`, `mean_std`, `leave_one_out` or `mean_whitened`.
        num_tokens_S: POLICY tokens of each sample; needed by `mean_whitened` alone.
        compared_S: the part of the group whose mean is taken off (the samples of one mode); None for the group.

    Raises:
        ConfigurationError: a reward is not finite, the lengths differ, or `num_tokens_S` is missing.
    """
    centered_S = _centered(rewards_S, group_ids_S if compared_S is None else compared_S, estimator, num_tokens_S)
    return centered_S / _unit(rewards_S, group_ids_S, estimator, num_tokens_S)


def agent_advantages(
    outcomes_S: Float[Tensor, " samples"],
    group_ids_S: Int[Tensor, " samples"],
    solo_S: Bool[Tensor, " samples"],
    estimator: AdvantageEstimator,
    num_tokens_S: Int[Tensor, " samples"] | None = None,
    *,
    rewards_S: Float[Tensor, " samples"] | None = None,
) -> Float[Tensor, " samples"]:
    """The advantages of AGENT tokens: the outcome less the mean of the group's solo samples.

    Derived in `docs/objective.md`, section 5. A group without solo samples gets `compute_advantages` of the outcomes.

    What `estimator` divides by is what it divides the rewards by, so that AGENT and POLICY advantages keep one unit; or the
    deviation of the outcomes, where costs have left the rewards less of it.

    Args:
        outcomes_S: one finite reward per sample, without the costs of help and length.
        group_ids_S: the sample's group; any integers.
        solo_S: whether the sample was rolled out without help.
        estimator: as for `compute_advantages`.
        num_tokens_S: as for `compute_advantages`.
        rewards_S: the rewards with their costs; None where there are none.

    Raises:
        ConfigurationError: as for `compute_advantages`.
    """
    usual_S = _centered(outcomes_S, group_ids_S, estimator, num_tokens_S)
    _check_same_length(outcomes_S, solo_S)
    group_S, _ = _groups(outcomes_S, group_ids_S)
    num_solo_S = _group_sum(solo_S.to(outcomes_S.dtype), group_S)
    raw_S = outcomes_S - _group_sum(outcomes_S * solo_S, group_S) / num_solo_S.clamp(min=1)
    raw_S = torch.where(_has_spread(outcomes_S, group_S), raw_S, torch.zeros_like(raw_S))
    unit_S = _unit(outcomes_S, group_ids_S, estimator, num_tokens_S)
    if rewards_S is not None:
        unit_S = unit_S.maximum(_unit(rewards_S, group_ids_S, estimator, num_tokens_S))
    return torch.where(num_solo_S > 0, raw_S, usual_S) / unit_S


def mean_advantages(
    rewards_S: Float[Tensor, " samples"], group_ids_S: Int[Tensor, " samples"]
) -> Float[Tensor, " samples"]:
    """R - mean of the group (Dr.GRPO, arXiv 2503.20783)."""
    group_S, size_S = _groups(rewards_S, group_ids_S)
    centered_S = rewards_S - _group_sum(rewards_S, group_S) / size_S
    # Equal rewards must cancel exactly, which the rounded mean of, say, three times 0.1 does not.
    return torch.where(_has_spread(rewards_S, group_S), centered_S, torch.zeros_like(centered_S))


def mean_std_advantages(
    rewards_S: Float[Tensor, " samples"], group_ids_S: Int[Tensor, " samples"], epsilon: float = STD_EPSILON
) -> Float[Tensor, " samples"]:
    """(R - mean) / (std + epsilon) of the group, std with n - 1 (GRPO, arXiv 2402.03300)."""
    return mean_advantages(rewards_S, group_ids_S) / (_group_std(rewards_S, group_ids_S) + epsilon)


def leave_one_out_advantages(
    rewards_S: Float[Tensor, " samples"], group_ids_S: Int[Tensor, " samples"]
) -> Float[Tensor, " samples"]:
    """R - mean of the group's other samples (RLOO, arXiv 2402.14740)."""
    centered_S = mean_advantages(rewards_S, group_ids_S)
    _, size_S = _groups(rewards_S, group_ids_S)
    # R_i - mean_{j != i} R_j = (R_i - mean R) n / (n - 1)
    return centered_S * size_S / (size_S - 1).clamp(min=1)


def mean_whitened_advantages(
    rewards_S: Float[Tensor, " samples"],
    group_ids_S: Int[Tensor, " samples"],
    num_tokens_S: Int[Tensor, " samples"],
) -> Float[Tensor, " samples"]:
    """R - mean of the group, then whitened over the batch's tokens (REINFORCE++-baseline, arXiv 2501.03262).

    The second mean is taken over tokens, so it is not zero where long samples score differently from short
    ones. A group of equal rewards then gets that constant instead of 0; drop such groups
    (`informative_groups`) where they must not count. A batch in which every advantage is equal is all 0.
    """
    return compute_advantages(rewards_S, group_ids_S, "mean_whitened", num_tokens_S)


def informative_groups(
    rewards_S: Float[Tensor, " samples"], group_ids_S: Int[Tensor, " samples"]
) -> Bool[Tensor, " samples"]:
    """True in groups whose rewards differ: what DAPO's dynamic sampling keeps (arXiv 2503.14476)."""
    group_S, _ = _groups(rewards_S, group_ids_S)
    return _has_spread(rewards_S, group_S)


def overlong_penalty(
    lengths_S: Int[Tensor, " samples"], max_length: int, buffer_length: int, factor: float = 1.0
) -> Float[Tensor, " samples"]:
    """DAPO's soft overlong punishment, to be added to the rewards (arXiv 2503.14476).

    0 up to `max_length - buffer_length` tokens, then falling linearly to `-factor` at `max_length` and
    beyond.

    Args:
        lengths_S: tokens that the policy wrote in each sample.
        max_length: the longest allowed response.
        buffer_length: how many tokens before it the penalty sets in.
        factor: the largest penalty.

    Raises:
        ConfigurationError: unless 1 <= buffer_length <= max_length and factor >= 0.
    """
    if not 1 <= buffer_length <= max_length or factor < 0:
        raise ConfigurationError(
            "overlong_penalty needs 1 <= buffer_length <= max_length and factor >= 0, but they are "
            f"buffer_length={buffer_length}, max_length={max_length}, factor={factor}; shorten the buffer"
        )
    exceeded_S = (lengths_S - (max_length - buffer_length)).clamp(min=0, max=buffer_length)
    return -factor * exceeded_S.to(torch.get_default_dtype()) / buffer_length


def expand_to_tokens(
    advantages_S: Float[Tensor, " samples"], sequence_ids_T: Int[Tensor, " tokens"]
) -> Float[Tensor, " tokens"]:
    """Gives each packed token the advantage of its sequence.

    Args:
        advantages_S: advantage of sequence 0, 1, ...
        sequence_ids_T: index of the token's sequence; negative for padding, which gets 0.
    """
    # One zero in front, which padding reads; it also makes a batch without sequences indexable.
    padded = torch.cat([advantages_S.new_zeros(1), advantages_S])
    return padded[sequence_ids_T.clamp(min=-1).long() + 1]


def _centered(
    rewards_S: Float[Tensor, " samples"],
    compared_S: Int[Tensor, " samples"],
    estimator: AdvantageEstimator,
    num_tokens_S: Int[Tensor, " samples"] | None,
) -> Float[Tensor, " samples"]:
    """The rewards less what they are compared with."""
    if estimator == "leave_one_out":
        return leave_one_out_advantages(rewards_S, compared_S)
    centered_S = mean_advantages(rewards_S, compared_S)
    return centered_S - token_moments(centered_S, num_tokens_S)[0] if estimator == "mean_whitened" else centered_S


def _unit(
    rewards_S: Float[Tensor, " samples"],
    group_ids_S: Int[Tensor, " samples"],
    estimator: AdvantageEstimator,
    num_tokens_S: Int[Tensor, " samples"] | None,
) -> Float[Tensor, " samples"]:
    """What an estimator divides each sample's advantages by."""
    if estimator == "mean_std":
        return _group_std(rewards_S, group_ids_S) + STD_EPSILON
    if estimator == "mean_whitened":
        _, deviation = token_moments(mean_advantages(rewards_S, group_ids_S), num_tokens_S)
        return deviation.expand_as(rewards_S)
    return torch.ones_like(rewards_S)


def _group_std(rewards_S: Float[Tensor, " samples"], group_ids_S: Int[Tensor, " samples"]) -> Float[Tensor, " samples"]:
    """For each sample the standard deviation (n - 1) of its group's rewards."""
    group_S, size_S = _groups(rewards_S, group_ids_S)
    centered_S = mean_advantages(rewards_S, group_ids_S)
    return (_group_sum(centered_S.square(), group_S) / (size_S - 1).clamp(min=1)).sqrt()


def token_moments(
    values_S: Float[Tensor, " samples"], num_tokens_S: Int[Tensor, " samples"] | None
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Mean and standard deviation (at least 1e-4) over the batch's tokens, each of which has its sample's value."""
    if num_tokens_S is None:
        raise ConfigurationError(
            "the estimator 'mean_whitened' needs num_tokens_S, but it is None; pass the number of POLICY "
            "tokens of each sample"
        )
    _check_same_length(values_S, num_tokens_S)
    weights_S = num_tokens_S.to(values_S.dtype) / num_tokens_S.sum().clamp(min=1)
    mean = (weights_S * values_S).sum()
    variance = (weights_S * (values_S - mean).square()).sum()
    return mean, variance.clamp(min=1e-8).sqrt()


def _groups(
    rewards_S: Float[Tensor, " samples"], group_ids_S: Int[Tensor, " samples"]
) -> tuple[Int[Tensor, " samples"], Int[Tensor, " samples"]]:
    """The rank of each sample's group among the groups present, and the group's size; checks the input."""
    _check_same_length(rewards_S, group_ids_S)
    finite_S = rewards_S.isfinite()
    if not bool(finite_S.all()):
        index = int((~finite_S).nonzero()[0])
        raise ConfigurationError(
            f"rewards must be finite, but sample {index} has {float(rewards_S[index])}; give that rollout a "
            "reward or leave it out of the batch"
        )
    _, group_S, sizes = torch.unique(group_ids_S, return_inverse=True, return_counts=True)
    return group_S, sizes[group_S]


def _group_sum(values_S: Float[Tensor, " samples"], group_S: Int[Tensor, " samples"]) -> Float[Tensor, " samples"]:
    """For each sample the sum over its group."""
    return torch.zeros_like(values_S).index_add(0, group_S, values_S)[group_S]


def _has_spread(rewards_S: Float[Tensor, " samples"], group_S: Int[Tensor, " samples"]) -> Bool[Tensor, " samples"]:
    """Whether the rewards of a sample's group differ."""
    zeros = torch.zeros_like(rewards_S)
    largest = zeros.scatter_reduce(0, group_S, rewards_S, "amax", include_self=False)
    smallest = zeros.scatter_reduce(0, group_S, rewards_S, "amin", include_self=False)
    return (largest > smallest)[group_S]


def _check_same_length(rewards_S: Tensor, other_S: Tensor) -> None:
    if rewards_S.shape != other_S.shape:
        raise ConfigurationError(
            "rewards and what goes with them need one entry per sample, but the shapes are "
            f"{tuple(rewards_S.shape)} and {tuple(other_S.shape)}; select the same samples of both"
        )


def sample_advantages(
    rewards_S: Float[Tensor, " samples"],
    outcomes_S: Float[Tensor, " samples"],
    groups_S: Int[Tensor, " samples"],
    solo_S: Bool[Tensor, " samples"],
    policy_tokens_S: Int[Tensor, " samples"],
    config: TrainConfig,
) -> tuple[Float[Tensor, " samples"], Float[Tensor, " samples"]]:
    """The advantages of the POLICY tokens, and of the AGENT tokens, of each trajectory of a batch.

    Derived in docs/objective.md, section 5: whether help came is no choice of the policy, so its own tokens are compared
    within their mode; a reply is compared with what the policy gets without it, so its push ends when solo succeeds. What
    help and length cost is the policy's doing, and counts for its own tokens alone.

    Args:
        rewards_S: one reward each.
        outcomes_S: the rewards without what help cost.
        groups_S: the prompt's group.
        solo_S: whether no helper answered.
        policy_tokens_S: POLICY tokens of each.
        config: of the run.
    """
    if config.overlong_buffer:
        rewards_S = rewards_S + overlong_penalty(policy_tokens_S, config.sampling.max_tokens, config.overlong_buffer)
    objective, estimator = config.objective, config.objective.policy_rule.advantage
    own_S = compute_advantages(
        rewards_S,
        groups_S,
        estimator,
        policy_tokens_S,
        compared_S=2 * groups_S + solo_S if objective.policy_baseline == "mode" else None,
    )
    baseline_S = solo_S if objective.agent_baseline == "solo" else torch.zeros_like(solo_S)
    return own_S, agent_advantages(outcomes_S, groups_S, baseline_S, estimator, policy_tokens_S, rewards_S=rewards_S)
