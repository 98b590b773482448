"""The AGENT term by itself, for trainers that keep their own loss on POLICY tokens.

Dimensions: B sequences, L their longest number of tokens, A the AGENT tokens among them.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from aipo_env.trajectory import Source
from algorithms.config import ObjectiveConfig
from algorithms.objective import Normalizer, objective_loss

_UNIT = Normalizer(num_policy_tokens=1, num_agent_tokens=1, num_sequences=1)


def agent_term(
    logprobs_BL: Float[Tensor, "batch length"],
    old_logprobs_BL: Float[Tensor, "batch length"],
    advantages_BL: Float[Tensor, "batch length"],
    mu_logprobs_BL: Float[Tensor, "batch length"],
    agent_BL: Bool[Tensor, "batch length"],
    config: ObjectiveConfig,
) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
    """The AGENT term's loss before its division by N_A, which the caller knows.

    Args:
        logprobs_BL: log pi under the current policy.
        old_logprobs_BL: the same at the start of the inner updates.
        advantages_BL: those of AGENT tokens.
        mu_logprobs_BL: log mu, 0.0 where unknown.
        agent_BL: where the AGENT tokens are; nothing else is read.
        config: the AGENT fields of the objective.

    Returns:
        The loss, and the sums of `objective_loss` from which the AGENT metrics are made.
    """
    logprobs_A = logprobs_BL[agent_BL]
    sources_A = torch.full_like(logprobs_A, int(Source.AGENT), dtype=torch.long)
    output = objective_loss(
        logprobs_A,
        old_logprobs_BL[agent_BL],
        advantages_BL[agent_BL],
        sources_A,
        mu_logprobs_BL[agent_BL],
        torch.zeros_like(sources_A),
        config,
        normalizer=_UNIT,
    )
    return output.loss, {n: x for n, x in output.sums.items() if n.startswith("agent/") or n == "tokens/agent"}
