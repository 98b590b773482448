"""What a sample's reward is compared with: `policy_baseline` and `agent_baseline` within OpenRLHF's experience maker.

OpenRLHF compares a reward with those of all samples of the prompt and gives every token of a sample the same advantage, but for
penalties. Its loss reads the tensor `advantages` at actions alone, which are the POLICY tokens. So the places of the AGENT
tokens in it are free: what is written there travels with the sample through balancing, replay buffer and micro-batches to the
AGENT term, which reads no others. (Read in OpenRLHF 0.11.2: `RemoteExperienceMaker.compute_advantages_and_returns`.)

OpenRLHF's own method always runs first. With "group" its numbers stay, bit for bit; the others are those of
`algorithms.advantages`, as on one machine, with OpenRLHF's reward clip, KL penalties and whitening.

Dimensions: S samples of the whole batch; B sequences of one `Experience`, L their longest number of tokens less 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from algorithms.advantages import agent_advantages, compute_advantages
from algorithms.cluster.channel import decode
from algorithms.cluster.settings import (
    check_agent_config,
    check_estimator,
    check_openrlhf_settings,
    our_estimator,
    reads_agent_baseline,
)
from algorithms.cluster.trajectories import SOLO
from algorithms.config import AdvantageEstimator, ObjectiveConfig

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
    # First, since whitening the replies' advantages needs the returns that OpenRLHF made.
    agents = [experience.advantages for experience in experiences]
    if reads_agent_baseline(config) and config.agent_baseline == "solo":
        agents = _solo_advantages(experiences, penalties, args)
    if config.policy_baseline == "mode":
        _set_mode_advantages(experiences, penalties, args)
    for experience, agent_BL in zip(experiences, agents, strict=True):
        experience.advantages = torch.where(
            decode(experience.rollout_log_probs).is_agent,
            _also_behind_the_last_action(agent_BL, experience.action_mask > 0),
            experience.advantages,
        )


def _set_mode_advantages(
    experiences: Sequence[ScoredExperience], penalties: Sequence[PerToken], args: SimpleNamespace
) -> None:
    """Advantages and returns of POLICY tokens, each sample compared with those of the same prompt and mode."""
    rewards_S, groups_S, solo_S = _samples(experiences, args)
    estimator = our_estimator(args.algo.advantage.estimator)
    shaped_S = compute_advantages(rewards_S, 2 * groups_S + solo_S, _before_whitening(estimator))
    for experience, returns_BL in zip(experiences, _to_tokens(shaped_S, experiences, penalties, args), strict=True):
        followed_BL = experience.action_mask.flip(1).cumsum(1).flip(1) > 0
        experience.returns = returns_BL * followed_BL
        experience.advantages = experience.returns.clone()
        experience.info["return"] = experience.returns[:, 0].clone()
    if estimator == "mean_whitened":
        mean, deviation = _moments(experiences, args)
        for experience in experiences:
            experience.advantages = (experience.advantages - mean) / deviation


def _solo_advantages(
    experiences: Sequence[ScoredExperience], penalties: Sequence[PerToken], args: SimpleNamespace
) -> list[PerToken]:
    """Advantages of AGENT tokens, each sample compared with the group's solo ones; right up to the last action.

    Whitening divides by the deviation that OpenRLHF's own, with the group's baseline, divides by. It subtracts nothing: zero
    stays "as good as without help". Groups without a solo sample are whitened as OpenRLHF does it.
    """
    rewards_S, groups_S, solo_S = _samples(experiences, args)
    estimator = our_estimator(args.algo.advantage.estimator)
    shaped_S = agent_advantages(rewards_S, groups_S, solo_S, _before_whitening(estimator))
    advantages = _to_tokens(shaped_S, experiences, penalties, args)
    if estimator != "mean_whitened":
        return advantages
    mean, deviation = _moments(experiences, args)
    offset_S = torch.where(torch.isin(groups_S, groups_S[solo_S]), torch.zeros_like(mean), mean)
    return [
        (advantages_BL - offset_B[:, None]) / deviation
        for advantages_BL, offset_B in zip(advantages, _split(offset_S, experiences), strict=True)
    ]


def _samples(
    experiences: Sequence[ScoredExperience], args: SimpleNamespace
) -> tuple[Float[Tensor, " samples"], Int[Tensor, " samples"], Bool[Tensor, " samples"]]:
    """Reward, group and "was it played without help" of each sample, in the order of the experiences."""
    places_S = torch.tensor([place for experience in experiences for place in experience.index])
    return (
        torch.cat([experience.rewards for experience in experiences]),
        places_S // args.rollout.n_samples_per_prompt,
        torch.cat([experience.info[SOLO] for experience in experiences]) > 0,
    )


def _before_whitening(estimator: AdvantageEstimator) -> AdvantageEstimator:
    """The comparison within the group that an estimator starts with."""
    return "mean" if estimator == "mean_whitened" else estimator


def _to_tokens(
    shaped_S: Float[Tensor, " samples"],
    experiences: Sequence[ScoredExperience],
    penalties: Sequence[PerToken],
    args: SimpleNamespace,
) -> list[PerToken]:
    """The shaped reward, clipped as OpenRLHF clips it (--reward.clip_range), plus the penalties from the token on."""
    if args.reward.clip_range:
        low, high = args.reward.clip_range
        shaped_S = shaped_S.clamp(min=low, max=high)
    shaped = _split(shaped_S, experiences)
    return [shaped_B[:, None] + penalties_BL for shaped_B, penalties_BL in zip(shaped, penalties, strict=True)]


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


def _also_behind_the_last_action(
    advantages_BL: Float[Tensor, "batch length"], policy_BL: Shaped[Tensor, "batch length"]
) -> Float[Tensor, "batch length"]:
    """The advantages, with those behind a row's last POLICY token replaced by that token's.

    OpenRLHF's advantage is the sum of the rewards from a token on, and the reward lies on the last action. So it is right
    wherever an action follows, but not at a reply after which the episode was cut.
    """
    positions_L = torch.arange(policy_BL.shape[1], device=policy_BL.device)
    last_B = torch.where(policy_BL, positions_L, -1).amax(dim=1)
    places_BL = torch.minimum(positions_L[None, :], last_B[:, None]).clamp(min=0)
    return advantages_BL.gather(1, places_BL) * (last_B >= 0)[:, None]
