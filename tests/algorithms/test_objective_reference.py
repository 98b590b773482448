"""On policy-only batches the loss equals OpenRLHF's and TRL's, written out here from their definitions.

Read from OpenRLHF 0.11.2 (`openrlhf/models/loss.py`: `PolicyLoss`, `aggregate_loss`) and TRL 1.16.0
(`trl/trainer/grpo_trainer.py`: `_compute_loss`). Both work on padded (B, L) matrices, ours on packed tokens.

Dimensions: B sequences, L padded length, T packed tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from aipo_env.trajectory import Source
from algorithms.config import ObjectiveConfig
from algorithms.objective import PADDING, batch_normalizer, objective_loss

LENGTHS = (5, 9, 1, 7)
MAX_LENGTH = 12


@dataclass
class Padded:
    """A right-padded batch of responses."""

    logprobs_BL: Tensor
    old_BL: Tensor
    rollout_BL: Tensor
    reference_BL: Tensor
    advantages_B: Tensor
    mask_BL: Tensor


@pytest.fixture
def padded() -> Padded:
    generator = torch.Generator().manual_seed(3)

    def noise(scale: float) -> Tensor:
        return scale * torch.randn(len(LENGTHS), max(LENGTHS), generator=generator, dtype=torch.float64)

    logprobs_BL = -1.0 - noise(1.0).abs()
    return Padded(
        logprobs_BL=logprobs_BL,
        old_BL=logprobs_BL + noise(0.3),
        rollout_BL=logprobs_BL + noise(0.8),
        reference_BL=logprobs_BL + noise(0.5),
        advantages_B=torch.tensor([1.5, -0.5, 0.7, -1.2], dtype=torch.float64),
        mask_BL=(torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]).double(),
    )


def ours(padded: Padded, config: ObjectiveConfig, logprobs_BL: Tensor) -> Tensor:
    rows, columns = padded.mask_BL.shape
    sources_T = torch.where(padded.mask_BL.flatten() > 0, int(Source.POLICY), PADDING)
    sequence_ids_T = torch.arange(rows).repeat_interleave(columns)
    return objective_loss(
        logprobs_BL.flatten(),
        padded.old_BL.flatten(),
        padded.advantages_B.repeat_interleave(columns),
        sources_T,
        padded.rollout_BL.flatten(),
        sequence_ids_T,
        config,
        normalizer=batch_normalizer(sources_T, sequence_ids_T),
        reference_logprobs_T=padded.reference_BL.flatten(),
    ).loss


def assert_same(padded: Padded, config: ObjectiveConfig, reference: Callable[[Tensor], Tensor]) -> None:
    """Same value and same gradient."""
    mine = padded.logprobs_BL.clone().requires_grad_()
    theirs = padded.logprobs_BL.clone().requires_grad_()
    loss, expected = ours(padded, config, mine), reference(theirs)
    torch.testing.assert_close(loss, expected, rtol=1e-7, atol=1e-9)  # OpenRLHF adds 1e-8 to a divisor
    (gradient,) = torch.autograd.grad(loss, mine)
    (expected_gradient,) = torch.autograd.grad(expected, theirs)
    assert expected_gradient.any()
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-7, atol=1e-9)


def openrlhf_tokens(padded: Padded, logprobs_BL: Tensor, low: float, high: float) -> Tensor:
    """`policy_loss_type="ppo"`: one loss per token."""
    ratio = (logprobs_BL - padded.old_BL).clamp(-20, 20).exp()
    advantages = padded.advantages_B[:, None]
    return -torch.min(ratio * advantages, ratio.clamp(1 - low, 1 + high) * advantages)


@pytest.mark.parametrize(("low", "high"), [(0.2, 0.2), (0.2, 0.28)])
@pytest.mark.parametrize("algorithm", ["rloo", "reinforce_baseline", "dapo", "group_mean"])
def test_openrlhf_token_level_loss(padded, algorithm, low, high):
    def reference(logprobs_BL: Tensor) -> Tensor:
        return (openrlhf_tokens(padded, logprobs_BL, low, high) * padded.mask_BL).sum() / padded.mask_BL.sum()

    assert_same(padded, ObjectiveConfig(algorithm=algorithm, clip_low=low, clip_high=high), reference)


def test_openrlhf_sample_level_loss(padded):
    def reference(logprobs_BL: Tensor) -> Tensor:
        counts = padded.mask_BL.sum(-1)
        loss = (openrlhf_tokens(padded, logprobs_BL, 0.2, 0.2) * padded.mask_BL).sum(-1) / (counts + 1e-8)
        return loss.sum() / len(LENGTHS)

    assert_same(padded, ObjectiveConfig(algorithm="grpo"), reference)


def test_openrlhf_gspo(padded):
    def reference(logprobs_BL: Tensor) -> Tensor:
        mask, counts = padded.mask_BL, padded.mask_BL.sum(-1)
        log_ratio = ((logprobs_BL - padded.old_BL) * mask).sum(-1) / counts
        ratio = log_ratio.exp()[:, None] * mask
        advantages = padded.advantages_B[:, None]
        loss = -torch.min(ratio * advantages, ratio.clamp(0.9, 1.1) * advantages)
        return ((loss * mask).sum(-1) / (counts + 1e-8)).sum() / len(LENGTHS)

    assert_same(padded, ObjectiveConfig(algorithm="gspo", clip_low=0.1, clip_high=0.1), reference)


def test_openrlhf_truncated_importance_sampling(padded):
    """`is_correction_level="token"`, `is_correction_mode="clip"`."""

    def reference(logprobs_BL: Tensor) -> Tensor:
        correction = (padded.old_BL - padded.rollout_BL).exp().clamp(0.5, 2.0)
        loss = correction * openrlhf_tokens(padded, logprobs_BL, 0.2, 0.28)
        return (loss * padded.mask_BL).sum() / padded.mask_BL.sum()

    assert_same(padded, ObjectiveConfig(rollout_clip=(0.5, 2.0)), reference)


def trl_tokens(
    padded: Padded,
    logprobs_BL: Tensor,
    low: float,
    high: float,
    *,
    level: str = "token",
    cispo: bool = False,
    beta: float = 0.0,
) -> Tensor:
    """One loss per token, (B, L), or (B, 1) at the level of sequences."""
    mask, advantages = padded.mask_BL, padded.advantages_B[:, None]
    log_ratio = logprobs_BL - padded.old_BL
    if level == "sequence":
        log_ratio = ((log_ratio * mask).sum(-1) / mask.sum(-1).clamp(min=1.0))[:, None]
    ratio = log_ratio.exp()
    if cispo:
        loss = -ratio.clamp(max=high).detach() * advantages * logprobs_BL
    else:
        loss = -torch.min(ratio * advantages, ratio.clamp(1 - low, 1 + high) * advantages)
    if beta:
        difference = padded.reference_BL - logprobs_BL
        loss = loss + beta * (difference.exp() - difference - 1)
    return loss


@pytest.mark.parametrize("beta", [0.0, 0.04])
def test_trl_grpo(padded, beta):
    def reference(logprobs_BL: Tensor) -> Tensor:
        loss = trl_tokens(padded, logprobs_BL, 0.2, 0.2, beta=beta)
        return ((loss * padded.mask_BL).sum(-1) / padded.mask_BL.sum(-1).clamp(min=1.0)).mean()

    assert_same(padded, ObjectiveConfig(algorithm="grpo", kl_coef=beta), reference)


@pytest.mark.parametrize("beta", [0.0, 0.04])
def test_trl_dapo(padded, beta):
    def reference(logprobs_BL: Tensor) -> Tensor:
        loss = trl_tokens(padded, logprobs_BL, 0.2, 0.28, beta=beta)
        num_items_in_batch = padded.mask_BL.sum().clamp(min=1.0)
        return (loss * padded.mask_BL).sum() / num_items_in_batch

    assert_same(padded, ObjectiveConfig(algorithm="dapo", kl_coef=beta), reference)


def test_trl_dr_grpo(padded):
    def reference(logprobs_BL: Tensor) -> Tensor:
        loss = trl_tokens(padded, logprobs_BL, 0.2, 0.2)
        return (loss * padded.mask_BL).sum() / (loss.size(0) * MAX_LENGTH)

    assert_same(padded, ObjectiveConfig(algorithm="dr_grpo", constant_length=MAX_LENGTH), reference)


@pytest.mark.parametrize("loss_type", ["grpo", "dapo"])
def test_trl_sequence_level_ratio(padded, loss_type):
    def reference(logprobs_BL: Tensor) -> Tensor:
        masked = trl_tokens(padded, logprobs_BL, 0.05, 0.1, level="sequence") * padded.mask_BL
        if loss_type == "dapo":
            return masked.sum() / padded.mask_BL.sum().clamp(min=1.0)
        return (masked.sum(-1) / padded.mask_BL.sum(-1).clamp(min=1.0)).mean()

    aggregation = "token_mean" if loss_type == "dapo" else None
    config = ObjectiveConfig(algorithm="gspo", clip_low=0.05, clip_high=0.1, aggregation=aggregation)
    assert_same(padded, config, reference)


def test_trl_cispo(padded):
    """TRL's epsilon_high is the cap itself; ours, as everywhere, is the distance from 1."""
    epsilon_high = 1.1

    def reference(logprobs_BL: Tensor) -> Tensor:
        loss = trl_tokens(padded, logprobs_BL, 0.0, epsilon_high, cispo=True)
        return (loss * padded.mask_BL).sum() / padded.mask_BL.sum().clamp(min=1.0)

    assert_same(padded, ObjectiveConfig(algorithm="cispo", clip_high=epsilon_high - 1), reference)
