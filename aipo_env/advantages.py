"""From scored rollouts to advantages, for every trainer: pure functions, without torch.

A group holds the rollouts of one prompt, assisted and solo ones alike. Groups may differ in size and lie in any order. A
rollout that has nothing to be compared with (a group of one, or of equal rewards) has advantage exactly 0. The formulas are
derived in `docs/objective.md`, section 5. Numbers keep the width they come in: `sample_advantages` computes in float32.

Dimensions: S rollouts (samples).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from aipo_env.errors import ConfigurationError

AdvantageEstimator = Literal["mean", "mean_std", "leave_one_out", "mean_whitened"]
"""`mean`: R - mean of the group (Dr.GRPO, arXiv 2503.20783). `mean_std`: that, divided by the group's deviation (GRPO, arXiv
2402.03300). `leave_one_out`: R - mean of the group's others (RLOO, arXiv 2402.14740). `mean_whitened`: R - mean, whitened over
the batch's tokens (REINFORCE++-baseline, arXiv 2501.03262); since that second mean is over tokens, a group of equal rewards
gets a constant instead of 0 (drop such groups with `informative_groups` where they must not count)."""
PolicyBaseline = Literal["mode", "group"]
AgentBaseline = Literal["none", "solo", "group"]
Floats: TypeAlias = NDArray[np.floating[Any]]
Integers: TypeAlias = NDArray[np.integer[Any]]
Booleans: TypeAlias = NDArray[np.bool_]

STD_EPSILON = 1e-4
"""Added to a group's standard deviation, as TRL does."""


@dataclasses.dataclass(frozen=True, slots=True)
class ScoredRollout:
    """A rollout as the advantages see it."""

    reward: float
    outcome: float
    """The reward without what help cost."""
    group: int
    """Of its prompt; any integer."""
    solo: bool
    """Whether it was played without help."""
    policy_tokens: int
    """How many tokens the policy wrote."""
    faulted: bool
    """Whether a fault of a service or the grader cut it: its reward says nothing, and nothing is learnt from it."""


def sample_advantages(
    samples: Sequence[ScoredRollout],
    estimator: AdvantageEstimator = "mean",
    *,
    policy_baseline: PolicyBaseline = "mode",
    agent_baseline: AgentBaseline = "none",
    self_imitation: float = 0.0,
    overlong: tuple[int, int] | None = None,
) -> tuple[Floats, Floats]:
    """The advantages of the POLICY tokens, and of the AGENT tokens, of each rollout of a batch.

    Whether help came is no choice of the policy, so its own tokens are compared within their mode. A reply is compared with
    nothing: it is learnt where the rollout succeeded, and never pushed away from. What help and length cost is the policy's
    doing, and counts for its own tokens alone. Both are 0 where a fault cut the rollout, which no other is compared with.

    Args:
        samples: the whole batch.
        estimator: how rewards of a group become advantages.
        policy_baseline: what POLICY tokens are compared with: the rollouts of the same prompt and mode, or all of the prompt.
        agent_baseline: what AGENT tokens are compared with: nothing, so that a reply gets the outcome itself, or 0 if that is
            negative; the prompt's solo rollouts (all of them where it has none); or all.
        self_imitation: what an assisted rollout's outcome, where positive, counts for its POLICY tokens beside their advantage.
        overlong: longest response and buffer of `overlong_penalty`.
    """
    counted_S = np.array([not sample.faulted for sample in samples], bool)
    rewards_S: Floats
    kept = [sample for sample in samples if not sample.faulted]
    rewards_S, outcomes_S = (np.array([getattr(s, name) for s in kept], np.float32) for name in ("reward", "outcome"))
    groups_S, tokens_S = (np.array([getattr(s, name) for s in kept], np.int64) for name in ("group", "policy_tokens"))
    solo_S = np.array([s.solo for s in kept], bool)
    if overlong is not None:
        rewards_S = rewards_S + overlong_penalty(tokens_S, *overlong)
    own_S, reply_S = (np.zeros(len(samples), np.float32) for _ in range(2))
    own_S[counted_S] = compute_advantages(
        rewards_S,
        groups_S,
        estimator,
        tokens_S,
        compared_S=2 * groups_S + solo_S if policy_baseline == "mode" else None,
    )
    earned_S = np.maximum(outcomes_S, 0)
    own_S[counted_S] += self_imitation * earned_S * ~solo_S
    if agent_baseline == "none":
        reply_S[counted_S] = earned_S
    else:
        baseline_S = solo_S if agent_baseline == "solo" else np.zeros_like(solo_S)
        reply_S[counted_S] = agent_advantages(
            outcomes_S, groups_S, baseline_S, estimator, tokens_S, rewards_S=rewards_S
        )
    return own_S, reply_S


def compute_advantages(
    rewards_S: ArrayLike,
    group_ids_S: ArrayLike,
    estimator: AdvantageEstimator,
    num_tokens_S: ArrayLike | None = None,
    *,
    compared_S: ArrayLike | None = None,
) -> Floats:
    """The advantages of `estimator` (`ObjectiveConfig.policy_rule.advantage`).

    Args:
        rewards_S: one finite reward per rollout.
        group_ids_S: the rollout's group; any integers. What an estimator divides by is the whole group's.
        estimator: one of `AdvantageEstimator`.
        num_tokens_S: POLICY tokens of each rollout; needed by `mean_whitened` alone.
        compared_S: the part of the group whose mean is taken off (the rollouts of one mode); None for the group.

    Raises:
        ConfigurationError: a reward is not finite, the lengths differ, or `num_tokens_S` is missing.
    """
    centered_S = _centered(rewards_S, group_ids_S if compared_S is None else compared_S, estimator, num_tokens_S)
    return centered_S / _unit(rewards_S, group_ids_S, estimator, num_tokens_S)


def agent_advantages(
    outcomes_S: ArrayLike,
    group_ids_S: ArrayLike,
    solo_S: ArrayLike,
    estimator: AdvantageEstimator,
    num_tokens_S: ArrayLike | None = None,
    *,
    rewards_S: ArrayLike | None = None,
) -> Floats:
    """The advantages of AGENT tokens: the outcome less the mean of the group's solo rollouts.

    A group without solo rollouts gets `compute_advantages` of the outcomes.

    What `estimator` divides by is what it divides the rewards by, so that AGENT and POLICY advantages keep one unit; or the
    deviation of the outcomes, where costs have left the rewards less of it.

    Args:
        outcomes_S: one finite reward per rollout, without the costs of help and length.
        group_ids_S: the rollout's group; any integers.
        solo_S: whether it was played without help.
        estimator: as for `compute_advantages`.
        num_tokens_S: as for `compute_advantages`.
        rewards_S: the rewards with their costs; None where there are none.

    Raises:
        ConfigurationError: as for `compute_advantages`.
    """
    usual_S = _centered(outcomes_S, group_ids_S, estimator, num_tokens_S)
    outcomes_S, group_S, _ = _groups(outcomes_S, group_ids_S)
    solo_S = _aligned(solo_S, outcomes_S).astype(outcomes_S.dtype)
    num_solo_S = _group_sum(solo_S, group_S)
    raw_S = outcomes_S - _group_sum(outcomes_S * solo_S, group_S) / np.maximum(num_solo_S, 1)
    raw_S = np.where(_has_spread(outcomes_S, group_S), raw_S, np.zeros_like(raw_S))
    unit_S = _unit(outcomes_S, group_ids_S, estimator, num_tokens_S)
    if rewards_S is not None:
        unit_S = np.maximum(unit_S, _unit(rewards_S, group_ids_S, estimator, num_tokens_S))
    return np.where(num_solo_S > 0, raw_S, usual_S) / unit_S


def informative_groups(rewards_S: ArrayLike, group_ids_S: ArrayLike) -> Booleans:
    """True in groups whose rewards differ: what DAPO's dynamic sampling keeps (arXiv 2503.14476)."""
    rewards_S, group_S, _ = _groups(rewards_S, group_ids_S)
    return _has_spread(rewards_S, group_S)


def overlong_penalty(lengths_S: ArrayLike, max_length: int, buffer_length: int, factor: float = 1.0) -> Floats:
    """DAPO's soft overlong punishment, to be added to the rewards (arXiv 2503.14476).

    0 up to `max_length - buffer_length` tokens, then falling linearly to `-factor` at `max_length` and
    beyond.

    Args:
        lengths_S: tokens that the policy wrote in each rollout.
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
    exceeded_S = np.clip(np.asarray(lengths_S) - (max_length - buffer_length), 0, buffer_length)
    return -factor * exceeded_S.astype(np.float32) / buffer_length


def _centered(
    rewards_S: ArrayLike, compared_S: ArrayLike, estimator: AdvantageEstimator, num_tokens_S: ArrayLike | None
) -> Floats:
    """The rewards less what they are compared with."""
    rewards_S, group_S, size_S = _groups(rewards_S, compared_S)
    centered_S: Floats = rewards_S - _group_sum(rewards_S, group_S) / size_S
    # Equal rewards must cancel exactly, which the rounded mean of, say, three times 0.1 does not.
    centered_S = np.where(_has_spread(rewards_S, group_S), centered_S, np.zeros_like(centered_S))
    if estimator == "leave_one_out":
        # R_i - mean_{j != i} R_j = (R_i - mean R) n / (n - 1)
        centered_S = centered_S * size_S / np.maximum(size_S - 1, 1)
    return centered_S - token_moments(centered_S, num_tokens_S)[0] if estimator == "mean_whitened" else centered_S


def _unit(
    rewards_S: ArrayLike, group_ids_S: ArrayLike, estimator: AdvantageEstimator, num_tokens_S: ArrayLike | None
) -> Floats:
    """What an estimator divides each rollout's advantages by."""
    rewards_S, group_S, size_S = _groups(rewards_S, group_ids_S)
    if estimator not in ("mean_std", "mean_whitened"):
        return np.ones_like(rewards_S)
    centered_S = _centered(rewards_S, group_ids_S, "mean", None)
    if estimator == "mean_whitened":
        return np.full_like(rewards_S, token_moments(centered_S, num_tokens_S)[1])
    # The standard deviation with n - 1.
    deviation_S: Floats = np.sqrt(_group_sum(np.square(centered_S), group_S) / np.maximum(size_S - 1, 1))
    return deviation_S + STD_EPSILON


def token_moments(values_S: Floats, num_tokens_S: ArrayLike | None) -> tuple[float, float]:
    """Mean and standard deviation (at least 1e-4) over the batch's tokens, each of which has its rollout's value."""
    if num_tokens_S is None:
        raise ConfigurationError(
            "the estimator 'mean_whitened' needs num_tokens_S, but it is None; pass the number of POLICY "
            "tokens of each sample"
        )
    num_tokens_S = _aligned(num_tokens_S, values_S).astype(np.float64)
    weights_S = num_tokens_S / max(num_tokens_S.sum(), 1.0)
    mean = float((weights_S * values_S).sum())
    return mean, float(np.sqrt(max((weights_S * np.square(values_S - mean)).sum(), 1e-8)))


def _groups(rewards_S: ArrayLike, group_ids_S: ArrayLike) -> tuple[Floats, Integers, Floats]:
    """The rewards, the rank of each rollout's group among the groups present, and the group's size; checks the input."""
    rewards_S = np.asarray(rewards_S)
    group_ids_S = _aligned(group_ids_S, rewards_S)
    if not np.isfinite(rewards_S).all():
        index = int(np.argmin(np.isfinite(rewards_S)))
        raise ConfigurationError(
            f"rewards must be finite, but sample {index} has {float(rewards_S[index])}; give that rollout a "
            "reward or leave it out of the batch"
        )
    _, group_S, sizes = np.unique(group_ids_S, return_inverse=True, return_counts=True)
    return rewards_S, group_S, sizes[group_S].astype(rewards_S.dtype)


def _group_sum(values_S: Floats, group_S: Integers) -> Floats:
    """For each rollout the sum over its group."""
    sums = np.zeros_like(values_S)
    np.add.at(sums, group_S, values_S)
    return sums[group_S]


def _has_spread(rewards_S: Floats, group_S: Integers) -> Booleans:
    """Whether the rewards of a rollout's group differ."""
    largest, smallest = np.full_like(rewards_S, -np.inf), np.full_like(rewards_S, np.inf)
    np.maximum.at(largest, group_S, rewards_S)
    np.minimum.at(smallest, group_S, rewards_S)
    return (largest > smallest)[group_S]


def _aligned(other_S: ArrayLike, rewards_S: Floats) -> NDArray[Any]:
    other_S = np.asarray(other_S)
    if rewards_S.shape != other_S.shape:
        raise ConfigurationError(
            "rewards and what goes with them need one entry per sample, but the shapes are "
            f"{rewards_S.shape} and {other_S.shape}; select the same samples of both"
        )
    return other_S
