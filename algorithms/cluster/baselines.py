"""What a sample's reward is compared with: `policy_baseline` and `agent_baseline` within OpenRLHF's experience maker.

OpenRLHF compares a reward with those of all samples of the prompt and gives every token of a sample the same advantage, but for
penalties. Its loss reads the tensor `advantages` at actions alone, which are the POLICY tokens. So the places of the AGENT
tokens in it are free: what is written there travels with the sample through balancing, replay buffer and micro-batches to the
AGENT term, which reads no others. (Read in OpenRLHF 0.11.2: `RemoteExperienceMaker.compute_advantages_and_returns`.)

OpenRLHF's own method always runs first. With `policy_baseline` "group" its numbers stay at POLICY tokens, bit for bit. All
others are those of `aipo_env.advantages`, as on one machine, with OpenRLHF's reward clip and whitening, and at POLICY tokens
its KL penalties. Those of a reply come from the outcome alone, as the executor reports it.

Dimensions: S samples of the whole batch; B sequences of one `Experience`, L their longest number of tokens less 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from aipo_env.advantages import AdvantageEstimator, AgentBaseline, ScoredRollout, sample_advantages, token_moments
from algorithms.cluster.channel import decode
from algorithms.cluster.settings import (
    GROUPLESS,
    WHITENED,
    check_agent_config,
    check_estimator,
    check_openrlhf_settings,
    our_estimator,
    reads_agent_baseline,
)
from algorithms.cluster.trajectories import FAULTS, OUTCOME, SOLO
from algorithms.config import ObjectiveConfig

PerToken = Float[Tensor, "_batch _length"]
"""Of one experience; those of a batch differ in shape."""


@runtime_checkable
class ScoredExperience(Protocol):
    """What is used of OpenRLHF's `Experience`, some samples of the batch."""

    index: list[int]
    """Each sample's place in the batch; those of a group are neighbours."""
    rewards: Tensor
    kl: Tensor | None
    """Estimated KL to the reference model per token; OpenRLHF drops it once the advantages are made."""
    action_mask: Tensor
    rollout_log_probs: Tensor
    advantages: Tensor
    returns: Tensor
    info: dict[str, Tensor]


@runtime_checkable
class KLController(Protocol):
    """What is used of OpenRLHF's `FixedKLController`."""

    value: float


@runtime_checkable
class Strategy(Protocol):
    """What is used of OpenRLHF's `DeepspeedStrategy`."""

    args: SimpleNamespace


@runtime_checkable
class ExperienceMaker(Protocol):
    """What is used of OpenRLHF's `RemoteExperienceMaker`."""

    strategy: Strategy
    kl_ctl: KLController
    compute_advantages_and_returns: Callable[[list[ScoredExperience]], list[ScoredExperience]]


def install_baselines(maker: ExperienceMaker, config: ObjectiveConfig) -> None:
    """Puts the baselines into an OpenRLHF experience maker. Call it before the first batch is scored.

    Args:
        maker: OpenRLHF's `RemoteExperienceMaker`.
        config: `policy_baseline` and the AGENT fields of the objective.

    Raises:
        ConfigurationError: see `check_agent_config`, `check_openrlhf_settings` and `check_estimator`.
    """
    args = maker.strategy.args
    check_agent_config(config)
    check_openrlhf_settings(args)
    check_estimator(config, args.algo.advantage.estimator)
    stock = maker.compute_advantages_and_returns

    @torch.no_grad()
    def compute_advantages_and_returns(experiences: list[ScoredExperience]) -> list[ScoredExperience]:
        # A negative coefficient counts as none, as in OpenRLHF's compute_reward.
        penalties = [_penalties(experience, max(maker.kl_ctl.value, 0.0)) for experience in experiences]
        experiences = stock(experiences)
        set_advantages(experiences, penalties, args, config)
        return experiences

    maker.compute_advantages_and_returns = compute_advantages_and_returns


def set_advantages(
    experiences: Sequence[ScoredExperience],
    penalties: Sequence[PerToken],
    args: SimpleNamespace,
    config: ObjectiveConfig,
) -> None:
    """Turns the advantages that OpenRLHF made, with the group's baseline, into those of the config.

    Args:
        experiences: the whole batch, as `RemoteExperienceMaker.compute_advantages_and_returns` returns it.
        penalties: for each of them the KL penalties at a token and behind it, at most 0.
        args: OpenRLHF's parsed arguments.
        config: `policy_baseline` and the AGENT fields of the objective.
    """
    # First, since whitening needs the returns that OpenRLHF made.
    _, deviation = _moments(experiences, args)
    agents = _agent_advantages(experiences, args, config, deviation) if reads_agent_baseline(config) else None
    if config.policy_baseline == "mode":
        _set_mode_advantages(experiences, penalties, args, deviation)
    _add_self_imitation(experiences, args, config.imitation)
    for experience, agent_B in zip(experiences, agents or (), strict=agents is not None):
        experience.advantages = torch.where(
            decode(experience.rollout_log_probs).is_agent, agent_B[:, None], experience.advantages
        )


def _set_mode_advantages(
    experiences: Sequence[ScoredExperience],
    penalties: Sequence[PerToken],
    args: SimpleNamespace,
    deviation: Float[Tensor, ""],
) -> None:
    """Advantages and returns of POLICY tokens, each sample compared with those of the same prompt and mode."""
    estimator = our_estimator(args.algo.advantage.estimator)
    shaped_S, _ = _compared(_samples(experiences, args), _before_whitening(estimator))
    shaped = _split(_clipped(shaped_S, args), experiences)
    for experience, shaped_B, penalties_BL in zip(experiences, shaped, penalties, strict=True):
        followed_BL = experience.action_mask.flip(1).cumsum(1).flip(1) > 0
        experience.returns = (shaped_B[:, None] + penalties_BL) * followed_BL
        experience.advantages = experience.returns.clone()
        experience.info["return"] = experience.returns[:, 0].clone()
    if estimator == "mean_whitened":
        mean, _ = _moments(experiences, args)
        for experience in experiences:
            experience.advantages = (experience.advantages - mean) / deviation


def _add_self_imitation(experiences: Sequence[ScoredExperience], args: SimpleNamespace, weight: float) -> None:
    """Adds what an assisted sample earned to the advantages of its POLICY tokens; nothing clips or whitens it."""
    if weight == 0:
        return
    samples = _samples(experiences, args)
    earned = _split(_compared(samples, "mean", "none")[1], experiences)
    for experience, earned_B in zip(experiences, earned, strict=True):
        assisted_B = experience.info[SOLO] == 0
        experience.advantages = (
            experience.advantages + weight * (earned_B * assisted_B)[:, None] * experience.action_mask
        )


def _agent_advantages(
    experiences: Sequence[ScoredExperience],
    args: SimpleNamespace,
    config: ObjectiveConfig,
    deviation: Float[Tensor, ""],
) -> tuple[Float[Tensor, " batch"], ...]:
    """Advantages of the AGENT tokens of each sample; what is compared with nothing is not shaped either.

    Whitening divides by the deviation that OpenRLHF's own, with the group's baseline, divides by (or by that of the outcomes,
    if it is larger). With the solo baseline it subtracts nothing: zero stays "as good as without help". Groups without a solo
    sample are whitened as OpenRLHF does it.
    """
    samples = _samples(experiences, args)
    if config.agent_baseline == "none":
        return _split(_compared(samples, "mean", "none")[1], experiences)
    name = args.algo.advantage.estimator
    if name in GROUPLESS:
        outcomes_S = torch.tensor([sample.outcome for sample in samples])
        shaped_S = centered_S = outcomes_S - outcomes_S.mean() * (name == "flash_reinforce")
    else:
        _, centered_S = _compared(samples, "mean", agent_baseline="group")
        estimator = _before_whitening(our_estimator(name))
        _, shaped_S = _compared(samples, estimator, agent_baseline=config.agent_baseline)
    shaped_S = _clipped(shaped_S, args)
    if name in WHITENED:
        mean, spread = token_moments(centered_S.numpy(), [sample.policy_tokens for sample in samples])
        with_solo = {sample.group for sample in samples if sample.solo and config.agent_baseline == "solo"}
        offset_S = mean * torch.tensor([sample.group not in with_solo for sample in samples])
        shaped_S = (shaped_S - offset_S) / (
            deviation if args.algo.advantage.no_std_norm else deviation.clamp(min=spread)
        )
    return _split(shaped_S, experiences)


def _samples(experiences: Sequence[ScoredExperience], args: SimpleNamespace) -> list[ScoredRollout]:
    """Each sample as the advantages see it, in the order of the experiences."""
    return [
        ScoredRollout(reward, outcome, place // args.rollout.n_samples_per_prompt, solo > 0, tokens, faulted > 0)
        for experience in experiences
        for place, reward, outcome, solo, tokens, faulted in zip(
            experience.index,
            experience.rewards.tolist(),
            *(experience.info[name].tolist() for name in (OUTCOME, SOLO)),
            experience.action_mask.sum(1).tolist(),
            experience.info[FAULTS].tolist(),
            strict=True,
        )
    ]


def _compared(
    samples: Sequence[ScoredRollout], estimator: AdvantageEstimator, agent_baseline: AgentBaseline = "none"
) -> tuple[Float[Tensor, " samples"], Float[Tensor, " samples"]]:
    """Advantages of the POLICY tokens by mode, and of the AGENT tokens."""
    own_S, reply_S = sample_advantages(samples, estimator, agent_baseline=agent_baseline)
    return torch.from_numpy(own_S), torch.from_numpy(reply_S)


def _before_whitening(estimator: AdvantageEstimator) -> AdvantageEstimator:
    """The comparison within the group that an estimator starts with."""
    return "mean" if estimator == "mean_whitened" else estimator


def _clipped(shaped_S: Float[Tensor, " samples"], args: SimpleNamespace) -> Float[Tensor, " samples"]:
    """The shaped reward, clipped as OpenRLHF clips it (--reward.clip_range)."""
    if not args.reward.clip_range:
        return shaped_S
    low, high = args.reward.clip_range
    return shaped_S.clamp(min=low, max=high)


def _penalties(experience: ScoredExperience, coefficient: float) -> Float[Tensor, "batch length"]:
    """The KL penalties at a token and behind it, at actions alone."""
    assert experience.kl is not None
    return (-coefficient * experience.kl * experience.action_mask).flip(1).cumsum(1).flip(1)


def _moments(
    experiences: Sequence[ScoredExperience], args: SimpleNamespace
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Mean and standard deviation of the returns over the batch's actions, with which OpenRLHF whitens."""
    returns_A = torch.cat([experience.returns[experience.action_mask > 0] for experience in experiences]).float()
    mean = returns_A.mean()
    if args.algo.advantage.no_std_norm:
        return mean, torch.ones_like(mean)
    return mean, (returns_A - mean).square().mean().clamp(min=1e-8).sqrt()


def _split(values_S: Float[Tensor, " samples"], experiences: Sequence[ScoredExperience]) -> tuple[Tensor, ...]:
    return torch.split(values_S, [len(experience.index) for experience in experiences])
