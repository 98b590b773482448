"""Our objective as a loss of rllm (0.3.0.pre), which finds it by its entry point: `algorithm.loss_fn: aipo`.

rllm says which tokens the policy sampled and which it did not, and has one advantage for each trajectory. What of our
objective cannot pass through that: docs/guides/other_trainers.md. Without rllm the module is importable; nothing registers.

Tensors are (B, L) or (L,): L tokens of each of B sequences, or of one. Dimension T: all of them in a row.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from aipo_env import Source
from aipo_env.errors import ConfigurationError
from algorithms.config import ObjectiveConfig
from algorithms.objective import PADDING, Normalizer, objective_loss

OPTIONS = ("agent_loss", "agent_weight", "c_min", "c_max", "delta", "luffy_gamma")
"""Fields of `ObjectiveConfig` that `algorithm.loss_params` may have."""

_UNIT = Normalizer(num_policy_tokens=1, num_agent_tokens=1, num_sequences=1)


def aipo(ctx: Any) -> tuple[Tensor, dict[str, float]]:
    """The loss -J, and its metrics; what rllm calls.

    Args:
        ctx: the `rllm.LossContext` of a micro-batch (verl) or of one sequence (tinker, fireworks).

    Raises:
        ConfigurationError: a parameter that nothing reads, or a KL penalty where rllm has no reference model.
    """
    policy = ctx.action_mask > 0
    # Where rllm trains through a service, its observations begin with the prompt.
    agent = (ctx.obs_mask > 0) & ~policy & (policy.cumsum(-1) > 0)
    sources = torch.full_like(policy, PADDING, dtype=torch.long)
    sources = sources.masked_fill(policy, int(Source.POLICY)).masked_fill(agent, int(Source.AGENT))
    # rllm has 0 at what the policy did not sample: as the advantage, and as the sampler's log-probability, which
    # stands for the old policy's unless that was computed. It would read as pi_old = 1 and close the trust region.
    # Replies are never pushed away; the outcome itself, which they have elsewhere, does not come here.
    replies = ctx.seq_reduce(ctx.advantages, ctx.action_mask).clamp(min=0)
    advantages = torch.where(agent, replies, ctx.advantages)
    old = torch.where(agent & (ctx.logp_old == 0), ctx.logp_curr.detach(), ctx.logp_old)
    first = policy[..., :1]
    sequences = torch.arange(first.numel(), device=policy.device).view_as(first).expand_as(policy)
    output = objective_loss(
        ctx.logp_curr.flatten(),
        old.flatten(),
        advantages.flatten(),
        sources.flatten(),
        torch.zeros_like(old).flatten(),
        sequences.flatten(),
        _objective(ctx.params),
        normalizer=_UNIT,
        reference_logprobs_T=None if ctx.logp_ref is None else ctx.logp_ref.flatten(),
    )
    # N: spread over the policy's tokens, the sum is divided by their number in the optimizer step, on every backend.
    share = policy.to(output.loss.dtype) / policy.sum().clamp(min=1)
    loss = ctx.aggregate(output.loss * share, ctx.action_mask, mode="token-mean")
    return loss, {f"aipo/{name}": x for name, x in output.metrics.items() if not name.startswith("loss/")}


def _objective(params: Mapping[str, Any]) -> ObjectiveConfig:
    own = {name: value for name, value in params.items() if name not in _OF_RLLM}
    if unread := sorted(own.keys() - set(OPTIONS)):
        raise ConfigurationError(
            f"algorithm.loss_params of the loss 'aipo' may have {', '.join(OPTIONS)}, but it has {', '.join(unread)}; "
            "POLICY tokens obey algorithm.eps_clip, eps_clip_high and kl_beta"
        )
    low, high = params.get("eps_clip", 0.2), params.get("eps_clip_high")
    return ObjectiveConfig(
        **own,
        clip_low=float(low),
        clip_high=float(low if high is None else high),
        kl_coef=float(params.get("kl_beta", 0.0)),
    )


_OF_RLLM = frozenset({"eps_clip", "eps_clip_high", "kl_beta", "clip_ratio_c"})  # it hands them to every loss

if importlib.util.find_spec("rllm") is not None:
    from rllm import register_loss

    register_loss("aipo", agg_mode="token-mean")(aipo)
